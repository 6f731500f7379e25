"""Images of every sort become RGB; the ones that cannot are named."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from labelwise.errors import DataError, InputError
from labelwise.pools import (
    ColumnImages,
    FetchedImages,
    FileImages,
    ImagePool,
    PixelImages,
    open_data,
)
from labelwise.pools.decode import decode


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(source, size=None):
    image = decode(source, size)
    assert image.mode == "RGB"
    return np.asarray(image)


class Bytes:
    """A store of encoded images in a list."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def read(self, row):
        return self.items[row]


def test_rgb_is_kept(picture):
    image = picture()
    np.testing.assert_array_equal(pixels(encoded(image)), np.asarray(image))


def test_gray_becomes_three_equal_channels():
    gray = np.array([[0, 100], [200, 255]], np.uint8)
    found = pixels(encoded(Image.fromarray(gray)))
    assert found.shape == (2, 2, 3)
    for channel in range(3):
        np.testing.assert_array_equal(found[..., channel], gray)


def test_one_bit_becomes_black_and_white():
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert pixels(encoded(image)).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_a_palette_is_looked_up():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60] + [0] * 750)
    image.putdata([1, 0])
    assert pixels(encoded(image)).tolist() == [[[40, 50, 60], [10, 20, 30]]]
    # A palette entry that is see-through shows the white behind it.
    assert pixels(encoded(image, transparency=0)).tolist() == [[[40, 50, 60], [255, 255, 255]]]


def test_what_is_transparent_shows_white():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    expected = [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    assert pixels(encoded(Image.fromarray(rgba))).tolist() == expected
    assert pixels(rgba).tolist() == expected
    gray = Image.merge("LA", [Image.new("L", (1, 1), 7), Image.new("L", (1, 1), 0)])
    assert pixels(encoded(gray)).tolist() == [[[255, 255, 255]]]


def test_sixteen_bits_are_scaled_and_not_cut_off():
    wide = np.array([[0, 257, 32896, 65535]], np.uint16)
    for form in ("PNG", "TIFF"):
        found = pixels(encoded(Image.fromarray(wide), form))
        assert found[..., 0].tolist() == [[0, 1, 128, 255]]


def test_pixels_without_a_known_range_are_refused():
    for kind in (np.int32, np.float32):
        image = Image.fromarray(np.full((2, 2), 70000, kind))
        with pytest.raises(DataError, match="no known range"):
            decode(encoded(image, "TIFF"), None)


def test_cmyk_is_converted():
    image = Image.new("CMYK", (2, 2), (0, 0, 0, 255))
    assert pixels(encoded(image, "TIFF")).max() == 0


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(form):
    image = Image.new("RGB", (40, 16), "black")
    image.paste("white", (0, 0, 20, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    found = pixels(encoded(image, form, exif=exif))
    assert found.shape == (40, 16, 3)
    assert found[:15].min() > 200  # what was left is now on top
    assert found[25:].max() < 50
    assert pixels(encoded(image, form, exif=exif), (20, 8)).shape == (20, 8, 3)


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (3, 3), color) for color in ("red", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(moving)[0, 0].tolist() == [255, 0, 0]


def test_a_size_covers_and_cuts_on_both_sides_alike():
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (10, 0, 30, 20))  # the middle square
    found = pixels(encoded(image), (10, 10))
    assert found.shape == (10, 10, 3)
    assert found[:, 1:-1].min() > 200
    assert pixels(encoded(image), (7, 31)).shape == (7, 31, 3)


def test_jpeg_at_a_size_is_close_to_the_whole_scaled_down():
    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (256, 1))] * 3, axis=-1))
    found = pixels(encoded(image, "JPEG", quality=95), (32, 32)).astype(int)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert abs(found - expected).max() <= 4


def broken_png_chunk(good):
    """A PNG whose pixel data has a wrong checksum and stops early."""
    place = good.index(b"IDAT")
    return good[: place + 12]


@pytest.mark.parametrize(
    "make",
    [
        lambda good: b"",
        lambda good: b"not an image",
        lambda good: good[: len(good) // 2],
        broken_png_chunk,
        lambda good: good[:16] + b"\xff" * 8 + good[24:],
        lambda good: b"\xff\xd8\xff\xe0" + b"\x00" * 50,
        lambda good: b"GIF89a" + b"\xff" * 40,
    ],
)
def test_a_damaged_image_is_named_and_nothing_else_fails(png, make):
    pool = ImagePool(Bytes([png(0), make(png(1)), png(2)]), ["a", "b", "c"])
    with pytest.raises(DataError, match=r"1 images cannot be read: 'b'.*skip_unreadable=True"):
        pool.images()
    with pytest.raises(DataError, match="'b'"):
        pool.items([1])
    assert [item for item, _ in pool.unreadable()] == ["b"]
    assert pool.images([0, 2]).shape == (2, 6, 8, 3)
    assert pool.fingerprint


def test_a_picture_that_claims_to_be_huge_is_refused():
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0"))
    with pytest.raises(DataError, match="pixels"):
        decode(bomb + chunk(b"IEND", b""), None)


def test_every_bad_image_of_a_large_pool_is_found(png):
    items = [png(row % 5) for row in range(500)]
    for row in (0, 63, 64, 499):
        items[row] = b"?"
    pool = ImagePool(Bytes(items))
    assert [item for item, _ in pool.unreadable()] == ["row/0", "row/63", "row/64", "row/499"]
    with pytest.raises(DataError, match=r"4 images cannot be read.* and 1 more"):
        pool.images()


def test_threads_keep_the_order(png):
    pool = ImagePool(Bytes([png(row) for row in range(200)]))
    together = pool.images()
    alone = np.stack([pixels(png(row)) for row in range(200)])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(pool.images([150, 3]), alone[[150, 3]])
    np.testing.assert_array_equal(np.asarray(pool.items([150])[0]), alone[150])


def test_images_of_different_sizes_need_a_size(png):
    pool = ImagePool(Bytes([png(0, 6, 8), png(1, 6, 8), png(2, 4, 4)]), ["a", "b", "c"])
    with pytest.raises(DataError, match=r"'c' is 4x4 .*others are 6x8; give size="):
        pool.images()
    assert pool.images(size=5).shape == (3, 5, 5, 3)
    assert pool.images(size=(3, 4)).shape == (3, 3, 4, 3)
    assert [image.size for image in pool.items()] == [(8, 6), (8, 6), (4, 4)]


@pytest.mark.parametrize("size", [0, (3, 0), (1, 2, 3), 2.5, "8", (1.5, 2)])
def test_a_size_that_is_none_is_refused(png, size):
    with pytest.raises(InputError, match="size must be"):
        ImagePool(Bytes([png(0)])).images(size=size)


def test_no_rows_give_no_images(png):
    assert ImagePool(Bytes([png(0)])).images([], size=4).shape == (0, 4, 4, 3)


def test_pixels_are_images(picture):
    gray = np.arange(2 * 5 * 4, dtype=np.uint8).reshape(2, 5, 4)
    pool = ImagePool(PixelImages(gray))
    np.testing.assert_array_equal(pool.images()[..., 1], gray)
    np.testing.assert_array_equal(ImagePool(PixelImages(gray[..., None])).images(), pool.images())
    assert pool.images(size=2).shape == (2, 2, 2, 3)
    assert pool.items([1])[0].size == (4, 5)
    assert pool.unreadable() == []
    as_bytes = ImagePool(FetchedImages(lambda row: gray[row], 2))
    np.testing.assert_array_equal(as_bytes.images(), pool.images())
    assert as_bytes.fingerprint == ImagePool(PixelImages(gray)).fingerprint


@pytest.mark.parametrize(
    "array", [np.zeros((2, 4, 4)), np.zeros((2, 4), np.uint8), np.zeros((2, 3, 9, 9), np.uint8)]
)
def test_pixels_of_another_type_or_shape_are_refused(array):
    with pytest.raises(DataError, match="images must"):
        PixelImages(array)


def test_a_file_that_vanishes_is_named(folder):
    root = folder(["x.png", "y.png"])
    pool = ImagePool(FileImages(root, ["x.png", "y.png"]), ["x.png", "y.png"])
    (root / "y.png").unlink()
    with pytest.raises(DataError, match=r"'y.png'.*No such file"):
        pool.images()


def test_class_folders(folder):
    root = folder(["cat/1.png", "cat/2\u202fpm.png", "ant/deep/3.PNG"])
    (root / "ant" / "notes.txt").write_text("x")
    (root / "empty").mkdir()
    (root / ".hidden").mkdir()
    (root / ".hidden" / "z.png").write_bytes(b"?")
    data = open_data(root, holdout=0)
    assert data.pool.ids == ["ant/deep/3.PNG", "cat/1.png", "cat/2\u202fpm.png"]
    assert data.classes == ["ant", "cat"]
    assert data.labels.tolist() == [0, 1, 1]
    assert data.name == "photos"
    assert data.kind == "image"
    assert any("1 files that are no images" in note for note in data.notes)
    assert any("'empty'" in note for note in data.notes)
    np.testing.assert_array_equal(open_data(str(root), holdout=0).labels, data.labels)


def test_flat_folder_has_no_labels(folder):
    data = open_data(folder(["2.png", "1.png"]))
    assert data.pool.ids == ["1.png", "2.png"]
    assert data.labels.tolist() == [-1, -1]
    assert data.classes == []
    assert data.test is None
    with pytest.raises(DataError, match=r"photos has no labels.*label="):
        data.require_labels()


def test_split_folders(folder):
    data = open_data(folder(["train/a/1.png", "train/b/2.png", "Test/a/3.png", "val/b/4.png"]))
    assert data.pool.ids == ["train/a/1.png", "train/b/2.png"]
    assert data.test.ids == ["Test/a/3.png"]
    assert data.validation.ids == ["val/b/4.png"]
    assert data.classes == ["a", "b"]
    assert (data.test_labels.tolist(), data.validation_labels.tolist()) == ([0], [1])
    assert len(data.test.images()) == 1
    assert data.require_labels() is data


def test_a_class_called_train_is_no_split(folder):
    paths = ["train/1.png", "train/2.png", "bus/1.png", "bus/2.png"]
    assert open_data(folder(paths)).classes == ["bus", "train"]


def test_an_image_beside_a_folder_called_train_has_no_label(folder):
    data = open_data(folder(["0.png", "train/1.png", "train/2.png"]), holdout=0)
    assert data.classes == ["train"]
    assert data.labels.tolist() == [-1, 0, 0]


def test_split_false_makes_classes_of_split_folders(folder):
    data = open_data(folder(["train/1.png", "test/2.png"]), split=False, holdout=0)
    assert data.classes == ["test", "train"]


def test_a_folder_whose_links_run_in_a_circle_is_read_once(folder):
    root = folder(["a/1.png"])
    (root / "a" / "again").symlink_to(root, target_is_directory=True)
    assert open_data(root).pool.ids == ["a/1.png"]


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"'none' holds no image \(0 other files\); images end in"):
        open_data(tmp_path / "none")


def test_a_file_name_that_is_no_text_is_refused(folder, png):
    root = folder(["1.png"])
    with open(os.path.join(os.fsencode(root), b"caf\xe9.png"), "wb") as file:
        file.write(png(0))
    with pytest.raises(DataError, match=r"'caf.udce9.png' is no text; rename"):
        open_data(root)


def test_a_folder_has_no_columns(folder):
    with pytest.raises(DataError, match="label='y' names nothing"):
        open_data(folder(["a/1.png"]), label="y")


def test_unreadable_images_are_left_out_on_request(folder):
    paths = [f"{name}/{row}.png" for name in "ab" for row in range(5)]
    root = folder(paths)
    (root / "a" / "3.png").write_bytes(b"damaged")
    whole = open_data(root, holdout=0)  # nothing is decoded, so nothing fails
    assert len(whole.pool) == 10
    data = open_data(root, holdout=0, skip_unreadable=True)
    assert data.skipped == [("a/3.png", "not an image of a known format")]
    assert "a/3.png" not in data.pool.ids
    assert len(data.labels) == len(data.pool) == 9
    assert data.pool.images().shape == (9, 6, 8, 3)
    assert data.fingerprint != whole.fingerprint


def test_a_pool_of_unreadable_images_alone_is_refused(folder):
    root = folder(["a/1.png"])
    (root / "a" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 1 items can be read.*empty"):
        open_data(root, skip_unreadable=True)


def test_cells_of_bytes_paths_and_nothing(png, folder):
    import pyarrow as pa

    root = folder(["1.png"])
    structs = pa.array([{"bytes": png(3), "path": None}, {"bytes": None, "path": "1.png"}, None])
    pool = ImagePool(ColumnImages(structs, root))
    np.testing.assert_array_equal(pool.images([0])[0], pixels(png(3)))
    np.testing.assert_array_equal(pool.images([1])[0], pixels(png(0)))
    assert pool.unreadable() == [("row/2", "the cell is empty")]
