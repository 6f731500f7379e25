"""The journal survives what disks and people do to it."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import subprocess
import sys

import pytest

from labelwise.benchmark import journal as module
from labelwise.benchmark.journal import Journal, decode, encode, locked, write_atomically
from labelwise.errors import ResourceError, ResultsError

RECORDS = [{"kind": "round", "round": i, "accuracy": i / 7} for i in range(5)]


@pytest.fixture
def path(tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        for record in RECORDS:
            journal.append(record)
    return tmp_path / "journal.jsonl"


def read(path):
    with Journal(path) as journal:
        return journal.records


def test_what_was_written_is_read(path):
    assert read(path) == RECORDS
    for line in path.read_text().splitlines():
        json.loads(line)


def test_floats_come_back_to_the_bit():
    stream = random.Random(0)
    values = [stream.uniform(-1, 1) * 10 ** stream.randint(-300, 300) for _ in range(500)]
    values += [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf]
    back = decode(encode({"values": values})[:-1])["values"]
    assert [v.hex() for v in back] == [v.hex() for v in values]


def test_ids_of_any_text_come_back():
    ids = ["a\nb", 'quote"', "\u2028", "é", "\ud800", '"record":']
    assert decode(encode({"ids": ids})[:-1]) == {"ids": ids}


@pytest.mark.parametrize("keep", range(1, 60))
def test_a_torn_last_line_is_cut_off_wherever_it_tore(path, keep):
    content = path.read_bytes()
    start = content.rindex(b"\n", 0, len(content) - 1) + 1
    path.write_bytes(content[: start + min(keep, len(content) - start - 1)])
    assert read(path) == RECORDS[:-1]
    assert path.read_bytes() == content[:start]


def test_a_torn_line_with_its_newline_is_cut_off(path):
    content = path.read_bytes()
    path.write_bytes(content[:-10] + b"\0" * 9 + b"\n")
    assert read(path) == RECORDS[:-1]


def test_the_next_record_goes_where_the_torn_line_was(path):
    path.write_bytes(path.read_bytes()[:-10])
    with Journal(path) as journal:
        journal.append({"kind": "again"})
    assert read(path) == [*RECORDS[:-1], {"kind": "again"}]


def test_damage_before_the_end_is_refused(path):
    content = path.read_bytes().replace(b'"round":2', b'"round":3')
    path.write_bytes(content)
    with pytest.raises(ResultsError, match=r"line 3 of .* is damaged"):
        read(path)
    assert path.read_bytes() == content


def test_a_full_disk_leaves_the_journal_as_it_was(path, monkeypatch):
    before = path.read_bytes()
    real = os.write

    def half_then_full(file, data):
        if len(data) > 20:
            return real(file, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(path) as journal:
        monkeypatch.setattr(module.os, "write", half_then_full)
        with pytest.raises(ResourceError, match=r"no space left .* run the same call again"):
            journal.append({"kind": "round", "long": "x" * 55})
        assert path.read_bytes() == before
        assert journal.records == RECORDS
        monkeypatch.undo()
        journal.append({"kind": "later"})
    assert read(path)[-1] == {"kind": "later"}


def test_another_write_error_names_the_file(path, monkeypatch):
    def broken(file, data):
        raise OSError(errno.EIO, "Input/output error")

    with Journal(path) as journal:
        monkeypatch.setattr(module.os, "write", broken)
        with pytest.raises(ResultsError, match=r"cannot write .*journal.jsonl: Input/output"):
            journal.append({})


def test_every_append_reaches_the_disk(path, monkeypatch):
    synced = []
    monkeypatch.setattr(module.os, "fsync", synced.append)
    with Journal(path) as journal:
        synced.clear()
        journal.append({"kind": "x"})
        assert synced == [journal._file]


def test_one_process_at_a_time(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from labelwise.benchmark.journal import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ResultsError, match=rf"in use by another run \(process {holder.pid}\)"),
            locked(tmp_path / "run"),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with locked(tmp_path / "run"):  # a killed holder leaves nothing locked
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot write"), locked(tmp_path / "file" / "run"):
        pass


def test_write_atomically_replaces_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table"
    write_atomically(path, lambda file: file.write(b"old"))

    def fails_midway(file):
        file.write(b"new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ResourceError, match="no space left"):
        write_atomically(path, fails_midway)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["table"]
