"""What every strategy must do, whatever it is. It runs over all that the registry finds."""

import importlib
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from perf.strategies import evidence, facts, page_strategies

import labelwise
from labelwise.errors import InputError
from labelwise.strategies import call_needs, get_strategy, list_strategies, select

STRATEGIES = [
    found.name
    for found in list_strategies()
    if str(found.function.__module__).startswith("labelwise.strategies.")
]
LATER = [name for name in STRATEGIES if "round" in get_strategy(name).optional]
SIZE, CLASSES, WIDTH, DRAWS = 120, 4, 6, 5

ROUND: dict[str, int] = {}
"""Which round strategies are asked in, as evidence; nothing is said where it is empty."""

NEEDS_TWO_CLASSES = {
    "margin",
    "base",
    "mase",
    "bait",
    "albl",
    "lsa",
    "tailor",
    "auto",
    "falcun",
    "activelab",
    "cluster_margin",
    "direct",
    "galaxy",
    "galaxy_sequential",
    "u_herding",
    "bim",
    "deep_fool",
}
"""Strategies defined by two classes: with a single one they refuse."""

NEEDS_LABELED: set[str] = set()
"""Strategies defined by labeled rows: with none they refuse. None of ours is."""


def make_pool(size=SIZE, classes=CLASSES, seed=0):
    """Everything a strategy may ask for, of a pool with clusters, and nothing of its labels."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, size)
    h = rng.normal(size=(size, WIDTH)) + 2.5 * rng.normal(size=(classes, WIDTH))[truth]
    w, b = rng.normal(size=(classes, WIDTH)), rng.normal(size=classes)
    logits = h @ w.T + b
    draws = np.stack([_softmax(logits + rng.normal(size=logits.shape)) for _ in range(DRAWS)])
    pool = {"logits": logits, "embeddings": h, "draws": draws, "head_weight": w, "head_bias": b}
    pool["costs"] = rng.uniform(1, 3, size)
    pool["probs"] = _softmax(logits)
    pool["inputs"] = rng.normal(size=(size, 5))
    pool["activations"] = _activations(pool["inputs"])
    pool["pretext_loss"] = rng.exponential(size=size)
    pool["previous_probs"] = _softmax(logits + rng.normal(size=logits.shape))
    pool["predicted_loss"], pool["critic"] = rng.normal(size=size), rng.normal(size=size)
    pool["latent_discriminator"] = rng.uniform(size=size)
    pool["distinctiveness"] = rng.uniform(size=size)
    return {name: array.astype(np.float32) for name, array in pool.items()}, truth


def _activations(inputs):
    first, second = make_network()["hidden_weights"]
    hidden = np.maximum(inputs @ first.T, 0)
    return np.concatenate([hidden, np.maximum(hidden @ second.T, 0)], 1)


def make_network(classes=CLASSES):
    """A small perceptron as evidence that is no array: the model, and its hidden layers."""
    rng = np.random.default_rng(7)
    shapes = [(7, 5), (WIDTH, 7), (classes, WIDTH)]
    first, second, head = (rng.normal(size=shape).astype(np.float32) for shape in shapes)

    def model(inputs):
        hidden = torch.relu(inputs @ torch.from_numpy(first).T)
        return torch.relu(hidden @ torch.from_numpy(second).T) @ torch.from_numpy(head).T

    return {"model": model, "hidden_weights": [first, second]}


def _softmax(logits):
    return torch.softmax(torch.from_numpy(np.asarray(logits, np.float64)), 1).numpy()


def ask(name, n, pool, truth=None, **more):
    """`select`, with labels of labeled rows, and the truth for the one kind that may have it."""
    if more.get("labeled") is not None and "labels" not in more:
        more["labels"] = _labels(pool, more["labeled"])
    if get_strategy(name).simulation_only:
        truth = np.arange(len(pool["embeddings"])) % 3 if truth is None else truth

        def oracle_labels():
            return truth

        more["providers"] = [oracle_labels]
    return select(name, n, **pool, **make_network(pool["probs"].shape[1]), **ROUND, **more)


def _labels(pool, rows):
    """Some class for each row, which follows the item whatever its row."""
    h, classes = pool["embeddings"], pool["probs"].shape[1]
    h = h.detach().numpy() if isinstance(h, torch.Tensor) else np.asarray(h)
    return h[np.asarray(rows)].argmax(1) % classes


@pytest.fixture(scope="module")
def pool():
    return make_pool()[0]


@pytest.fixture(scope="module")
def labeled():
    return np.random.default_rng(5).permutation(SIZE)[:15]


def test_every_strategy_is_found():
    files = Path(labelwise.strategies.__file__).parent.glob("*.py")
    declared = sum(len(re.findall(r"^@strategy\(", f.read_text(), re.MULTILINE)) for f in files)
    assert len(STRATEGIES) == declared == len(set(STRATEGIES))
    assert declared >= 19


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_says_what_it_costs_and_when_it_fails(name):
    found = get_strategy(name)
    assert found.costs
    assert found.fails
    assert "\n" not in found.costs + found.fails


class Battery:
    """What every strategy must do."""

    @pytest.mark.parametrize("n", [1, 7, 40])
    def test_n_distinct_candidates_none_labeled(self, name, n, pool, labeled):
        picks = ask(name, n, pool, labeled=labeled, labels=labeled % CLASSES)
        assert picks.rows.shape == (n,)
        assert len(set(picks)) == n
        assert set(picks) <= set(range(SIZE)) - set(labeled)

    def test_only_candidates(self, name, pool, labeled):
        candidates = np.arange(10, 60)
        picks = ask(name, 20, pool, labeled=labeled, candidates=candidates)
        assert set(picks) <= set(candidates) - set(labeled)
        assert len(set(picks)) == 20

    def test_scores_are_numbers(self, name, pool, labeled):
        picks = ask(name, 9, pool, labeled=labeled)
        assert picks.scores is None or (
            picks.scores.shape == (9,) and not np.isnan(picks.scores).any()
        )
        assert picks.weights is None or (picks.weights > 0).all()

    def test_same_seed_same_picks(self, name, pool, labeled):
        one, two = (ask(name, 12, pool, labeled=labeled, seed=3) for _ in range(2))
        assert one.rows.tolist() == two.rows.tolist()
        assert one.scores is None or one.scores.tolist() == two.scores.tolist()

    def test_another_order_of_rows_the_same_items(self, name, pool, labeled):
        ids = np.array([f"item {i}" for i in range(SIZE)])
        order = np.random.default_rng(1).permutation(SIZE)
        truth = np.arange(SIZE) % 3
        moved = {k: v if k.startswith("head") else _reordered(k, v, order) for k, v in pool.items()}
        one = ask(name, 12, pool, truth, ids=ids, labeled=labeled)
        two = ask(name, 12, moved, truth[order], ids=ids[order], labeled=np.argsort(order)[labeled])
        assert one.ids.tolist() == two.ids.tolist()

    def test_another_order_of_candidates_and_labels_the_same_picks(self, name, pool, labeled):
        candidates = np.random.default_rng(2).permutation(SIZE)
        one = ask(name, 10, pool, labeled=labeled)
        two = ask(name, 10, pool, labeled=labeled[::-1], candidates=candidates)
        assert one.rows.tolist() == two.rows.tolist()

    def test_inputs_and_global_generators_are_untouched(self, name, labeled):
        pool = make_pool()[0]
        before = {k: v.copy() for k, v in pool.items()}
        for array in pool.values():
            array.flags.writeable = False
        rows = labeled.copy()
        states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        ask(name, 10, pool, labeled=rows)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
        assert random.getstate() == states[2]
        assert rows.tolist() == labeled.tolist()
        for key, array in pool.items():
            np.testing.assert_array_equal(array, before[key])

    def test_torch_tensors_are_untouched_and_carry_no_gradient(self, name, pool, labeled):
        tensors = {k: torch.tensor(v, requires_grad=True) for k, v in pool.items()}
        picks = ask(name, 8, tensors, labeled=labeled)
        assert picks.rows.tolist() == ask(name, 8, pool, labeled=labeled).rows.tolist()
        for key, tensor in tensors.items():
            assert torch.equal(tensor.detach(), torch.from_numpy(pool[key]))

    def test_all_that_is_left(self, name, pool, labeled):
        picks = ask(name, SIZE - 15, pool, labeled=labeled)
        assert sorted(picks) == sorted(set(range(SIZE)) - set(labeled))

    def test_float16(self, name, pool, labeled):
        half = {k: v.astype(np.float16) for k, v in pool.items()}
        wide = {k: v.astype(np.float64) for k, v in half.items()}
        picks = ask(name, 10, half, labeled=labeled)
        assert len(set(picks)) == 10
        assert picks.rows.tolist() == ask(name, 10, wide, labeled=labeled).rows.tolist()

    def test_one_class_in_the_pool(self, name):
        pool = make_pool(classes=1)[0]
        if name in NEEDS_TWO_CLASSES:
            with pytest.raises(InputError, match="column"):
                ask(name, 10, pool)
        else:
            assert len(set(ask(name, 10, pool, labeled=[0, 1], labels=[0, 0]))) == 10

    def test_one_class_predicted_for_all(self, name, pool):
        sure = dict(pool)
        sure["logits"] = np.tile(np.float32([90.0, 0.0, 0.0, 0.0]), (SIZE, 1))
        sure["probs"] = np.tile(np.float32([1.0, 0.0, 0.0, 0.0]), (SIZE, 1))
        sure["draws"] = np.stack([sure["probs"]] * DRAWS)
        assert len(set(ask(name, 30, sure, truth=np.zeros(SIZE, int)))) == 30

    def test_nothing_labeled(self, name, pool):
        if name in NEEDS_LABELED:
            with pytest.raises(InputError, match="labeled"):
                ask(name, 10, pool)
            return
        picks = ask(name, 10, pool)
        assert len(set(picks)) == 10
        assert ask(name, 10, pool, labeled=[], labels=[]).rows.tolist() == picks.rows.tolist()

    def test_rows_that_all_coincide(self, name, pool):
        same = {k: v if k.startswith("head") else _first_row(k, v) for k, v in pool.items()}
        picks = ask(name, 30, same, labeled=[3, 4])
        assert len(set(picks)) == 30
        assert not {3, 4} & set(picks)

    def test_a_pool_of_one_row(self, name):
        pool = make_pool(size=1)[0]
        assert ask(name, 1, pool).rows.tolist() == [0]

    def test_blocks_do_not_matter(self, name, pool, labeled, monkeypatch):
        whole = ask(name, 20, pool, labeled=labeled)
        monkeypatch.setattr("labelwise.kernels.rows.BLOCK_BYTES", 4 * 7 * WIDTH)
        parts = ask(name, 20, pool, labeled=labeled)
        assert parts.rows.tolist() == whole.rows.tolist()

    def test_files_on_disk_do_not_matter(self, name, pool, labeled, tmp_path):
        for key, array in pool.items():
            np.save(tmp_path / f"{key}.npy", array)
        files = {key: np.load(tmp_path / f"{key}.npy", mmap_mode="r") for key in pool}
        whole = ask(name, 20, pool, labeled=labeled)
        assert ask(name, 20, files, labeled=labeled).rows.tolist() == whole.rows.tolist()

    def test_limits_are_kept(self, name, pool, labeled):
        picks = ask(name, 8, pool, labeled=labeled, quota=2, duplicates=0.999, exclude=[0, 1])
        assert len(set(picks)) == 8
        assert not set(picks) & {0, 1, *labeled}
        assert np.bincount(pool["probs"][picks.rows].argmax(1)).max() == 2

    def test_labels_of_the_pool_are_out_of_reach(self, name, pool, labeled):
        """The true labels lie behind a trap, and those of labeled rows say nothing of others."""
        if get_strategy(name).simulation_only:
            with pytest.raises(InputError, match="only a simulation"):
                select(name, 10, **pool)
            return

        def oracle_labels():
            raise AssertionError(f"{name} asked for the labels of the pool")

        truth = np.random.default_rng(0).integers(0, CLASSES, SIZE)
        call = {**pool, **make_network(), **ROUND}
        call |= {"labeled": labeled, "providers": [oracle_labels]}
        picks = select(name, 10, **call, labels=truth[labeled])
        poisoned = np.full(SIZE, 10**9)
        poisoned[labeled] = truth[labeled]
        again = select(name, 10, **call, labels=poisoned[labeled])
        assert again.rows.tolist() == picks.rows.tolist()
        found = get_strategy(name)
        assert "oracle_labels" not in (*found.needs, *found.optional)


@pytest.mark.parametrize("name", STRATEGIES)
class TestEveryStrategy(Battery):
    pass


@pytest.mark.parametrize("name", LATER)
class TestInALaterRound(Battery):
    """Strategies that look at the round do other things than in the first."""

    @pytest.fixture(autouse=True)
    def fourth_of_five(self, monkeypatch):
        monkeypatch.setitem(ROUND, "round", 3)
        monkeypatch.setitem(ROUND, "rounds", 5)


def test_strategies_of_rounds_are_found():
    assert {"tod", "adma", "pt4al", "ceal", "albl"} <= set(LATER)


def _reordered(key, array, order):
    return array[:, order] if key == "draws" else array[order]


def _first_row(key, array):
    first = array[:, :1] if key == "draws" else array[:1]
    return np.repeat(first, SIZE, axis=1 if key == "draws" else 0)


@pytest.mark.parametrize("name", ["random", "bald", "badge", "kmeans", "balanced_random"])
def test_another_seed_other_picks(name, pool):
    more = {"picker": "power"} if name == "bald" else {}
    picks = {tuple(ask(name, 12, pool, seed=seed, **more).rows) for seed in range(4)}
    assert len(picks) > 1


BELOW_ZERO = {"mase", "cal_lowest", "bim", "deep_fool", "lpl", "waal"}
"""Scores that may be below zero, which two pickers refuse."""


@pytest.mark.parametrize(
    "picker", ["top", "power", "softmax", "soft_rank", "per_class", "per_cluster", "per_cost"]
)
@pytest.mark.parametrize("name", [s for s in STRATEGIES if "picker" in get_strategy(s).options])
def test_every_score_with_every_picker(name, picker, pool, labeled):
    if name in BELOW_ZERO and picker in ("power", "per_cost"):
        with pytest.raises(InputError, match=f"{picker} picker needs scores >= 0"):
            ask(name, 10, pool, picker=picker)
        return
    picks = ask(name, 30, pool, labeled=labeled, picker=picker)
    assert len(set(picks)) == 30
    assert not set(labeled) & set(picks)
    top = ask(name, SIZE - 15, pool, labeled=labeled)
    score = dict(zip(top.rows.tolist(), top.scores.tolist(), strict=True))
    assert picks.scores.tolist() == [score[row] for row in picks]


SHORTLISTS = {"drop_query"}
"""Strategies whose scores only make a shortlist, from which something else picks."""


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_score_strategy_takes_a_picker(name):
    found = get_strategy(name)
    module = importlib.import_module(found.function.__module__)
    if hasattr(module, f"{name}_scores") and name not in SHORTLISTS:
        assert "picker" in found.options


@pytest.mark.parametrize("one", page_strategies(), ids=lambda one: one.name)
def test_the_page_of_costs_can_measure_every_strategy(one):
    given = evidence(one, 300, 4, width=6)
    assert set(call_needs(one, {})) <= set(given)
    assert {"round", "rounds", "logits", "probs"} & {*one.optional} <= set(given)
    assert len(select(one.name, 5, **given)) == 5
    assert all(facts(one).values())
