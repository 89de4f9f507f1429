"""Archives of data sets are extracted whole, inside their folder, or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from archive_server import make_tar, make_zip

from capkit.datasets import _archives
from capkit.datasets._archives import extract, is_extracted
from capkit.exceptions import DatasetError

NOISE = np.random.default_rng(0).bytes(50_000)
FILES = {"top/a.txt": b"a", "top/deep/b.bin": NOISE, "beside.txt": b"not wanted"}
MAKERS = {"set.tgz": make_tar, "set.zip": make_zip}


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture(params=list(MAKERS))
def archive(request, home):
    return put(home, request.param, FILES)


def put(home, name, files):
    path = home / name
    path.write_bytes(MAKERS[name](files))
    return path


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def assert_nothing_was_kept(archive, home):
    """Neither in the folder nor beside it, nor outside of the data home."""
    left = {path.relative_to(home.parent).as_posix() for path in home.parent.rglob("*")}
    assert left - {"home/.out.lock"} == {"home", f"home/{archive.name}"}


def member(name, kind, target=""):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def test_the_wanted_folder_becomes_the_folder_asked_for(archive, home):
    folder = home / "new" / "out"
    assert not is_extracted(folder)
    extract(archive, "top", folder)
    assert contents(folder) == {"a.txt": b"a", "deep/b.bin": NOISE}
    assert is_extracted(folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == [".out.lock", "out"]


@pytest.mark.parametrize("harm", ["missing", "shorter", "unrecorded", "damaged record"])
def test_a_folder_that_is_not_complete_is_replaced(archive, home, harm):
    folder = home / "out"
    extract(archive, "top", folder)
    if harm == "missing":
        (folder / "a.txt").unlink()
    elif harm == "shorter":
        (folder / "deep" / "b.bin").write_bytes(NOISE[:-1])
    else:
        (folder / ".extracted.json").write_text("" if harm == "damaged record" else "{")
        (folder / "stale.txt").touch()
    assert not is_extracted(folder)
    extract(archive, "top", folder)
    assert contents(folder) == {"a.txt": b"a", "deep/b.bin": NOISE}
    assert is_extracted(folder)


def test_a_complete_folder_is_not_extracted_again(archive, home):
    folder = home / "out"
    extract(archive, "top", folder)
    (folder / "notes.txt").write_text("mine")
    assert is_extracted(folder)
    extract(archive, "top", folder)
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["/abs.txt", "../up.txt", "top/../../up.txt", "..\\up.txt", "C:up.txt"]
)
@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_member_that_would_be_written_elsewhere_is_refused(home, kind, name):
    archive = put(home, kind, {"top/a.txt": b"a", name: b"evil", "top/z.txt": b"z"})
    with pytest.raises(DatasetError, match=r"was not extracted.*would be written elsewhere"):
        extract(archive, "top", home / "out")
    assert_nothing_was_kept(archive, home)


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("top/link", tarfile.SYMTYPE, "/etc"),
        ("top/link", tarfile.SYMTYPE, "../../up"),
        ("top/link", tarfile.SYMTYPE, "../beside.txt"),
        ("top/link", tarfile.SYMTYPE, "deep/../../beside.txt"),
        ("top/link", tarfile.LNKTYPE, "beside.txt"),
        ("top/link", tarfile.LNKTYPE, "/etc/passwd"),
        ("top", tarfile.SYMTYPE, "."),
    ],
)
def test_a_link_that_leads_out_of_the_folder_is_refused(home, name, kind, target):
    archive = home / "set.tgz"
    archive.write_bytes(make_tar(FILES, member(name, kind, target)))
    with pytest.raises(DatasetError, match="is a link that leads elsewhere"):
        extract(archive, "top", home / "out")
    assert_nothing_was_kept(archive, home)


def test_a_link_that_leads_out_by_another_link_is_refused(home):
    """By its text it stays inside: "sub" is a link to the top by then."""
    archive = home / "set.tgz"
    links = [
        member("top/deep/sub", tarfile.SYMTYPE, ".."),
        member("top/deep/out", tarfile.SYMTYPE, "sub/../x"),
    ]
    archive.write_bytes(make_tar(FILES, *links))
    with pytest.raises(DatasetError, match="'deep/out' is not safe"):
        extract(archive, "top", home / "top")


def test_a_link_inside_the_folder_is_kept(home):
    archive = home / "set.tgz"
    links = [
        member("top/deep/link", tarfile.SYMTYPE, "../a.txt"),
        member("top/deep/same", tarfile.LNKTYPE, "top/a.txt"),
    ]
    archive.write_bytes(make_tar(FILES, *links))
    extract(archive, "top", home / "out")
    assert (home / "out" / "deep" / "link").read_bytes() == b"a"
    assert (home / "out" / "deep" / "same").read_bytes() == b"a"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_device_is_refused(home, kind):
    archive = home / "set.tgz"
    archive.write_bytes(make_tar(FILES, member("top/device", kind)))
    with pytest.raises(DatasetError, match="'top/device' is a device"):
        extract(archive, "top", home / "out")
    assert_nothing_was_kept(archive, home)


def test_a_link_in_a_zip_is_refused(home):
    archive = put(home, "set.zip", FILES)
    with zipfile.ZipFile(archive, "a") as packed:
        link = zipfile.ZipInfo("top/link")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(DatasetError, match="'top/link' is a link or a device"):
        extract(archive, "top", home / "out")
    assert_nothing_was_kept(archive, home)


@pytest.mark.parametrize("kept", [0, 100, 25_000, -10])
def test_a_truncated_archive_is_a_clear_error(archive, home, kept):
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(
        DatasetError, match=r"is damaged and was not extracted .*Delete it and call"
    ):
        extract(archive, "top", home / "out")
    assert_nothing_was_kept(archive, home)


def test_flipped_bits_are_a_clear_error(archive, home):
    damaged = bytearray(archive.read_bytes())
    damaged[25_000] ^= 255
    archive.write_bytes(damaged)
    with pytest.raises(DatasetError, match="is damaged"):
        extract(archive, "top", home / "out")
    assert_nothing_was_kept(archive, home)


def test_an_archive_of_something_else_is_an_error(archive, home):
    with pytest.raises(DatasetError, match=r"expected files in a folder 'jpg' of .*set"):
        extract(archive, "jpg", home / "out")
    assert_nothing_was_kept(archive, home)


def test_a_full_disk_leaves_nothing_and_names_the_folder(archive, home, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    monkeypatch.setattr(tarfile, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left") as caught:
        extract(archive, "top", home / "out")
    assert caught.value.filename == str(home / "out")
    assert_nothing_was_kept(archive, home)


def test_a_failed_extraction_leaves_the_old_folder_as_it_was(archive, home):
    (home / "out").mkdir()
    (home / "out" / "mine.txt").write_text("mine")
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(DatasetError):
        extract(archive, "top", home / "out")
    assert contents(home / "out") == {"mine.txt": b"mine"}


def test_what_a_killed_process_left_is_removed(archive, home):
    left = home / ".out.partial" / "top"
    left.mkdir(parents=True)
    (left / "half.bin").touch()
    extract(archive, "top", home / "out")
    assert "half.bin" not in contents(home / "out")
    assert not left.exists()


def test_threads_that_extract_at_once_do_it_once(archive, home, monkeypatch):
    counted, unpack = [], _archives._unpack

    def counting(*arguments):
        counted.append(arguments)
        unpack(*arguments)

    monkeypatch.setattr(_archives, "_unpack", counting)
    threads = [
        threading.Thread(target=extract, args=(archive, "top", home / "out")) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counted) == 1
    assert is_extracted(home / "out")


def test_the_record_names_each_file_with_its_size(archive, home):
    extract(archive, "top", home / "out")
    recorded = json.loads((home / "out" / ".extracted.json").read_text())
    assert recorded == {"a.txt": 1, "deep/b.bin": 50_000}
