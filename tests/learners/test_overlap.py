"""Reading ahead of a network: the same results in order, errors in their turn, and in less time."""

import sys
import threading
import time
import types

import numpy as np
import pytest
import torch
from torch import nn

from labelwise.learners import make_encoder
from labelwise.learners.overlap import AHEAD, overlapped
from labelwise.pools import ImagePool, PixelImages

CPU = torch.device("cpu")


def number(item):
    return {"x": torch.tensor([float(item)])}


def test_results_come_in_order_and_without_gradient():
    weight = nn.Parameter(torch.tensor(3.0))
    found = list(overlapped(number, range(7), lambda batch: weight * batch["x"], CPU))
    assert [float(value) for value in found] == [3.0 * item for item in range(7)]
    assert not any(value.requires_grad for value in found)
    assert list(overlapped(number, [], lambda batch: batch["x"], CPU)) == []


def test_the_callers_mode_is_left_alone():
    """A generator that stops inside of `inference_mode` would leave its caller there."""
    for _ in overlapped(number, range(3), lambda batch: batch["x"], CPU):
        assert not torch.is_inference_mode_enabled()


def test_reading_is_ahead_by_a_few_and_no_more():
    read = []

    def note(item):
        read.append(item)
        return number(item)

    found = overlapped(note, range(100), lambda batch: batch["x"], CPU)
    next(found)
    time.sleep(0.2)
    assert len(read) <= AHEAD + 1
    found.close()
    seen = len(read)
    assert "labelwise-reader_0" not in {thread.name for thread in threading.enumerate()}
    time.sleep(0.05)
    assert len(read) == seen


def test_an_error_comes_when_its_item_does():
    def fragile(item):
        if item == 2:
            raise OSError("item 2 is gone")
        return number(item)

    found = overlapped(fragile, range(9), lambda batch: batch["x"], CPU)
    assert [float(next(found)), float(next(found))] == [0.0, 1.0]
    with pytest.raises(OSError, match="item 2 is gone"):
        next(found)


def test_reading_and_computing_take_turns_no_longer():
    """Each takes 20 ms an item: one after the other 40 ms, together little more than 20."""

    def slow(item):
        time.sleep(0.02)
        return number(item)

    def compute(batch):
        time.sleep(0.02)
        return batch["x"]

    start = time.perf_counter()
    assert len(list(overlapped(slow, range(20), compute, CPU))) == 20
    assert time.perf_counter() - start < 0.75 * 20 * 0.04


class _FakeTimm(types.ModuleType):
    """Stands for timm: a network whose features are the mean of each channel."""

    def __init__(self):
        super().__init__("timm")

    class Network(nn.Module):
        num_features = 3

        def forward(self, images):
            return images.mean((2, 3))

    def is_model(self, name):
        return name == "means"

    def create_model(self, name, pretrained, num_classes):
        return self.Network()

    class data:
        @staticmethod
        def resolve_model_data_config(network):
            return {"input_size": (3, 4, 4), "mean": (0.5, 0.25, 0.0), "std": (0.5, 1.0, 2.0)}


def test_an_image_networks_features(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", _FakeTimm())
    images = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 3), np.uint8)
    pool = ImagePool(PixelImages(images))
    seen = []
    encoder = make_encoder("timm:means", minibatch=4, device="cpu").fit(pool, seed=0)
    found = encoder.encode(pool, progress=lambda done, total: seen.append((done, total)))
    expected = (images.mean((1, 2)) / 255 - [0.5, 0.25, 0.0]) / [0.5, 1.0, 2.0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert seen == [(4, 11), (8, 11), (11, 11)]
