"""The patches encoder: its definition in float64, its invariance, its options and its files."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from labelwise.errors import DataError, InputError
from labelwise.kernels import Rows
from labelwise.learners import StreamingEncoder, make_encoder, patches
from labelwise.learners.patch_filters import _paired_kmeans, learn_filters, mirrored
from labelwise.learners.patches import PatchEncoder
from labelwise.learners.ridge import Ridge
from labelwise.pools.arrays import ArrayPool
from labelwise.pools.images import ImagePool, PixelImages


def some_images(count=12, size=8, seed=0):
    """Smooth random pictures: noise has no structure to whiten."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, size // 2, size // 2, 3))
    noise = rng.integers(-20, 20, (count, size, size, 3))
    return np.clip(small.repeat(2, 1).repeat(2, 2) + noise, 0, 255).astype(np.uint8)


def small_encoder(**options):
    given = {"filters": 5, "patch": 3, "pool": 2, "size": 8, "samples": 400, "iterations": 2}
    return PatchEncoder(**{**given, "precision": "float32", "device": "cpu", **options})


def by_definition(encoder, images):
    """Every patch, filter and cell by itself, in float64."""
    o, filters = encoder._options, encoder._filters
    side = (o["size"] - o["patch"]) // o["stride"] + 1
    turned = mirrored(o["patch"]).numpy()
    basis = filters.projection.double().numpy()
    features = []
    for image in images.astype(np.float64) - 128:
        answers = np.zeros((2, side, side, o["filters"]))
        for i in range(side):
            for j in range(side):
                top, left = i * o["stride"], j * o["stride"]
                patch = image[top : top + o["patch"], left : left + o["patch"]].reshape(-1)
                for kind, x in enumerate((patch, patch[turned])):
                    # A mirrored filter's answer is the filter's answer to the mirrored patch.
                    x = (x - x.mean()) / np.sqrt(x.var() + o["contrast"])
                    z = x @ basis - filters.offset.double().numpy()
                    dot = filters.directions.double().numpy() @ z
                    answers[kind, i, j] = np.maximum(0, dot - o["threshold"])
        bounds = [
            (cell * side // o["pool"], -(-(cell + 1) * side // o["pool"]))
            for cell in range(o["pool"])
        ]
        pooled = np.array(
            [
                [[answers[kind, a:b, c:d].mean((0, 1)) for c, d in bounds] for a, b in bounds]
                for kind in (0, 1)
            ]
        )
        both = (pooled[0] + pooled[1][:, ::-1]) / 2
        features.append(np.sqrt(both).transpose(2, 0, 1).reshape(-1))
    return np.array(features)


@pytest.mark.parametrize("options", [{}, {"stride": 5}, {"pool": 3, "components": 10}])
def test_features_are_their_definition(options):
    images = some_images()
    encoder = small_encoder(**options).fit(images, seed=1)
    got = encoder.encode(images, out=np.empty((12, *encoder.item_shape()), np.float32))
    assert (got > 0).mean() > 0.1
    np.testing.assert_allclose(got, by_definition(encoder, images), atol=2e-3)
    assert np.abs(got - by_definition(encoder, images)).mean() < 1e-5


def test_a_mirrored_image_has_the_same_features():
    images = some_images(size=32)
    encoder = PatchEncoder(filters=20, samples=2000, precision="float32").fit(images, seed=0)
    straight = encoder.encode(images).astype(np.float32)
    turned = encoder.encode(images[:, :, ::-1].copy()).astype(np.float32)
    np.testing.assert_allclose(straight, turned, atol=2e-3)
    upside_down = encoder.encode(images[:, ::-1].copy()).astype(np.float32)
    assert np.abs(straight - upside_down).max() > 0.1


def test_filters_are_unit_and_the_whitening_whitens():
    generator = torch.Generator().manual_seed(0)
    images = torch.from_numpy(some_images(200)).float() - 128
    cut = images[:, :3, :3].reshape(200, 27)
    options = {"components": 20, "contrast": 10.0, "iterations": 3, "generator": generator}
    filters = learn_filters(cut, 6, regularization=1e-9, **options)
    torch.testing.assert_close(filters.directions.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(filters.projection.sum(0), torch.zeros(20), atol=1e-3, rtol=0)
    both = torch.cat([cut, cut[:, mirrored(3)]])
    deviation = (both.var(1, keepdim=True, correction=0) + 10.0).sqrt()
    z = both @ filters.projection / deviation - filters.offset
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(20), atol=1e-3, rtol=0)
    torch.testing.assert_close(z[200:], z[:200] * filters.signs, atol=2e-3, rtol=0)


def test_a_patchs_mean_changes_nothing_even_with_every_coordinate_kept():
    cut = torch.from_numpy(some_images(200)).float()[:, :3, :3].reshape(200, 27) - 128
    filters = learn_filters(
        cut,
        6,
        components=27,
        regularization=0.01,
        contrast=10.0,
        iterations=1,
        generator=torch.Generator().manual_seed(0),
    )
    shifted = (cut + 50) @ filters.projection
    torch.testing.assert_close(shifted, cut @ filters.projection, atol=1e-3, rtol=1e-3)


def test_kmeans_finds_directions_up_to_mirroring():
    generator = torch.Generator().manual_seed(0)
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0])
    true = torch.tensor([[0.6, 0.0, 0.8, 0.0], [0.6, 0.0, 0.0, 0.8]])  # only odd parts differ
    which = torch.randint(2, (400,), generator=generator)
    points = true[which] * (1 + torch.rand(400, 1, generator=generator))
    turned = torch.rand(400, 1, generator=generator) < 0.5
    points = torch.where(turned, points * signs, points)
    points = points + 0.01 * torch.randn(400, 4, generator=generator)
    both = 0
    for start in range(10):
        found = _paired_kmeans(points, signs, 2, 10, torch.Generator().manual_seed(start))
        nearest = torch.maximum(true @ found.T, true @ (found * signs).T)
        both += bool((nearest.max(1).values > 0.99).all())
    assert both >= 5  # two first filters of one cluster may stay there


def test_bfloat16_is_near_float32():
    images = some_images(size=16)
    given = {"filters": 8, "size": 16, "patch": 4, "components": 47}
    exact = small_encoder(**given).fit(images, seed=0).encode(images).astype(np.float32)
    rough = small_encoder(**given, precision="bfloat16").fit(images, seed=0).encode(images)
    difference = np.abs(exact - rough.astype(np.float32))
    assert 0 < difference.mean() < 2e-3


def test_blocks_of_any_size_give_the_same_features(monkeypatch):
    images = some_images()
    encoder = small_encoder().fit(images, seed=0)
    whole = encoder.encode(images)
    monkeypatch.setitem(patches.BLOCK_BYTES, "cpu", 1)
    monkeypatch.setattr(patches, "CHUNK", 5)
    seen = []
    np.testing.assert_allclose(
        encoder.encode(images, progress=lambda done, total: seen.append((done, total))),
        whole,
        atol=2e-3,
    )
    assert seen == [(5, 12), (10, 12), (12, 12)]


def test_the_seed_decides_and_nothing_else():
    images = some_images()
    state = torch.get_rng_state()
    first = small_encoder().fit(images, seed=3).encode(images)
    assert (first == small_encoder().fit(images, seed=3).encode(images)).all()
    assert (first != small_encoder().fit(images, seed=4).encode(images)).any()
    assert torch.equal(state, torch.get_rng_state())


def test_pools_and_arrays_agree_and_images_are_scaled():
    images = some_images()
    pool = ImagePool(PixelImages(images))
    encoder = small_encoder().fit(pool, seed=0)
    np.testing.assert_array_equal(encoder.encode(pool), encoder.encode(images))
    large = images.repeat(2, 1).repeat(2, 2)
    assert encoder.encode(large).shape == (12, 20)


def test_images_without_contrast_and_a_single_image_are_legal():
    flat = np.full((1, 8, 8, 3), 77, np.uint8)
    features = small_encoder().fit(flat, seed=0).encode(flat)
    assert features.shape == (1, 20)
    assert np.isfinite(features).all()


def test_it_streams_and_is_registered():
    assert isinstance(make_encoder("patches"), StreamingEncoder)
    fast = make_encoder("patches-fast")
    assert fast.name == PatchEncoder.fast().name == "patches-fast"
    assert fast.signature() == PatchEncoder.fast().signature()
    assert PatchEncoder().item_shape() == (7200,)
    assert json.loads(json.dumps(fast.signature()))["stride"] == 2
    changed = {json.dumps(PatchEncoder(**{option: value}).signature()) for option, value in
               (("filters", 9), ("threshold", 0.1), ("pool", 2), ("precision", "float32"),
                ("precision", "bfloat16"), ("contrast", 2.0))}  # fmt: skip
    assert len(changed) == 6


def test_a_saved_encoder_comes_back(tmp_path):
    images = some_images()
    encoder = small_encoder().fit(images, seed=0)
    encoder.save(tmp_path / "made")
    again = PatchEncoder.load(tmp_path / "made", precision="float32", device="cpu")
    assert again.signature() == encoder.signature()
    np.testing.assert_array_equal(again.encode(images), encoder.encode(images))
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == [
        "encoder.json",
        "encoder.safetensors",
    ]
    (tmp_path / "made" / "encoder.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="holds no patches encoder"):
        PatchEncoder.load(tmp_path / "made")
    with pytest.raises(DataError, match="holds no patches encoder"):
        PatchEncoder.load(tmp_path / "nowhere")
    kept = json.loads((tmp_path / "made" / "encoder.json").read_text())
    (tmp_path / "made" / "encoder.json").write_text(json.dumps({**kept, "version": 0}))
    with pytest.raises(DataError, match="is of version 0"):
        PatchEncoder.load(tmp_path / "made")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 0}, "filters must be a positive integer, got 0"),
        ({"iterations": True}, "iterations must be a positive integer, got True"),
        ({"contrast": 0.0}, "contrast must be positive, got 0.0"),
        ({"regularization": -1.0}, "regularization must be positive"),
        ({"stride": 4}, "size - patch must be a multiple of stride"),
        ({"size": 4}, "got size=4, patch=6"),
        ({"pool": 28}, "pool must be at most 27"),
        ({"precision": "float16"}, "precision must be 'bfloat16' or 'float32', got 'float16'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        PatchEncoder(**options)


def test_what_is_no_image_is_refused():
    images = some_images()
    encoder = small_encoder()
    with pytest.raises(InputError, match="not fitted"):
        encoder.encode(images)
    with pytest.raises(InputError, match="not fitted"):
        encoder.save("unused")
    with pytest.raises(InputError, match="pool is empty"):
        encoder.fit(images[:0], seed=0)
    with pytest.raises(InputError, match="pool of kind array"):
        encoder.fit(ArrayPool(np.zeros((3, 4))), seed=0)
    with pytest.raises(InputError, match="uint8 of shape"):
        encoder.fit(images.astype(np.float32), seed=0)
    encoder.fit(images, seed=0)
    with pytest.raises(InputError, match=r"out must have shape \(12, 20\), got \(12, 21\)"):
        encoder.encode(images, out=np.empty((12, 21), np.float16))
    assert encoder.encode(images[:0]).shape == (0, 20)


def test_features_of_real_images_tell_classes_apart():
    from PIL import Image

    parquet = pytest.importorskip("pyarrow.parquet")
    folder = Path(os.environ.get("LABELWISE_DATA", "missing")) / "cifar10"
    if not folder.exists():
        pytest.skip("LABELWISE_DATA holds no cifar10")
    table = parquet.read_table(folder / "cifar10.parquet").slice(0, 1500)
    images = np.stack(
        [np.asarray(Image.open(io.BytesIO(cell))) for cell in table["image"].to_pylist()]
    )
    labels = torch.from_numpy(table["label"].to_numpy().astype(np.int64))
    encoder = PatchEncoder.fast(filters=100, samples=20_000, iterations=4).fit(images, seed=0)
    inputs, rows = Rows(encoder.encode(images)), torch.arange(1500)
    kept, held = rows[:1000], rows[1000:]
    model = Ridge().fit(inputs, kept, labels[kept], classes=10, seed=0)
    right = model.predict(inputs, held).probs.argmax(1) == labels[held]
    assert right.float().mean() > 0.46  # 0.31 on the pixels themselves
