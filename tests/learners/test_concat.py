"""Encoders side by side."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import Encoder, encode_data, make_encoder
from labelwise.learners.base import StreamingEncoder
from labelwise.pools import ArrayPool, Data, ImagePool, PixelImages


def image_pool(count=30, seed=0):
    rng = np.random.default_rng(seed)
    return ImagePool(PixelImages(rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)))


class Times:
    """Rows of an array pool times a number, of any rank."""

    def __init__(self, factor):
        self.factor, self.name, self.fits = factor, f"times{factor}", 0

    def signature(self):
        return {"name": self.name}

    def fit(self, pool, *, seed):
        self.fits += 1
        return self

    def encode(self, pool, *, out=None, progress=None):
        if progress:
            progress(len(pool), len(pool))
        return pool.array().tensor().reshape(len(pool), 2, -1) * self.factor


def test_parts_are_the_encoders_rows_of_the_same_size():
    rng = np.random.default_rng(0)
    pool = ArrayPool(rng.normal(3, 2, (50, 4)))
    encoder = make_encoder("concat:identity+identity")
    encoder.encoders[1] = Times(1000)
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder, StreamingEncoder)
    x = pool.array().tensor().numpy()
    size = np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean())
    found = encoder.fit(pool, seed=0).encode(pool)
    assert encoder.widths == (4, 4)
    np.testing.assert_allclose(found, np.tile(x / size, 2), rtol=1e-6)
    plain = make_encoder("concat:identity+identity", balance=False)
    plain.encoders[1] = Times(1000)
    np.testing.assert_allclose(
        plain.fit(pool, seed=0).encode(pool), np.concatenate([x, 1000 * x], 1), rtol=1e-6
    )


def test_names_and_their_signatures():
    encoder = make_encoder("concat:pixels+patches")
    assert encoder.name == "concat:pixels+patches"
    parts = encoder.signature()["encoders"]
    assert parts == [make_encoder(name).signature() for name in ("pixels", "patches")]
    pool, done = image_pool(), []
    encoder = make_encoder("concat:pixels+pixels").fit(pool, seed=1)
    found = encoder.encode(pool, progress=lambda *each: done.append(each))
    assert done[-1] == (60, 60)
    assert found.shape == (30, *encoder.item_shape()) == (30, 2 * 192)
    assert encoder.dtype() == found.dtype == np.float32


def test_a_test_set_is_scaled_as_the_pool_and_the_cache_gives_the_same(tmp_path):
    pool, test = image_pool(), image_pool(10, seed=1)
    labels, none = np.zeros(30, np.int64), np.zeros(10, np.int64)
    data = Data(pool, labels, test, none, ["a", "b"], "noise")
    kept = encode_data(data, make_encoder("concat:pixels+pixels"), seed=0, cache=tmp_path)
    again = encode_data(data, make_encoder("concat:pixels+pixels"), seed=0, cache=tmp_path)
    held = encode_data(data, make_encoder("concat:pixels+pixels"), seed=0)
    for name in ("pool", "test"):
        arrays = [getattr(each, name).tensor().numpy() for each in (kept, again, held)]
        np.testing.assert_array_equal(arrays[0], arrays[1])
        np.testing.assert_array_equal(arrays[0], arrays[2])
    ratios = []
    for images, rows in ((pool, held.pool), (test, held.test)):
        pixels = images.images(np.arange(len(images))).reshape(len(images), -1)
        ratio = rows.tensor().numpy()[:, :192] / np.maximum(pixels, 1)
        ratios.append(ratio[pixels > 0])
    assert np.ptp(np.concatenate(ratios)) < 1e-6 * ratios[0].mean()


def test_a_constant_part_stays_finite():
    pool = ArrayPool(np.ones((5, 2)))
    found = make_encoder("concat:identity+identity").fit(pool, seed=0).encode(pool)
    assert Rows(found).tensor().tolist() == [[1.0] * 4] * 5


def test_concat_refuses_what_it_cannot_join():
    with pytest.raises(InputError, match="two encoders or more"):
        make_encoder("concat:pixels")
    with pytest.raises(InputError, match="no encoder is called 'pixls'"):
        make_encoder("concat:pixls+patches")
    with pytest.raises(InputError, match="not fitted"):
        make_encoder("concat:pixels+patches").encode(image_pool())


def test_parts_of_half_precision_are_scaled_in_full():
    class Half(Times):
        def encode(self, pool, *, out=None, progress=None):
            return super().encode(pool).half()

    pool = ArrayPool(np.random.default_rng(0).normal(3, 2, (50, 4)).astype(np.float32))
    encoder = make_encoder("concat:identity+identity")
    encoder.encoders[1] = Half(1000)
    found = encoder.fit(pool, seed=0).encode(pool)[:, 4:]
    half = (1000 * pool.array().tensor()).half().double().numpy()
    size = np.sqrt(((half - half.mean(0)) ** 2).sum(1).mean())
    np.testing.assert_allclose(found, half / size, rtol=1e-6)
