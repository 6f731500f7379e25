"""`select`: one call from evidence by name to rows, whatever the arrays are."""

import numpy as np
import pytest
import torch

import labelwise.strategies.registry as registry
from labelwise.errors import InputError
from labelwise.kernels import Generator, Progress
from labelwise.strategies import Picks, Strategy, get_strategy, list_strategies, select, strategy


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def probs(rng):
    return rng.dirichlet(np.ones(4), size=60)


def test_picks_are_rows_with_scores_reasons_and_seconds(probs):
    picks = select("margin", 5, probs=probs, seed=7)
    ordered = np.sort(probs, 1)
    score = 1 - (ordered[:, -1] - ordered[:, -2])
    assert picks.rows.dtype == np.int64
    assert picks.rows.tolist() == np.argsort(-score)[:5].tolist()
    np.testing.assert_allclose(picks.scores, np.sort(score)[::-1][:5])
    assert picks.why[2] == {
        "rank": 2,
        "row": picks.rows[2],
        "score": picks.scores[2],
        "strategy": "margin",
        "options": {},
        "seed": 7,
        "notes": [],
    }
    assert picks.seconds > 0


@pytest.mark.parametrize("form", ["list", "float32", "torch", "memmap", "readonly", "path", "text"])
def test_evidence_may_be_any_kind_of_array(probs, tmp_path, form):
    path = tmp_path / "probs.npy"
    np.save(path, probs)
    readonly = probs.copy()
    readonly.flags.writeable = False
    forms = {
        "list": probs.tolist(),
        "float32": probs.astype(np.float32),
        "torch": torch.from_numpy(probs),
        "memmap": np.load(path, mmap_mode="r"),
        "readonly": readonly,
        "path": path,
        "text": str(path),
    }
    got = select("margin", 7, probs=forms[form])
    assert got.rows.tolist() == select("margin", 7, probs=probs).rows.tolist()


def test_labeled_rows_are_never_picked_even_as_candidates(probs):
    best = select("margin", 10, probs=probs).rows
    picks = select("margin", 10, probs=probs, labeled=best[:5], candidates=range(60))
    assert not set(best[:5]) & set(picks.rows)
    assert picks.rows[:5].tolist() == best[5:].tolist()


def test_only_candidates_are_picked_in_any_order_given(probs):
    some = np.array([50, 3, 20, 41, 7])
    picks = select("random", 3, candidates=some, seed=1)
    assert set(picks.rows) <= set(some)
    assert select("random", 3, candidates=some[::-1], seed=1).rows.tolist() == picks.rows.tolist()


def test_random_needs_only_the_size_of_the_pool(probs):
    assert len(select("random", 3, ids=["a", "b", "c", "d"])) == 3
    assert max(select("random", 4, candidates=range(4))) == 3
    assert len(select("random", 60, embeddings=probs)) == 60
    with pytest.raises(InputError, match="cannot tell how many rows the pool has"):
        select("random", 3)


def test_a_function_may_stand_where_a_name_does(probs):
    def lowest_first_class(probs, *, n, candidates):
        return probs.tensor()[candidates, 0].argsort()[:n]

    picks = select(lowest_first_class, 4, probs=probs)
    assert picks.rows.tolist() == np.argsort(probs[:, 0])[:4].tolist()
    assert picks.scores is None
    assert picks.strategy == "lowest_first_class"


def test_a_function_gets_what_it_names_and_no_more(probs):
    seen = {}

    def mine(probs, mystery, labeled=None, draws=None, *, n, generator, memory, progress, knob=1):
        seen.update(locals())
        return range(n)

    select(
        mine,
        2,
        probs=probs,
        mystery="m",
        labeled=[59],
        memory="2KB",
        progress=print,
        knob=5,
        seed=4,
    )
    assert seen["mystery"] == "m"
    assert seen["labeled"].tolist() == [59]
    assert seen["draws"] is None
    assert (seen["n"], seen["memory"], seen["knob"]) == (2, 2000, 5)
    assert isinstance(seen["progress"], Progress)
    assert isinstance(seen["generator"], Generator)


def test_no_gradient_is_recorded():
    def with_weights(weights, *, n):
        assert not (weights * 2).requires_grad
        return range(n)

    select(with_weights, 2, ids=range(3), weights=torch.ones(3, requires_grad=True))


def test_an_own_strategy_may_use_pickers(probs):
    from labelwise.strategies.pickers import pick

    def first_class(probs, *, n, candidates, generator, picker="top"):
        scores = probs.tensor()[:, 0]
        return pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)

    top = select(first_class, 5, probs=probs)
    assert top.rows.tolist() == np.argsort(-probs[:, 0])[:5].tolist()
    drawn = select(first_class, 5, probs=probs, picker="power", beta=0.1)
    assert drawn.rows.tolist() != top.rows.tolist()
    assert drawn.options == {"picker": "power", "beta": 0.1}


def test_lists_tensors_and_picks_may_be_returned(probs):
    for answer in ([3, 1], torch.tensor([3, 1]), np.array([3, 1], np.int32), Picks([3, 1])):
        assert select(lambda *, n, a=answer: a, 2, ids=range(5)).rows.tolist() == [3, 1]


def test_what_picks_say_is_kept():
    def mine(*, n):
        return Picks([2, 0], weights=[1.0, 3.0], pseudo_rows=[1], pseudo_labels=[5], notes=("so",))

    picks = select(mine, 2, ids=["a", "b", "c"])
    assert picks.weights.tolist() == [1, 3]
    assert picks.pseudo_labels.tolist() == [5]
    assert picks.pseudo_ids.tolist() == ["b"]
    assert picks.ids.tolist() == ["c", "a"]
    assert picks.why[0]["id"] == "c"
    assert picks.notes == ("so",)


@pytest.mark.parametrize(
    ("pseudo", "words"),
    [
        ([0], "pseudo-label to row 0, which is no candidate"),
        ([4], "pseudo-label to row 4, which is no candidate"),
        ([3, 3], "pseudo-label to row 3, more than once"),
    ],
)
def test_pseudo_labels_are_for_candidates_only(pseudo, words):
    def mine(*, n):
        return Picks([2], pseudo_rows=pseudo, pseudo_labels=[0] * len(pseudo))

    with pytest.raises(InputError, match=words):
        select(mine, 1, ids=range(5), labeled=[0], candidates=[0, 1, 2, 3])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([1], "returned 1 rows, but n is 2"),
        ([1, 1], "row 1 more than once"),
        ([1, 4], "returned row 4, which is no candidate"),
        ([1, 77], "row 77, which is no candidate"),
        ([1, -1], "row -1, which is no candidate"),
        ([1.0, 2.0], "whole numbers"),
        (None, "returned None"),
    ],
)
def test_what_a_strategy_returns_is_checked(answer, words):
    def careless(*, n):
        return answer

    with pytest.raises(InputError, match=words) as caught:
        select(careless, 2, ids=range(6), labeled=[4])
    assert "careless" in str(caught.value) or answer == [1.0, 2.0]


def test_memory_is_bytes_or_text(probs):
    def tell(*, n, memory):
        raise InputError(repr(memory))

    for memory, size in [(5, 5), ("4GB", 4 * 10**9), ("1.5 gib", 3 << 29), (None, None)]:
        with pytest.raises(InputError, match=f"^{size}$"):
            select(tell, 1, ids=range(3), memory=memory)


def test_evidence_may_come_from_providers(probs):
    def logits():
        return np.log(probs)

    assert select("margin", 4, providers=[logits]).rows.tolist() == (
        select("margin", 4, probs=probs).rows.tolist()
    )


def test_device_moves_arrays(probs):
    def where(probs, *, n):
        raise InputError(str(probs.device))

    with pytest.raises(InputError, match="meta"):
        select(where, 1, probs=probs, device="meta")


def test_a_plain_strategy_can_be_called_by_hand(probs):
    from labelwise.strategies.margin import margin

    chosen = margin(probs, n=2, candidates=torch.arange(60), generator=Generator(0))
    assert chosen.rows.tolist() == select("margin", 2, probs=probs).rows.tolist()


def test_the_registry_finds_and_lists():
    names = [found.name for found in list_strategies()]
    assert names == sorted(names)
    assert {"margin", "badge"} <= set(names)
    badge = get_strategy("badge")
    assert badge.needs == ("probs", "embeddings")
    assert {"first": "largest", "bias": False}.items() <= badge.options.items()
    assert get_strategy("k_center").optional == ("labeled",)
    assert all(found.cite and found.doc for found in list_strategies() if _ours(found))


def _ours(found):
    return str(found.function.__module__).startswith("labelwise.")


def test_registering_makes_a_name_and_a_second_owner_is_refused(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    get_strategy("margin")

    def by_row(*, n, candidates):
        return candidates[:n]

    made = strategy(cite="here")(by_row)
    assert get_strategy("by_row") is made
    assert made(n=2, candidates=[5, 6, 7]) == [5, 6]
    assert strategy(cite="again")(by_row).cite == "again"  # a notebook cell run twice

    def margin(*, n):
        return range(n)

    with pytest.raises(InputError, match=r"'margin' exists already, in labelwise\.strategies"):
        strategy(cite="me")(margin)


class _Entry:
    def __init__(self, name, load, value="pkg:thing"):
        self.name, self.load, self.value = name, load, value


def test_plugins_are_loaded_when_asked_for(monkeypatch):
    def plugged(*, n, candidates):
        return candidates[-n:]

    def broken():
        raise ImportError("no module")

    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    entries = [_Entry("plugged", lambda: plugged), _Entry("broken", broken)]
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: entries)
    assert select("plugged", 2, ids=range(9)).rows.tolist() == [7, 8]
    with pytest.raises(InputError, match="did you mean plugged"):
        get_strategy("pluged")
    with pytest.raises(InputError, match=r"'broken' of pkg:thing cannot be loaded: no module"):
        get_strategy("broken")
    with pytest.raises(InputError, match="cannot be loaded"):
        list_strategies()


def test_a_plugin_is_named_as_it_is_offered(monkeypatch):
    entries = [_Entry("other", lambda: lambda *, n: None)]
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: entries)
    with pytest.raises(InputError, match="offered as strategy 'other' but is named '<lambda>'"):
        get_strategy("other")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda *a: None, "no names to read"),
        (lambda *, n, **k: None, "no names to read"),
        (lambda *, n, knob: None, "'knob' needs a default"),
        (lambda probs, knob=3, *, n: None, "'knob' is evidence and may only default to None"),
        (lambda oracle_labels, *, n: None, "never sees the pool's labels"),
        (3, "expected a function"),
    ],
)
def test_a_signature_that_cannot_be_read_is_refused(function, words):
    with pytest.raises(InputError, match=words):
        Strategy(function)
