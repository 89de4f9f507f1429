"""Files are written whole or not at all, and nothing is left of those that were not."""

import errno
import os
import re
import time

import pytest

from capkit._files import write_atomically


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model [1].bin"
    path.write_bytes(b"old")
    return path


def left_by_another(path, *, age):
    """A file as a writer leaves it that is killed, so many seconds ago."""
    partial = path.with_name(f".{path.name}.123-456.partial")
    partial.write_bytes(b"half")
    os.utime(partial, (time.time() - age,) * 2)
    return partial


def test_the_new_content_takes_the_place_of_the_old(path):
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_writer_left_is_deleted_by_the_next(path):
    left_by_another(path, age=3600)
    write_atomically(path, b"new")
    assert list(path.parent.iterdir()) == [path]


def test_what_another_may_be_writing_is_left_alone(path):
    partial = left_by_another(path, age=30)
    write_atomically(path, b"new")
    assert partial.read_bytes() == b"half"


def test_what_belongs_to_another_file_is_left_alone(path):
    other = left_by_another(path.with_name("model 1.bin"), age=3600)
    write_atomically(path, b"new")
    assert other.exists()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError("disk is full")))
    with pytest.raises(OSError, match="disk is full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_names_the_file_that_was_asked_for(path, monkeypatch, step):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match=f"{re.escape(repr(str(path)))}$") as caught:
        write_atomically(path, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_not_there_is_named_as_it_was_given(tmp_path):
    path = tmp_path / "none" / "model.bin"
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(path, b"new")
    assert caught.value.filename == str(path)
