"""Looks at rows: whole minibatches changed at random, on the device they are on."""

from labelwise.learners.augment.corrupt import Corrupt
from labelwise.learners.augment.distort import Distort
from labelwise.learners.augment.look import ImageLook
from labelwise.learners.augment.rand_augment import RandAugment
from labelwise.learners.augment.shift import CropFlip

__all__ = ["Corrupt", "CropFlip", "Distort", "ImageLook", "RandAugment"]
