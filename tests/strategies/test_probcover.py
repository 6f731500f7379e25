"""ProbCover against brute force, its radius against its rule, and what happens at the end."""

import numpy as np
import pytest

from labelwise.errors import ResourceError
from labelwise.evidence import Rows
from labelwise.kernels import Generator, derive
from labelwise.strategies import select
from labelwise.strategies.clusters import cluster
from labelwise.strategies.probcover import purity_radius


def inside(x, delta):
    distance = np.sqrt(((x[:, None].astype(float) - x.astype(float)) ** 2).sum(2))
    return (distance < delta) | np.eye(len(x), dtype=bool)


def by_definition(x, delta, labeled, candidates, n, noise):
    """Largest number of rows newly covered, ties by noise, all recomputed at every pick."""
    balls = inside(x, delta)
    covered = balls[list(labeled)].any(0) if len(labeled) else np.zeros(len(x), bool)
    free, picks, gains = [c for c in candidates if c not in labeled], [], []
    for _ in range(n):
        gain = {c: int((balls[c] & ~covered).sum()) for c in free}
        best = min(free, key=lambda c: (-gain[c], noise[c]))
        picks.append(best)
        gains.append(gain[best])
        covered |= balls[best]
        free.remove(best)
    return picks, gains


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("delta", [0.2, 0.6, 5.0])
def test_probcover_is_its_definition(seed, delta, monkeypatch):
    if seed % 2:
        monkeypatch.setattr("labelwise.kernels.functions.coverage.HELD_BYTES", 0)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(90, 3)).astype(np.float32)
    labeled, candidates = rng.permutation(90)[:seed], np.sort(rng.permutation(90)[:60])
    noise = Generator(derive(seed, "probcover")).child("ties").uniform(90)
    n = min(20, len(set(candidates) - set(labeled)))
    picks = select(
        "probcover",
        n,
        embeddings=x,
        labeled=labeled,
        candidates=candidates,
        delta=delta,
        normalize=False,
        seed=seed,
    )
    rows, gains = by_definition(x, delta, labeled, candidates, n, noise)
    assert picks.rows.tolist() == rows
    assert picks.scores.tolist() == gains


def test_rows_at_exactly_delta_are_outside():
    x = np.arange(5.0)[:, None]
    for delta, covers in ((1.0, 1), (np.nextafter(1.0, 2), 3), (2.0, 3), (np.inf, 5)):
        picks = select("probcover", 1, embeddings=x, delta=float(delta), normalize=False)
        assert picks.scores.tolist() == [covers]


def test_what_labeled_rows_cover_is_covered():
    x = np.array([[0.0], [0.1], [0.2], [9.0], [9.1]])
    assert select("probcover", 1, embeddings=x, delta=1, normalize=False).rows[0] < 3
    picks = select("probcover", 1, embeddings=x, delta=1, normalize=False, labeled=[0])
    assert picks.rows[0] >= 3
    assert picks.scores.tolist() == [2.0]


def test_when_all_is_covered_the_rest_is_random_and_told_of():
    x = np.r_[np.zeros((10, 1)), np.ones((10, 1))]
    last = set()
    for seed in range(20):
        picks = select("probcover", 4, embeddings=x, delta=0.5, normalize=False, seed=seed)
        assert picks.scores.tolist() == [10, 10, 0, 0]
        assert picks.notes == ("nothing was left to cover for the last 2 picks, drawn at random",)
        assert len(set(picks)) == 4
        last.add(int(picks[3]))
    assert len(last) > 5


def test_the_radius_keeps_95_percent_of_balls_pure():
    x = np.random.default_rng(0).normal(size=(200, 2))
    radius = purity_radius(x, 4, generator=Generator(0))
    member = cluster(Rows(x), 4, generator=Generator(0)).assignment.numpy()

    def purity(delta):
        other = member[:, None] != member
        return 1 - (inside(x, delta) & other).any(1).mean()

    assert purity(radius) >= 0.95
    assert purity(radius * 1.001) < 0.95


def test_one_cluster_is_pure_at_any_radius():
    assert purity_radius(np.ones((9, 2)), 1, generator=Generator(0)) == np.inf


def test_the_estimate_is_told_of_and_uses_what_is_known_of_the_classes():
    x = np.random.default_rng(0).normal(size=(60, 3))
    more = {"embeddings": x, "labeled": [0, 1, 2]}
    known = select("probcover", 2, **more, classes=6).notes[0]
    assert known.startswith("delta = 0.")
    assert "with 6 clusters at purity 0.95" in known
    assert "with 5 clusters" in select("probcover", 2, **more, labels=[4, 0, 0]).notes[0]
    assert "with 2 clusters" in select("probcover", 2, **more, labels=[0, 0, 0]).notes[0]
    assert "with 7 clusters" in select("probcover", 7, **more).notes[0]
    assert not select("probcover", 2, **more, delta=0.4).notes


def test_memory_too_small_is_refused_and_enough_changes_nothing():
    x = np.random.default_rng(0).normal(size=(500, 4))
    with pytest.raises(ResourceError, match=r"memory must be at least .* MB for 500"):
        select("probcover", 2, embeddings=x, delta=9.0, memory="30KB")
    few = select("probcover", 20, embeddings=x, delta=0.5, memory="6MB")
    assert few.rows.tolist() == select("probcover", 20, embeddings=x, delta=0.5).rows.tolist()


def test_pools_too_large_to_compare_take_consent():
    x = np.ones((200_001, 1), np.float32)
    with pytest.raises(ResourceError, match="dense=True"):
        select("probcover", 1, embeddings=x, delta=1.0)


def test_a_length_does_not_matter_unless_asked():
    x = np.random.default_rng(0).normal(size=(40, 3))
    longer = x * np.linspace(1, 9, 40)[:, None]
    a = select("probcover", 5, embeddings=x, delta=0.5)
    assert a.rows.tolist() == select("probcover", 5, embeddings=longer, delta=0.5).rows.tolist()
    assert len(select("probcover", 5, embeddings=longer, delta=0.5, normalize=False)) == 5
