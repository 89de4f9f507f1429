"""Features are kept through kills, full disks, other processes and damage."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import warnings
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from capkit.exceptions import CacheError, CacheWarning
from capkit.feature_store import (
    DiskFeatureStore,
    MemoryFeatureStore,
    open_feature_store,
)

WIDTH = 8


def unit_rows(n_rows, seed=0):
    rows = np.random.default_rng(seed).normal(size=(n_rows, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def keys_of(numbers):
    return [f"key {number}".encode() for number in numbers]


@pytest.fixture(params=["disk", "memory"])
def store(request, tmp_path):
    if request.param == "memory":
        yield MemoryFeatureStore(max_bytes=2**20)
        return
    store = DiskFeatureStore(tmp_path)
    yield store
    store.close()


def test_what_was_put_comes_back_bit_for_bit_in_the_order_asked(store):
    features = unit_rows(3)
    store.put(keys_of(range(3)), features)
    found, got = store.get(keys_of([2, 7, 0]), WIDTH)
    assert_array_equal(found, [True, False, True])
    assert_array_equal(got, features[[2, 0]])
    assert got.dtype == np.float32


def test_no_keys_and_unknown_keys_give_no_rows(store):
    for keys in ([], keys_of([1, 2])):
        found, got = store.get(keys, WIDTH)
        assert found.shape == (len(keys),) and not found.any()
        assert got.shape == (0, WIDTH)


def test_the_same_key_may_be_asked_twice_and_put_again(store):
    old, new = unit_rows(1, seed=1), unit_rows(1, seed=2)
    store.put(keys_of([0]), old)
    store.put(keys_of([0]), new)
    found, got = store.get(keys_of([0, 0]), WIDTH)
    assert found.all()
    assert_array_equal(got, np.repeat(new, 2, axis=0))


def test_more_keys_than_one_query_takes(store):
    features = unit_rows(1700)
    store.put(keys_of(range(1700)), features)
    found, got = store.get(keys_of(range(1700)), WIDTH)
    assert found.all()
    assert_array_equal(got, features)


def test_memory_drops_what_was_used_longest_ago():
    one = 4 * WIDTH + 200  # a feature and what its entry takes
    store = MemoryFeatureStore(max_bytes=3 * one)
    store.put(keys_of([0, 1, 2]), unit_rows(3))
    store.get(keys_of([0]), WIDTH)
    store.put(keys_of([3]), unit_rows(1))
    found, _ = store.get(keys_of(range(4)), WIDTH)
    assert_array_equal(found, [True, False, True, True])


def test_memory_bound_counts_a_replaced_feature_once():
    one = 4 * WIDTH + 200
    store = MemoryFeatureStore(max_bytes=2 * one)
    for _ in range(5):
        store.put(keys_of([0, 1]), unit_rows(2))
    found, _ = store.get(keys_of([0, 1]), WIDTH)
    assert found.all()


def test_no_folder_means_one_store_in_memory_for_the_process(tmp_path):
    with open_feature_store(None) as first, open_feature_store(None) as second:
        assert first is second and isinstance(first, MemoryFeatureStore)
    with open_feature_store(tmp_path / "new" / "folder") as store:
        store.put(keys_of([0]), unit_rows(1))
    with open_feature_store(tmp_path / "new" / "folder") as store:
        assert store.get(keys_of([0]), WIDTH)[0].all()


def test_failed_put_keeps_nothing(tmp_path):
    store = DiskFeatureStore(tmp_path)
    store._connection.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON features WHEN NEW.key = x'626164' "
        "BEGIN SELECT RAISE(FAIL, 'no'); END"
    )
    with pytest.raises(CacheError, match="could not be used"):
        store.put([b"good", b"bad"], unit_rows(2))
    assert not store.get([b"good"], WIDTH)[0].any()
    store.put(keys_of([0]), unit_rows(1))  # and the store goes on working
    store.close()


def test_full_disk_is_said_and_what_was_kept_stays(tmp_path):
    store = DiskFeatureStore(tmp_path)
    store.put(keys_of([0]), unit_rows(1))
    # SQLite's own bound on the file takes the way of a full disk through it
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(CacheError, match=r"no room is left.*features\.sqlite.*cache_dir"):
        store.put(keys_of(range(1, 5000)), unit_rows(4999))
    assert_array_equal(store.get(keys_of([0, 1]), WIDTH)[0], [True, False])
    store.close()


def test_file_that_is_no_database_is_named_with_what_to_delete(tmp_path):
    (tmp_path / "features.sqlite").write_bytes(b"not a database at all " * 100)
    with pytest.raises(CacheError, match=r"damaged.*Delete .*features\.sqlite"):
        DiskFeatureStore(tmp_path)


def test_damage_inside_the_file_is_an_error_not_a_wrong_feature(tmp_path):
    store = DiskFeatureStore(tmp_path)
    store.put(keys_of(range(3000)), unit_rows(3000))
    store.close()
    path = tmp_path / "features.sqlite"
    content = bytearray(path.read_bytes())
    content[16384:] = b"\xa5" * (len(content) - 16384)
    path.write_bytes(content)
    store = DiskFeatureStore(tmp_path)
    with pytest.raises(CacheError, match=r"damaged.*Delete .*features\.sqlite"):
        store.get(keys_of(range(3000)), WIDTH)
    store.close()


def sealed(key, feature):
    value = feature.astype("<f4").tobytes()
    return value + zlib.crc32(key + value).to_bytes(4, "little")


@pytest.mark.parametrize(
    "value",
    [
        unit_rows(1)[0].tobytes(),
        sealed(b"other", unit_rows(1)[0]),
        sealed(b"key", unit_rows(1)[0])[:-1],
        sealed(b"key", np.ones(WIDTH + 1)),
        b"",
        None,
        "text",
    ],
    ids=["no checksum", "of another key", "cut", "of another width", "empty", "null", "text"],
)
def test_damaged_feature_is_not_found_and_said_once(tmp_path, value):
    store = DiskFeatureStore(tmp_path)
    store.put([b"good"], unit_rows(1, seed=1))
    with sqlite3.connect(store.path) as connection:
        connection.execute("INSERT INTO features VALUES (?, ?)", (b"key", value))
    with pytest.warns(CacheWarning, match=r"1 of the features .*features\.sqlite' are damaged"):
        found, got = store.get([b"key", b"good"], WIDTH)
    assert_array_equal(found, [False, True])
    assert_array_equal(got, unit_rows(1, seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.get([b"key"], WIDTH)
        store.put([b"key"], unit_rows(1))
        assert_array_equal(store.get([b"key"], WIDTH)[1], unit_rows(1))
    store.close()


@pytest.mark.filterwarnings("ignore::capkit.exceptions.CacheWarning")
def test_no_flipped_bit_passes_for_a_feature(tmp_path):
    features, keys = unit_rows(40), keys_of(range(40))
    with open_feature_store(tmp_path) as store:
        store.put(keys, features)
    path = tmp_path / "features.sqlite"
    content, n_unnoticed = path.read_bytes(), 0
    rng = np.random.default_rng(0)
    # where the entries are: most of the file is empty pages
    places = np.flatnonzero(np.frombuffer(content, dtype=np.uint8))
    for place in rng.choice(places, 300, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            with open_feature_store(tmp_path) as store:
                found, got = store.get(keys, WIDTH)
        except CacheError:
            continue
        assert_array_equal(got, features[found])
        n_unnoticed += found.all()
    assert n_unnoticed < 60  # in the headers of pages, and text of the table


def test_features_without_checksums_are_dropped_and_kept_anew(tmp_path):
    with sqlite3.connect(tmp_path / "features.sqlite") as connection:
        connection.execute("CREATE TABLE features (key BLOB PRIMARY KEY, value BLOB)")
        old = unit_rows(1)[0].tobytes()
        connection.execute("INSERT INTO features VALUES (?, ?)", (b"key", old))
        connection.execute("PRAGMA user_version = 1")
    with open_feature_store(tmp_path) as store:
        assert not store.get([b"key"], WIDTH)[0].any()
        store.put([b"key"], unit_rows(1))
    with open_feature_store(tmp_path) as store:
        assert_array_equal(store.get([b"key"], WIDTH)[1], unit_rows(1))


def test_file_of_another_version_is_refused(tmp_path):
    DiskFeatureStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "features.sqlite") as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(CacheError, match=r"of version 9, expected 2\. Delete"):
        DiskFeatureStore(tmp_path)


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"could not be made.*another cache_dir"):
        DiskFeatureStore(tmp_path / "file" / "folder")


def test_home_folder_that_is_not_there_is_said():
    with pytest.raises(CacheError, match=r"'~no such user/x' .*another cache_dir"):
        DiskFeatureStore("~no such user/x")


def test_writer_that_never_ends_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("capkit.feature_store._LOCK_SECONDS", 0.05)
    store = DiskFeatureStore(tmp_path)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(CacheError, match="another process has been writing"):
        store.put(keys_of([0]), unit_rows(1))
    other.execute("ROLLBACK")
    other.close()
    store.put(keys_of([0]), unit_rows(1))
    store.close()


WRITE_WITHOUT_END = """
    import itertools, sys
    import numpy as np
    from capkit.feature_store import DiskFeatureStore

    store = DiskFeatureStore(sys.argv[1])
    for batch in itertools.count():
        keys = [f"{batch} {row}".encode() for row in range(200)]
        store.put(keys, np.tile(np.eye(1, 256, dtype=np.float32), (200, 1)))
        print(batch, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_killed_writer_leaves_whole_batches_and_a_sound_file(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(WRITE_WITHOUT_END), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) >= 3:
            break
    time.sleep(0.013)  # into the middle of one of the next writes
    os.kill(process.pid, signal.SIGKILL)
    done = 3 + sum(1 for _ in process.stdout)
    process.wait()
    process.stdout.close()
    store = DiskFeatureStore(tmp_path)
    assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    for batch in range(done + 3):
        found, _ = store.get([f"{batch} {row}".encode() for row in range(200)], 256)
        assert found.all() or (batch > done and not found.any())
    store.put(keys_of([0]), unit_rows(1))
    store.close()


def write_rows(folder, first):
    with open_feature_store(folder) as store:
        for start in range(first, first + 1000, 50):
            numbers = range(start, start + 50)
            store.put(keys_of(numbers), unit_rows(1500)[start : start + 50])


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    # two of them open the new file at once, and write rows 500 to 999 both
    processes = [context.Process(target=write_rows, args=(tmp_path, at)) for at in (0, 500)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    with open_feature_store(tmp_path) as store:
        found, got = store.get(keys_of(range(1500)), WIDTH)
    assert found.all()
    assert_array_equal(got, unit_rows(1500))
