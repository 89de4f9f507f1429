"""Downloads of data sets: resumed, checked, and never wrong under the final name."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pooch
import pytest
from archive_server import ArchiveServer, checksum

from capkit.datasets import _download
from capkit.datasets._download import RemoteFile, data_folder, fetch_files
from capkit.exceptions import DatasetDownloadError, DatasetError

CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def server():
    with ArchiveServer() as server:
        server.put("set.tgz", CONTENT)
        yield server


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(_download, "_PAUSES_SECONDS", (0.0, 0.0, 0.0))


@pytest.fixture
def file(server):
    return RemoteFile("set.tgz", f"{server.url}/set.tgz", checksum(CONTENT))


def fetch(file, folder, *, download=True):
    [path] = fetch_files([file], folder, download=download, owner="fetch_set")
    return path


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_files_come_in_order_below_the_folder(server, tmp_path):
    files = [
        RemoteFile("labels/b.txt", server.put("b.txt", b"bb"), checksum(b"bb", "md5")),
        RemoteFile("a.txt", server.put("a.txt", b"a"), None),
    ]
    paths = fetch_files(files, tmp_path / "set", download=True, owner="fetch_set")
    assert paths == [tmp_path / "set" / "labels" / "b.txt", tmp_path / "set" / "a.txt"]
    assert [path.read_bytes() for path in paths] == [b"bb", b"a"]


def test_a_second_call_asks_nobody_and_hashes_nothing(server, file, tmp_path, monkeypatch):
    fetch(file, tmp_path)
    server.requests.clear()
    monkeypatch.setattr(pooch, "file_hash", lambda *arguments, **options: pytest.fail("hashed"))
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.requests == []


def test_a_file_that_changed_on_the_disk_is_downloaded_again(server, file, tmp_path):
    path = fetch(file, tmp_path)
    path.write_bytes(CONTENT[:-1] + b"x")
    os.utime(path, (0, 0))
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_cut_download_goes_on_where_it_was_cut(server, file, tmp_path):
    server.cuts = [100_000]
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    first, second = server.requests
    assert first.range is None
    assert first.accept_encoding == second.accept_encoding == "identity"
    assert second.range == "bytes=100000-"
    assert (second.status, second.sent) == (206, 200_000)
    assert visible(tmp_path) == ["set.tgz"]


def test_a_download_that_breaks_off_again_and_again_is_gone_on_with_by_the_next_call(
    server, file, tmp_path
):
    server.cuts = [100_000, 50_000, 0, 1_000]
    with pytest.raises(DatasetDownloadError, match=r"151,000 bytes have come.*calling again goes"):
        fetch(file, tmp_path)
    assert visible(tmp_path) == ["set.tgz.part", "set.tgz.part.json"]
    assert [request.range for request in server.requests] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
        "bytes=150000-",
    ]
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.requests[-1].range == "bytes=151000-"
    assert visible(tmp_path) == ["set.tgz"]


@pytest.mark.parametrize("has_conditions", [True, False])
def test_a_file_that_changed_on_the_server_in_between_is_downloaded_anew(
    server, tmp_path, has_conditions
):
    """Also where the server sends a part of the new file, whatever the condition says."""
    server.has_conditions = has_conditions
    changed = CONTENT[::-1]
    file = RemoteFile("set.tgz", f"{server.url}/set.tgz", checksum(changed))
    server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(DatasetDownloadError):
        fetch(file, tmp_path)
    server.put("set.tgz", changed)
    server.requests.clear()
    assert fetch(file, tmp_path).read_bytes() == changed
    first, last = server.requests[0], server.requests[-1]
    assert first.range == "bytes=100000-"
    assert first.status == (200 if has_conditions else 206)
    assert (last.status, last.sent) == (200, 300_000)


def test_a_server_without_ranges_sends_all_again(server, file, tmp_path):
    server.has_ranges = False
    server.cuts = [100_000]
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert [request.status for request in server.requests] == [200, 200]


def test_without_a_version_nothing_is_resumed(server, file, tmp_path):
    server.has_tags = False
    server.cuts = [100_000]
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert [request.range for request in server.requests] == [None, None]


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        ({"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, "Wed, 21 Oct 2015 07:28:00 GMT"),
        ({"ETag": 'W/"weak"'}, None),
    ],
)
def test_only_what_tells_versions_apart_is_a_condition(server, file, tmp_path, headers, condition):
    """If-Range takes no weak tag: those stand for files that are alike, not the same."""
    server.has_tags = False
    server.headers = headers
    server.cuts = [100_000]
    fetch(file, tmp_path)
    assert server.requests[1].if_range == condition


def test_a_part_of_another_address_is_of_no_use(server, file, tmp_path):
    server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(DatasetDownloadError):
        fetch(file, tmp_path)
    server.requests.clear()
    moved = RemoteFile("set.tgz", server.put("mirror.tgz", CONTENT), file.checksum)
    assert fetch(moved, tmp_path).read_bytes() == CONTENT
    assert server.requests[0].range is None


@pytest.mark.parametrize("surplus", [0, 5])
def test_a_part_as_long_as_the_file_or_longer(server, file, tmp_path, surplus):
    """All of it is taken as it is; too much of it is downloaded anew."""
    server.cuts = [299_000, 0, 0, 0]
    with pytest.raises(DatasetDownloadError):
        fetch(file, tmp_path)
    (tmp_path / "set.tgz.part").write_bytes(CONTENT + b"x" * surplus)
    server.requests.clear()
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    expected = [416, 200] if surplus else [416]
    assert [request.status for request in server.requests] == expected


def test_a_part_that_the_server_did_not_begin_where_asked_is_dropped(
    server, file, tmp_path, monkeypatch
):
    monkeypatch.setattr(_download, "_first_byte", lambda response: 0)
    server.cuts = [100_000]
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert [request.status for request in server.requests] == [200, 206, 200]


def test_a_file_that_the_server_calls_compressed_is_kept_as_it_is(server, file, tmp_path):
    server.headers = {"Content-Encoding": "gzip", "Content-Type": "application/x-tar"}
    assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_redirects_are_followed_with_the_range(server, file, tmp_path):
    server.moved["old/set.tgz"] = f"{server.url}/set.tgz"
    server.cuts = [100_000]
    old = RemoteFile("set.tgz", f"{server.url}/old/set.tgz", file.checksum)
    assert fetch(old, tmp_path).read_bytes() == CONTENT
    assert [request.range for request in server.requests] == [None, None, *["bytes=100000-"] * 2]


@pytest.mark.parametrize("status", [503, 429])
def test_a_server_that_is_busy_is_asked_again(server, file, tmp_path, status):
    server.statuses = [status]
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_wrong_file_is_removed_and_both_checksums_are_named(server, tmp_path, algorithm):
    expected = checksum(b"another", algorithm)
    file = RemoteFile("set.tgz", f"{server.url}/set.tgz", expected)
    with pytest.raises(DatasetError) as caught:
        fetch(file, tmp_path)
    got = checksum(CONTENT, algorithm).partition(":")[2]
    for part in (file.url, expected, got, str(tmp_path / "set.tgz"), "Call again"):
        assert part in str(caught.value)
    assert visible(tmp_path) == []


def assert_says_where_to_put_it(message, file, path):
    algorithm, _, digest = file.checksum.partition(":")
    assert file.url in message
    assert f"get {path.name} ({algorithm} {digest}) elsewhere" in message
    assert f"Put the file here: {path} and call again" in message


def test_a_dead_link_says_where_to_put_the_file_which_then_serves(server, tmp_path):
    file = RemoteFile("set.tgz", f"{server.url}/gone.tgz", checksum(CONTENT))
    with pytest.raises(DatasetDownloadError, match=r"^fetch_set could.*404 Not Found") as caught:
        fetch(file, tmp_path)
    path = tmp_path / "set.tgz"
    assert_says_where_to_put_it(str(caught.value), file, path)
    assert len(server.requests) == 1, "what is not there is not asked for again"
    path.write_bytes(CONTENT)
    assert fetch(file, tmp_path) == fetch(file, tmp_path, download=False) == path
    assert len(server.requests) == 1


def test_a_host_that_cannot_be_reached_is_named_likewise(file, tmp_path):
    with ArchiveServer() as gone:
        url = f"{gone.url}/set.tgz"
    file = RemoteFile("set.tgz", url, checksum(CONTENT))
    with pytest.raises(DatasetDownloadError, match="ConnectError") as caught:
        fetch(file, tmp_path)
    assert_says_where_to_put_it(str(caught.value), file, tmp_path / "set.tgz")
    assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("content", [None, b"wrong"])
def test_without_download_what_is_not_there_or_wrong_is_an_error(server, file, tmp_path, content):
    path = tmp_path / "set.tgz"
    if content is not None:
        path.write_bytes(content)
    what = "is not there" if content is None else "has another checksum"
    with pytest.raises(OSError, match=f"{re.escape(str(path))} {what}") as caught:
        fetch(file, tmp_path, download=False)
    assert_says_where_to_put_it(str(caught.value), file, path)
    assert server.requests == []
    assert path.exists() == (content is not None)


def test_a_wrong_file_put_there_by_hand_stays_until_a_right_one_comes(server, file, tmp_path):
    path = tmp_path / "set.tgz"
    path.write_bytes(b"wrong")
    server.statuses = [404]
    with pytest.raises(DatasetDownloadError):
        fetch(file, tmp_path)
    assert path.read_bytes() == b"wrong"
    assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_a_full_disk_is_an_error_that_names_the_file(file, tmp_path, monkeypatch):
    class FullDisk:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.stream.close()

        def write(self, chunk):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = open
    monkeypatch.setattr(
        _download, "open", lambda *arguments: FullDisk(real(*arguments)), raising=False
    )
    with pytest.raises(OSError, match="No space left") as caught:
        fetch(file, tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "set.tgz")
    assert "set.tgz" not in visible(tmp_path)


def test_a_damaged_note_of_the_version_makes_the_download_start_anew(server, file, tmp_path):
    server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(DatasetDownloadError):
        fetch(file, tmp_path)
    (tmp_path / "set.tgz.part.json").write_text('{"url')
    server.requests.clear()
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.requests[0].range is None


def test_threads_that_fetch_at_once_download_once(server, file, tmp_path):
    paths, started = [], threading.Barrier(4)

    def work():
        started.wait()
        paths.append(fetch(file, tmp_path))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [tmp_path / "set.tgz"] * 4
    assert len(server.requests) == 1
    assert paths[0].read_bytes() == CONTENT


def test_processes_that_fetch_at_once_download_once(server, file, tmp_path):
    code = (
        "import sys; from pathlib import Path; from capkit.datasets._download import *; "
        "file = RemoteFile('set.tgz', sys.argv[1], sys.argv[2]); "
        "fetch_files([file], Path(sys.argv[3]), download=True, owner='fetch_set')"
    )
    command = [sys.executable, "-c", code, file.url, file.checksum, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(server.requests) == 1


def test_the_note_of_a_checked_file_is_not_needed(file, tmp_path):
    """A shared folder that cannot be written to serves as well."""
    path = tmp_path / "set.tgz"
    path.write_bytes(CONTENT)
    (tmp_path / ".set.tgz.verified").mkdir()  # cannot be replaced by a file
    assert fetch(file, tmp_path, download=False) == path


def test_the_data_home_is_given_or_in_the_environment_or_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPKIT_DATA", str(tmp_path))
    assert data_folder(None, "dtd") == tmp_path / "dtd"
    assert data_folder(tmp_path / "own", "dtd") == tmp_path / "own" / "dtd"
    monkeypatch.chdir(tmp_path)
    assert data_folder("here", "dtd") == tmp_path / "here" / "dtd"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder("~/data", "dtd") == tmp_path / "data" / "dtd"
    monkeypatch.delenv("CAPKIT_DATA")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    expected = {"linux": "share/capkit/datasets/dtd"}
    place = expected.get(sys.platform, "Library/Application Support/capkit/datasets/dtd")
    assert data_folder(None, "dtd") == tmp_path / place


@pytest.mark.parametrize("package", ["pooch", "filelock"])
def test_a_missing_package_names_the_extra(file, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"^fetch_set requires {package}.*\[datasets\]"):
        fetch(file, tmp_path)


def test_the_version_is_kept_as_the_server_said_it(server, file, tmp_path):
    server.cuts = [10, 0, 0, 0]
    with pytest.raises(DatasetDownloadError):
        fetch(file, tmp_path)
    kept = json.loads(Path(tmp_path, "set.tgz.part.json").read_text())
    assert kept == {"url": file.url, "version": server.requests[1].if_range}
