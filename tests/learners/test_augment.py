"""Looks at rows: every operation against Pillow, scipy, colorsys or its formula."""

import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter1d

from labelwise.errors import InputError
from labelwise.learners import MLP, ResNet18
from labelwise.learners.augment import Corrupt, CropFlip, Distort, ImageLook, RandAugment, color
from labelwise.learners.augment.distort import crop_boxes
from labelwise.learners.augment.look import from_levels, to_levels
from labelwise.learners.augment.rand_augment import GRAY, OPERATIONS
from labelwise.learners.augment.rand_augment import Drawn as Picked
from labelwise.learners.augment.space import gaussian_blur, resize_crops, rotation, warp


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def pixels():
    """Photograph-like images that are not square, of few and of many levels."""
    stream = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(20) * 5, np.arange(26) * 4)[..., None] * [0.5, 1.0, 0.7]
    images = np.stack([ramp + stream.normal(0, spread, ramp.shape) for spread in (3, 20, 60)])
    return images.clip(0, 255).round().astype(np.uint8)


def levels_of(pixels):
    return to_levels(torch.from_numpy(pixels), False)


def by_pillow(pixels, change):
    changed = [np.asarray(change(Image.fromarray(image))) for image in pixels]
    return np.stack(changed).transpose(0, 3, 1, 2).astype(np.float64)


def same(count, value):
    return torch.full((count,), float(value))


# --- colors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize(
    ("ours", "pillow", "off"),
    [
        (color.brightness, ImageEnhance.Brightness, 1.0),
        (color.saturation, ImageEnhance.Color, 2.0),
        (color.contrast, ImageEnhance.Contrast, 2.0),
        (color.sharpness, ImageEnhance.Sharpness, 2.0),
    ],
)
def test_enhancements_are_pillows_but_for_its_rounding(pixels, ours, pillow, off, factor):
    expected = by_pillow(pixels, lambda image: pillow(image).enhance(factor))
    found = ours(levels_of(pixels), same(3, factor)).numpy()
    assert np.abs(found - expected).max() <= off


@pytest.mark.parametrize("threshold", [0, 100, 256])
def test_solarize_is_pillows(pixels, threshold):
    expected = by_pillow(pixels, lambda image: ImageOps.solarize(image, threshold))
    assert (color.solarize(levels_of(pixels), same(3, threshold)).numpy() == expected).all()


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_posterize_is_pillows(pixels, bits):
    expected = by_pillow(pixels, lambda image: ImageOps.posterize(image, bits))
    assert (color.posterize(levels_of(pixels), same(3, bits)).numpy() == expected).all()


def test_equalize_is_pillows(pixels):
    expected = by_pillow(pixels, ImageOps.equalize)
    assert (color.equalize(levels_of(pixels)).numpy() == expected).all()
    assert (expected != levels_of(pixels).numpy()).any()


def test_autocontrast_is_pillows_but_for_its_rounding(pixels):
    expected = by_pillow(pixels, ImageOps.autocontrast)
    assert np.abs(color.autocontrast(levels_of(pixels)).numpy() - expected).max() <= 1


@pytest.mark.parametrize("change", [color.equalize, color.autocontrast])
def test_a_single_level_stays_as_it_is(change):
    flat = torch.full((2, 3, 30, 30), 77.0)
    assert torch.equal(change(flat), flat)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.25])
def test_hues_by_definition(pixels, turn):
    some = pixels[:, :4, :5].copy()
    some[0, 0, :3] = [[9, 9, 9], [0, 0, 0], [200, 200, 10]]
    found = color.shift_hue(levels_of(some), same(3, turn)).permute(0, 2, 3, 1).numpy()
    for at in np.ndindex(some.shape[:3]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(some[at] / 255))
        expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
        np.testing.assert_allclose(found[at] / 255, expected, atol=1e-5)


# --- places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [(1, 0.21, 0, 0, 1, 0), (1, 0, 0, -0.13, 1, 0), (1, 0, 7, 0, 1, 0), (1, 0, 0, 0, 1, -4)],
)
def test_affine_maps_are_pillows(pixels, rows):
    size = (pixels.shape[2], pixels.shape[1])

    def move(image):
        return image.transform(size, Image.Transform.AFFINE, rows, fillcolor=(60, 60, 60))

    found = warp(levels_of(pixels), torch.tensor([rows] * 3, dtype=torch.float32), 60.0).numpy()
    assert (found == by_pillow(pixels, move)).mean() > 0.99


@pytest.mark.parametrize("degrees", [27, -12])
def test_rotations_are_pillows(pixels, degrees):
    expected = by_pillow(pixels, lambda image: image.rotate(degrees, fillcolor=(60, 60, 60)))
    maps = rotation(same(3, degrees), *pixels.shape[1:3])
    assert (warp(levels_of(pixels), maps, 60.0).numpy() == expected).mean() > 0.99


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resized_crops_are_pillows_but_for_its_rounding(pixels, interpolation):
    boxes = [(0, 0, 20, 26), (3, 5, 9, 7), (19, 0, 1, 20)]
    found = resize_crops(levels_of(pixels), torch.tensor(boxes), interpolation).numpy()
    for image, (top, left, tall, wide), ours in zip(pixels, boxes, found):
        box = (left, top, left + wide, top + tall)
        method = Image.Resampling[interpolation.upper()]
        expected = np.asarray(Image.fromarray(image).crop(box).resize((26, 20), method))
        off = np.abs(ours.transpose(1, 2, 0) - expected)
        # Pillow cuts what overshoots off after each of the two axes.
        assert off.max() <= (1.5 if interpolation == "bilinear" else 4)
        assert off.mean() < 0.6


@pytest.mark.parametrize("side", [20, 5, 2, 1])
def test_blur_is_scipys(pixels, side):
    some = levels_of(pixels)[:, :, :side, : side + 1]
    sigmas = torch.tensor([0.1, 0.8, 2.0])
    found = gaussian_blur(some, sigmas, 2.0).numpy()
    for image, sigma, ours in zip(some.double().numpy(), sigmas.tolist(), found):
        expected = image
        for axis in (1, 2):
            expected = gaussian_filter1d(
                expected, sigma, axis=axis, mode="mirror", radius=int(4 * 2.0 + 0.5)
            )
        np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_blur_is_close_to_pillows(pixels):
    smooth = pixels[:1]
    expected = by_pillow(smooth, lambda image: image.filter(ImageFilter.GaussianBlur(1.0)))
    found = gaussian_blur(levels_of(smooth), same(1, 1.0), 2.0).numpy()
    assert np.abs(found - expected)[:, :, 4:-4, 4:-4].max() <= 2


# --- whole looks ----------------------------------------------------------------------------------

CHANGES = [
    RandAugment(),
    RandAugment(operations=3, probability=1.0, ranges="paper", cutout=0.3),
    Distort(),
    Distort(crop=(0.2, 1.0), interpolation="bilinear", hue=0.2, blur=0.5, solarize=0.5),
]


def some_images(count, channels, generator, size=(12, 17)):
    return torch.randint(256, (count, channels, *size), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_minibatch_is_its_images_one_by_one(change, channels, generator):
    levels = some_images(40, channels, generator).float()
    draws = change.draw(40, generator)
    together = change.apply(levels, draws)
    for at in range(40):
        alone = type(draws)(*(values[at : at + 1] for values in draws))
        torch.testing.assert_close(change.apply(levels[at : at + 1], alone)[0], together[at])
    assert together.shape == levels.shape
    assert together.min() >= 0
    assert together.max() <= 255
    assert ((together != levels).flatten(1).any(1)).float().mean() > 0.8


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_layout_and_type_change_nothing(change, channels, generator):
    images = some_images(9, channels, generator)

    def look(given, first):
        return ImageLook(change, first)(given, torch.Generator().manual_seed(5))

    found = look(images, True)
    assert found.dtype == torch.uint8
    assert found.shape == images.shape
    other = look(images.permute(0, 2, 3, 1), False).permute(0, 3, 1, 2)
    assert torch.equal(found, other)
    fractions = look(images.double() / 255, True)
    assert fractions.dtype == torch.float64
    off = (fractions * 255 - found).abs()
    assert off.max() <= 0.5 + 1e-3 or (off <= 0.5 + 1e-3).float().mean() > 0.97


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_all_work_is_done_where_the_images_are(change, channels, generator):
    """A device without data stands for a GPU: it refuses tensors that were left on the CPU."""
    levels = torch.empty(64, channels, 12, 17, device="meta")
    found = change.apply(levels, change.draw(64, generator))
    assert found.device.type == "meta"
    assert found.shape == levels.shape
    images = torch.empty(64, channels, 12, 17, dtype=torch.uint8, device="meta")
    assert CropFlip(4, True, True)(images, generator).device.type == "meta"
    assert Corrupt(0.5)(images, generator).device.type == "meta"


@pytest.mark.parametrize("change", CHANGES)
def test_gray_images_stay_gray(change, generator):
    gray = some_images(30, 1, generator).float()
    draws = change.draw(30, generator)
    three = change.apply(gray.expand(-1, 3, -1, -1), draws)
    torch.testing.assert_close(three, change.apply(gray, draws).expand_as(three), atol=2e-2, rtol=0)


def test_looks_leave_the_global_generator_and_the_inputs(generator):
    images = some_images(8, 3, generator)
    kept, state = images.clone(), torch.random.get_rng_state()
    for look in ResNet18(width=4).looks((3, 12, 17)):
        assert look(images, generator).shape == images.shape
    assert torch.equal(images, kept)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_looks_are_the_same_inside_autocast(generator):
    images = some_images(8, 3, generator)
    look = ImageLook(Distort(), True)
    expected = look(images, torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(look(images, torch.Generator().manual_seed(1)), expected)


def pillow_operation(image, name, level, sign, code):
    """One operation of the authors' table in Pillow; see `RandAugment`."""
    width, height = image.size
    factor = 0.1 + 0.18 * level if code else 0.05 + 0.09 * level
    bits = 4 - int(level * 4 / 10) if code else 4 + int(level * 4 / 10)
    shear = sign * 0.3 * level / 10
    across = sign * int(level * width / 32 if code else 0.03 * level * width + 1e-9)
    down = sign * int(level * height / 32 if code else 0.03 * level * height + 1e-9)

    def moved(*rows):
        return image.transform(image.size, Image.Transform.AFFINE, rows, fillcolor=(127, 127, 127))

    return {
        "identity": lambda: image,
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "posterize": lambda: ImageOps.posterize(image, bits),
        "solarize": lambda: ImageOps.solarize(image, 256 - int(level * 256 / 10)),
        "rotate": lambda: image.rotate(sign * 3 * level, fillcolor=(127, 127, 127)),
        "shear_x": lambda: moved(1, shear, 0, 0, 1, 0),
        "shear_y": lambda: moved(1, 0, 0, shear, 1, 0),
        "translate_x": lambda: moved(1, 0, across, 0, 1, 0),
        "translate_y": lambda: moved(1, 0, 0, 0, 1, down),
    }[name]()


@pytest.mark.parametrize("ranges", ["code", "paper"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_rand_augment_at_every_level(pixels, name, ranges):
    image, count = pixels[1], 18
    level = torch.arange(1, 10).repeat(2)[:, None]
    sign = torch.tensor([1.0, -1.0]).repeat_interleave(9)[:, None]
    operation = torch.full((count, 1), OPERATIONS.index(name))
    draws = Picked(operation, level, sign, torch.zeros(count, 2))
    change = RandAugment(operations=1, ranges=ranges, cutout=0.0)
    found = change.apply(levels_of(image[None]).expand(count, -1, -1, -1), draws)
    for ours, at, side in zip(found.permute(0, 2, 3, 1).numpy(), level[:, 0], sign[:, 0]):
        other = pillow_operation(Image.fromarray(image), name, int(at), int(side), ranges == "code")
        off = np.abs(ours - np.asarray(other).astype(float))
        # A shear by whole hundredths maps many a center onto the edge between two pixels.
        least = 0.95 if "shear" in name else 0.985
        assert (off <= 2).mean() > least, (name, int(at), off.max())


def test_operations_follow_one_another(pixels):
    """Solarizing and then posterizing is not the reverse; both orders in one minibatch."""
    first, second = OPERATIONS.index("solarize"), OPERATIONS.index("posterize")
    operation = torch.tensor([[first, second], [second, first]])
    draws = Picked(operation, torch.full((2, 2), 6), torch.ones(2, 2), torch.zeros(2, 2))
    levels = levels_of(pixels[:1])
    found = RandAugment(cutout=0.0).apply(levels.expand(2, -1, -1, -1), draws)
    bits, threshold = torch.tensor([2.0]), torch.tensor([256.0 - 153])
    expected = torch.cat(
        [
            color.posterize(color.solarize(levels, threshold), bits),
            color.solarize(color.posterize(levels, bits), threshold),
        ]
    )
    assert torch.equal(found, expected)
    assert not torch.equal(found[0], found[1])


def test_cutout_by_definition():
    change = RandAugment(operations=0, cutout=0.5)
    center = torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.99, 0.3]])
    none = torch.zeros(3, 0)
    found = change.apply(torch.zeros(3, 3, 12, 20), Picked(none, none, none, center))
    expected = torch.zeros(3, 12, 20)
    for at, (row, column) in enumerate([(0, 0), (6, 10), (11, 6)]):
        for y in range(12):
            for x in range(20):
                if -3 <= y - row < 3 and -3 <= x - column < 3:
                    expected[at, y, x] = GRAY
    assert torch.equal(found, expected[:, None].expand(-1, 3, -1, -1))


def test_rand_augment_draws_as_often_as_it_says(generator):
    draws = RandAugment(operations=2, probability=0.5).draw(20_000, generator)
    shares = draws.operation.flatten().bincount(minlength=14) / 40_000
    expected = torch.full((14,), 0.5 / 14)
    expected[0] += 0.5
    torch.testing.assert_close(shares, expected, atol=0.008, rtol=0)
    assert draws.level.unique().tolist() == list(range(1, 10))
    assert abs(float(draws.sign.mean())) < 0.02


def test_jitter_follows_each_images_order(pixels):
    """Against the four operations one after the other, for all 24 orders."""
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    orders = orders[(orders.sort(1).values == torch.arange(4)).all(1)]
    change = Distort(crop=(1, 1), ratio=(1.3, 1.3), gray=0.0, flip=0.0, jitter=1.0)
    draws = change.draw(24, torch.Generator().manual_seed(0))
    draws = draws._replace(order=orders)
    levels = levels_of(pixels[1:2])
    found = change.apply(levels.expand(24, -1, -1, -1), draws)
    steps = [color.brightness, color.contrast, color.saturation, color.shift_hue]
    for at in range(24):
        expected = levels
        for kind in orders[at].tolist():
            expected = steps[kind](expected, draws.factor[at : at + 1, kind])
        torch.testing.assert_close(found[at], expected[0], atol=1e-3, rtol=0)
    assert len({round(float(image.sum()), 1) for image in found}) > 12


def test_crops_are_inside_and_of_the_shape_asked_for(generator):
    change = Distort(crop=(0.1, 0.6))
    draws = change.draw(5000, generator)
    draws.corner[:10] = 1 - 2**-24
    top, left, tall, wide = crop_boxes(draws, 40, 60, change.ratio).unbind(1)
    assert (top >= 0).all()
    assert (top + tall <= 40).all()
    assert (left >= 0).all()
    assert (left + wide <= 60).all()
    share = (tall * wide) / 2400
    assert share.min() > 0.09
    assert share.max() < 0.63
    assert abs(float(share.mean()) - 0.35) < 0.02
    ratio = (wide / tall).log()
    assert abs(float(ratio.mean())) < 0.02
    assert ratio.abs().max() < math.log(4 / 3) + 0.12


def test_a_crop_that_never_fits_is_the_largest_that_does(generator):
    draws = Distort(crop=(1, 1)).draw(3, generator)
    assert crop_boxes(draws, 10, 40, (0.75, 4 / 3)).tolist() == [[0, 13, 10, 13]] * 3
    assert crop_boxes(draws, 40, 10, (0.75, 4 / 3)).tolist() == [[13, 0, 13, 10]] * 3
    draws.ratio[:] = 2.0
    assert crop_boxes(draws, 9, 9, (0.75, 4 / 3)).tolist() == [[0, 0, 9, 9]] * 3


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 7)])
def test_tiny_images(size, generator):
    images = some_images(20, 3, generator, size)
    for change in CHANGES:
        assert ImageLook(change, True)(images, generator).shape == images.shape


def test_images_whose_range_is_not_known_are_refused(generator):
    look = ImageLook(Distort(), True)
    with pytest.raises(InputError, match="between 0 and 1, got 0 to 16"):
        look(torch.arange(17.0).reshape(1, 1, 1, 17), generator)
    with pytest.raises(InputError, match=r"torch\.int64"):
        look(torch.zeros(1, 1, 2, 2, dtype=torch.int64), generator)
    with pytest.raises(InputError, match="got nan to nan"):
        look(torch.full((1, 1, 2, 2), torch.nan), generator)


def test_levels_and_back(generator):
    images = some_images(4, 3, generator)
    assert torch.equal(from_levels(to_levels(images, True), torch.uint8, True), images)


# --- vectors --------------------------------------------------------------------------------------


def test_corruption_by_definition(generator):
    rows = torch.arange(60.0).reshape(6, 10)
    change = Corrupt(0.35)
    found = change(rows, torch.Generator().manual_seed(3))
    draws = change.draw(6, 10, torch.Generator().manual_seed(3))
    for i in range(6):
        assert draws.changed[i].sum() == 3
        for j in range(10):
            source = int(draws.source[i, j]) if draws.changed[i, j] else i
            assert found[i, j] == rows[source, j]
            assert not draws.changed[i, j] or source != i
    assert torch.equal(change(rows[:1], generator), rows[:1])
    assert change(rows.reshape(6, 2, 5), generator).shape == (6, 2, 5)


def test_corruption_takes_entries_and_rows_alike_often():
    changed, source = Corrupt(0.6).draw(5, 2000, torch.Generator().manual_seed(0))
    assert (changed.sum(1) == 1200).all()
    for row in range(5):
        counts = source[row].bincount(minlength=5) / 2000
        assert counts[row] == 0
        assert (counts[[k for k in range(5) if k != row]] - 0.25).abs().max() < 0.04


# --- learners -------------------------------------------------------------------------------------


def test_options_by_name():
    learner = ResNet18(width=4, strong={"cutout": 0.25}, distorted={"crop": [0.2, 1.0]})
    assert learner.strong == RandAugment(cutout=0.25)
    assert learner.distorted == Distort(crop=(0.2, 1.0))
    assert learner.signature()["distorted"]["crop"] == [0.2, 1.0]
    with pytest.raises(InputError, match=r"no option 'cutuot'.*cutout"):
        ResNet18(strong={"cutuot": 0.25})
    with pytest.raises(InputError, match="strong must be RandAugment"):
        ResNet18(strong=0.5)
    with pytest.raises(InputError, match="corruption must be in"):
        MLP(corruption=2)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (RandAugment, {"operations": -1}),
        (RandAugment, {"ranges": "mine"}),
        (RandAugment, {"probability": 1.5}),
        (Distort, {"crop": (0.0, 1.0)}),
        (Distort, {"crop": (0.5, 1.5)}),
        (Distort, {"sigma": (2.0, 1.0)}),
        (Distort, {"hue": 0.7}),
        (Distort, {"brightness": -1}),
        (Distort, {"gray": 2.0}),
        (Distort, {"interpolation": "nearest"}),
    ],
)
def test_options_out_of_range_are_refused(kind, options):
    with pytest.raises(InputError, match=next(iter(options))):
        kind(**options)


def test_without_flips_no_look_mirrors():
    """An image that is bright on the left stays so in every look."""
    images = torch.zeros(64, 16, 16, 3, dtype=torch.uint8)
    images[:, :, :8] = 255
    plain = {"crop": (1.0, 1.0), "ratio": (1.0, 1.0), "jitter": 0.0}
    for flip in (True, False):
        looks = ResNet18(width=4, pad=0, flip=flip, distorted=plain).looks((16, 16, 3))
        generator = torch.Generator().manual_seed(0)
        seen = looks.distorted(images, generator)[:, :, 0].float().mean((1, 2))
        assert bool((seen < 100).any()) is flip


def test_strong_looks_are_weak_ones_made_hard(generator):
    """Without operations and cutout a strong look is a weak one."""
    images = some_images(16, 3, generator)
    looks = ResNet18(width=4, strong={"operations": 0, "cutout": 0.0}).looks((3, 12, 17))
    weak = looks.weak(images, torch.Generator().manual_seed(2))
    assert torch.equal(looks.strong(images, torch.Generator().manual_seed(2)), weak)


def test_the_weak_look_is_a_shift_and_a_flip_or_nothing():
    weak = ResNet18(width=4).looks((8, 8, 3)).weak
    assert isinstance(weak, CropFlip)
    assert (weak.pad, weak.flip) == (4, True)
    assert ResNet18(width=4, pad=0, flip=False).looks((8, 8, 3)).weak is None
    assert MLP().looks((5,)).weak is None
