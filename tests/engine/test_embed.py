"""Embedding by blocks on a cluster: the whole pool, in order, whoever is lost."""

import os
import signal

import numpy as np
import pytest
import torch

from labelwise.engine import embed
from labelwise.engine.embedding import Embedder, _File
from labelwise.errors import InputError, ResourceError

pytestmark = pytest.mark.slow


def doubled():
    def function(block):
        return torch.from_numpy(np.asarray(block)).half()[:, None] * torch.tensor([1.0, 2.0]).half()

    return function


def test_blocks_come_back_in_order_and_a_lost_worker_loses_nothing(cluster, tmp_path):
    lost, seen = tmp_path / "lost", []

    def make():
        function = doubled()

        def once_deadly(block):
            if 40 in block and not lost.exists():
                lost.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return function(block)

        return once_deadly

    path = embed(
        make,
        103,
        tmp_path / "new folder" / "h.npy",
        block=10,
        workers=2,
        address=cluster.address,
        progress=lambda done, total: seen.append((done, total)),
    )
    found = np.load(path)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, np.arange(103)[:, None] * [1.0, 2.0])
    assert lost.exists()
    assert seen[-1] == (103, 103)
    assert [entry.name for entry in path.parent.iterdir()] == ["h.npy"]


def test_lists_and_arrays_are_cut_into_blocks(cluster, tmp_path):
    def lengths():
        return lambda texts: np.array([[len(text)] for text in texts], dtype=np.int32)

    texts = ["a" * i for i in range(23)]
    found = embed(lengths, texts, tmp_path / "l.npy", block=5, workers=1, address=cluster.address)
    assert np.load(found).ravel().tolist() == list(range(23))


def test_what_goes_wrong_in_a_worker_is_said_here_and_leaves_no_file(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr("labelwise.engine.embedding.MOST_LOSSES", 1)

    def broken():
        def function(block):
            raise InputError(f"item {block[0]} is torn")

        return function

    def deadly():
        return lambda block: os.kill(os.getpid(), signal.SIGKILL)

    cases = [
        (broken, InputError, "item 0 is torn"),
        (deadly, ResourceError, "the block from item 0 on has cost 2 workers"),
    ]
    for make, error, match in cases:
        with pytest.raises(error, match=match):
            embed(make, 6, tmp_path / "x.npy", block=3, workers=1, address=cluster.address)
        assert not list(tmp_path.iterdir())


def test_blocks_whose_numbers_do_not_fit_are_refused(tmp_path):
    with pytest.raises(InputError, match="items 4 to 6 must be embedded as 3 rows of numbers"):
        Embedder(lambda: lambda block: np.zeros((1, 2))).embed(4, 7, None)
    file = _File(tmp_path / "x.npy", 5)
    file.write(0, np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"the block from item 2 on must be .* like the others"):
        file.write(2, np.zeros((3, 4)))
    file.discard()
    assert not list(tmp_path.iterdir())


def test_nothing_to_embed_is_refused(tmp_path):
    with pytest.raises(InputError, match="got 0 and 256"):
        embed(doubled, 0, tmp_path / "x.npy")
