"""Encodings on disk: made once, never half-written, made anew when damaged."""

import errno
import os
import subprocess
import sys
import time
from typing import ClassVar

import numpy as np
import pytest
import torch

from labelwise.errors import DataError, InputError, ResourceError
from labelwise.learners import Encoder, StreamingEncoder, encode_data, make_encoder
from labelwise.learners import encoding as module
from labelwise.pools import ArrayPool, Data


class Squares:
    """Holds its array in memory; counts its work."""

    name = "squares"
    worked: ClassVar[list[str]] = []

    def __init__(self, power=2):
        self.power = power

    def signature(self):
        return {"name": self.name, "power": self.power}

    def fit(self, pool, *, seed):
        Squares.worked.append(f"fit {len(pool)} {seed}")
        return self

    def encode(self, pool, *, out=None, progress=None):
        assert out is None
        Squares.worked.append("encode")
        if progress:
            progress(len(pool), len(pool))
        return torch.from_numpy(pool.array().tensor().numpy() ** self.power)


class Streamed(Squares):
    """The same, written straight to where it is asked to."""

    name = "streamed"

    def item_shape(self):
        return (3,)

    def dtype(self):
        return np.dtype(np.float64)

    def encode(self, pool, *, out=None, progress=None):
        Squares.worked.append("encode to a file" if out is not None else "encode")
        values = pool.array().tensor().numpy() ** self.power
        if out is None:
            return values
        out[:] = values
        return out


def data(pool=5, test=2, shift=0.0, labels=None):
    items = np.arange(3.0 * (pool + test)).reshape(-1, 3) + shift
    return Data(
        pool=ArrayPool(items[:pool]),
        labels=np.zeros(pool, np.int64) if labels is None else labels,
        test=ArrayPool(items[pool:], [f"test/{i}" for i in range(test)]) if test else None,
        test_labels=np.zeros(test, np.int64) if test else None,
        classes=["a", "b"],
        name="data",
    )


@pytest.fixture(autouse=True)
def forget():
    Squares.worked.clear()


def check(encoded, pool=5, test=2):
    items = np.arange(3.0 * (pool + test)).reshape(-1, 3) ** 2
    np.testing.assert_array_equal(encoded.pool.tensor().numpy(), items[:pool])
    if test:
        np.testing.assert_array_equal(encoded.test.tensor().numpy(), items[pool:])
    else:
        assert encoded.test is None


def test_stand_ins_follow_the_protocols():
    assert isinstance(Squares(), Encoder)
    assert not isinstance(Squares(), StreamingEncoder)
    assert isinstance(Streamed(), StreamingEncoder)


@pytest.mark.parametrize("kind", [Squares, Streamed])
def test_without_a_cache_it_is_in_memory(kind):
    encoded = encode_data(data(), kind(), seed=7)
    check(encoded)
    assert encoded.cache_path is None
    assert Squares.worked == ["fit 5 7", "encode", "encode"]


@pytest.mark.parametrize("kind", [Squares, Streamed])
def test_the_second_time_it_is_read(kind, tmp_path):
    check(encode_data(data(), kind(), seed=7, cache=tmp_path / "deep" / "cache"))
    assert Squares.worked.count("encode to a file") == (2 if kind is Streamed else 0)
    Squares.worked.clear()
    again = encode_data(data(), kind(), seed=7, cache=tmp_path / "deep" / "cache")
    check(again)
    assert Squares.worked == []
    assert again.cache_path.parent == tmp_path / "deep" / "cache"
    assert not list((tmp_path / "deep" / "cache").glob(".*"))


def test_without_a_test_set(tmp_path):
    check(encode_data(data(test=0), Squares(), seed=0, cache=tmp_path), test=0)
    check(encode_data(data(test=0), Squares(), seed=0, cache=tmp_path), test=0)


def test_what_made_it_decides_and_labels_do_not(tmp_path):
    def path(**changes):
        given = {"data": data(), "encoder": Squares(), "seed": 0} | changes
        return encode_data(given["data"], given["encoder"], seed=given["seed"], cache=tmp_path)[3]

    first = path()
    assert path(data=data(labels=np.ones(5, np.int64))) == first
    others = [
        path(seed=1),
        path(encoder=Squares(3)),
        path(encoder=Streamed()),
        path(data=data(shift=1.0)),
        path(data=data(test=3)),
        path(data=data(test=0)),
    ]
    assert len({first, *others}) == 7


@pytest.mark.parametrize("name", ["pool.npy", "test.npy", "encoding.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone"])
def test_a_damaged_encoding_is_made_anew(name, damage, tmp_path):
    path = encode_data(data(), Squares(), seed=0, cache=tmp_path).cache_path / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "flip":
        # In the card the first byte; in an array the last: the header alone would not tell.
        at = 0 if name.endswith("json") else len(content) - 1
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    Squares.worked.clear()
    check(encode_data(data(), Squares(), seed=0, cache=tmp_path))
    assert Squares.worked
    Squares.worked.clear()
    check(encode_data(data(), Squares(), seed=0, cache=tmp_path))
    assert not Squares.worked
    assert not list(tmp_path.glob(".*"))


def test_an_open_encoding_outlives_its_repair(tmp_path):
    first = encode_data(data(), Squares(), seed=0, cache=tmp_path)
    (first.cache_path / "encoding.json").unlink()
    check(encode_data(data(), Squares(), seed=0, cache=tmp_path))
    check(first)


def test_progress_counts_pool_and_test_together(tmp_path):
    told = []

    def tell(done, total):
        told.append((done, total))

    for cache in (None, tmp_path, tmp_path):
        encode_data(data(), Squares(), seed=0, cache=cache, progress=tell)
    assert told == [(5, 7), (7, 7), (5, 7), (7, 7), (7, 7)]


# --- when it goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Squares, Streamed])
def test_a_full_disk_is_one_line_and_leaves_nothing(kind, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.np, "save", full)
    monkeypatch.setattr(module.os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match=r"the disk is full: no room .* cache=None"):
        encode_data(data(), kind(), seed=0, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_larger_than_the_limit_is_an_error_and_no_signal(tmp_path):
    """A real refusal by the system: writing through a memory map would kill the process."""
    code = f"""
import resource, signal, sys
sys.path[:0] = {[os.path.dirname(__file__)]!r}
from test_encoding import Streamed, data
from labelwise.errors import ResourceError
from labelwise.learners import encode_data
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    encode_data(data(pool=1000), Streamed(), seed=0, cache={str(tmp_path)!r})
except ResourceError as error:
    sys.exit(0 if "cannot be kept" in str(error) else 1)
sys.exit(2)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_no_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot be kept in .*file.*name another folder"):
        encode_data(data(), Squares(), seed=0, cache=tmp_path / "file")


def test_an_encoder_that_fails_leaves_nothing(tmp_path):
    class Failing(Streamed):
        def encode(self, pool, *, out=None, progress=None):
            raise DataError("item 'x' cannot be read")

    with pytest.raises(DataError, match="item 'x'"):
        encode_data(data(), Failing(), seed=0, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cached", [True, False])
def test_a_row_per_item_is_required(cached, tmp_path):
    class Short(Squares):
        def encode(self, pool, **_):
            return np.zeros((len(pool) - 1, 2))

    with pytest.raises(InputError, match="5 items of the pool and 4 rows"):
        encode_data(data(), Short(), seed=0, cache=tmp_path if cached else None)


def test_two_processes_that_race_both_succeed(tmp_path):
    code = f"""
import sys, time
sys.path[:0] = {[os.path.dirname(__file__)]!r}
from test_encoding import Streamed, check, data
from labelwise.learners import encode_data
class Slow(Streamed):
    def fit(self, pool, *, seed):
        time.sleep(0.3)
        return self
for _ in range(2):
    check(encode_data(data(), Slow(), seed=0, cache={str(tmp_path)!r}))
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)
    ]
    errors = [process.communicate(timeout=120)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    assert len(list(tmp_path.iterdir())) == 1


def test_who_comes_second_leaves_the_first_in_place(tmp_path):
    class Late(Squares):
        def fit(self, pool, *, seed):
            self.first = encode_data(data(), Squares(), seed=0, cache=tmp_path).cache_path.stat()
            return self

    late = Late()
    encoded = encode_data(data(), late, seed=0, cache=tmp_path)
    check(encoded)
    assert encoded.cache_path.stat().st_ino == late.first.st_ino
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_deleted_when_old(tmp_path):
    name = encode_data(data(), Squares(), seed=0, cache=tmp_path).cache_path.name
    (tmp_path / name / "pool.npy").unlink()
    old, young, busy = (tmp_path / f".{name}-{age}" for age in ("old", "young", "busy"))
    for left in (old, young, busy):
        left.mkdir()
        (left / "pool.npy").write_bytes(b"half")
    long_ago = time.time() - 2 * module.STALE_SECONDS
    os.utime(old / "pool.npy", (long_ago, long_ago))
    for folder in (old, busy):  # a long encoding writes to its file, which leaves the folder's time
        os.utime(folder, (long_ago, long_ago))
    check(encode_data(data(), Squares(), seed=0, cache=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {name, young.name, busy.name}


def test_a_long_name_is_no_trouble(tmp_path):
    encoder = Squares()
    encoder.name = "concat:" + "+".join(f"pretrained:/some/where/{i}" for i in range(20))
    encoded = encode_data(data(), encoder, seed=0, cache=tmp_path)
    check(encoded)
    assert encoded.cache_path.name.startswith("concat-pretrained--some-where-0")


def test_an_array_pool_is_not_copied(tmp_path):
    path = tmp_path / "array.npy"
    np.save(path, np.ones((4, 3), np.float32))
    array = np.load(path, mmap_mode="r")
    source = Data(ArrayPool(array), np.zeros(4, np.int64), None, None, ["a", "b"], "data")
    encoded = encode_data(source, make_encoder("identity"), seed=0, cache=tmp_path / "cache")
    assert encoded.cache_path is None
    assert encoded.pool.shape == (4, 3)
    assert not (tmp_path / "cache").exists()
