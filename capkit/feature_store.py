"""Where encoded features are kept, so that an image is encoded once: on disk or in memory."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import threading
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from capkit.exceptions import CacheError, CacheWarning

__all__ = ["DiskFeatureStore", "FeatureStore", "MemoryFeatureStore", "open_feature_store"]

_FILE_NAME = "features.sqlite"
_SCHEMA_VERSION = 2
_VERSION_WITHOUT_CHECKSUMS = 1
_CHECKSUM_BYTES = 4
_CRC_OF_SOUND = 0x2144DF1C  # what CRC-32 gives for anything with its own CRC-32 behind it
_PAGE_BYTES = 16384  # with the default of 4096, a feature of 512 numbers fills a page by half
_KEYS_PER_QUERY = 500  # SQLite's lowest limit on variables is 999
_LOCK_SECONDS = 60.0
_MEMORY_BYTES = 512 * 2**20
_ENTRY_OVERHEAD_BYTES = 200  # of the key, the bytes object and the dictionary


class FeatureStore(Protocol):
    """Keeps features of unit norm by key."""

    def get(self, keys: Sequence[bytes], width: int) -> tuple[np.ndarray, np.ndarray]:
        """Look features up.

        Parameters
        ----------
        keys : sequence of bytes of length n
        width : int
            Expected length ``d`` of a feature.

        Returns
        -------
        found : ndarray of shape (n,), dtype bool
            Which keys are there.
        features : ndarray of shape (n_found, d), dtype float32
            Their features, in the order of the keys.
        """

    def put(self, keys: Sequence[bytes], features: np.ndarray) -> None:
        """Keep features; all of them or, on an error, none.

        Parameters
        ----------
        keys : sequence of bytes of length n
        features : ndarray of shape (n, d)
            Unit rows.
        """


@contextlib.contextmanager
def open_feature_store(cache_dir: str | os.PathLike | None) -> Iterator[FeatureStore]:
    """Open the store in a folder, or the one that lives as long as the process.

    Parameters
    ----------
    cache_dir : path or None
        None keeps features in memory: at most 512 MiB, those used longest ago are dropped.

    Yields
    ------
    FeatureStore

    Raises
    ------
    CacheError
        If the store cannot be opened.
    """
    if cache_dir is None:
        yield _process_store()
        return
    with contextlib.closing(DiskFeatureStore(cache_dir)) as store:
        yield store


@functools.lru_cache(maxsize=1)
def _process_store() -> MemoryFeatureStore:
    return MemoryFeatureStore(_MEMORY_BYTES)


class MemoryFeatureStore:
    """Features in memory; beyond `max_bytes` those used longest ago are dropped.

    Parameters
    ----------
    max_bytes : int
        Bound on the memory that features and keys take.

    Examples
    --------
    >>> import numpy as np
    >>> store = MemoryFeatureStore(max_bytes=2**20)
    >>> store.put([b"a"], np.array([[1.0, 0.0]]))
    >>> store.get([b"b", b"a"], width=2)
    (array([False,  True]), array([[1., 0.]], dtype=float32))
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._values: OrderedDict[bytes, bytes] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()

    def get(self, keys: Sequence[bytes], width: int) -> tuple[np.ndarray, np.ndarray]:
        """Look features up, as :meth:`FeatureStore.get`."""
        with self._lock:
            values = [self._values.get(key) for key in keys]
            for key, value in zip(keys, values, strict=True):
                if value is not None:
                    self._values.move_to_end(key)
        return _to_rows(values, width)

    def put(self, keys: Sequence[bytes], features: np.ndarray) -> None:
        """Keep features, as :meth:`FeatureStore.put`."""
        with self._lock:
            for key, value in zip(keys, _to_values(features), strict=True):
                replaced = self._values.pop(key, None)
                self._values[key] = value
                self._n_bytes += _entry_bytes(value) - _entry_bytes(replaced)
            while self._n_bytes > self.max_bytes:
                _, dropped = self._values.popitem(last=False)
                self._n_bytes -= _entry_bytes(dropped)


class DiskFeatureStore:
    """Features in one SQLite file, which any number of processes may use at once.

    Every :meth:`put` is a transaction of a write-ahead log: a process that is killed in the
    middle of one leaves the file as it was before. Each feature has a checksum of it and its
    key: one that does not fit is damaged, and not found.

    Parameters
    ----------
    cache_dir : path
        Folder of the file ``features.sqlite``; made if it is not there. ``~`` is the home folder.
        Not on a network file system, where SQLite's locks do not work.

    Raises
    ------
    CacheError
        If the file cannot be opened, or is none of this version.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = DiskFeatureStore(folder)
    ...     store.put([b"a"], np.array([[1.0, 0.0]]))
    ...     found, features = store.get([b"b", b"a"], width=2)
    ...     store.close()
    >>> found, features
    (array([False,  True]), array([[1., 0.]], dtype=float32))
    """

    def __init__(self, cache_dir: str | os.PathLike) -> None:
        try:
            self.path = Path(cache_dir).expanduser() / _FILE_NAME
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:  # the latter of ~ where there is no such home
            raise CacheError(
                f"the folder {os.fspath(cache_dir)!r} for cached features could not be made: "
                f"{error}. Choose another cache_dir."
            ) from error
        self._known_damage: set[bytes] = set()
        with self._clear_errors():
            self._connection = sqlite3.connect(
                self.path, timeout=_LOCK_SECONDS, isolation_level=None
            )
        try:
            with self._clear_errors():
                self._set_up()
        except BaseException:
            self._connection.close()
            raise

    def _set_up(self) -> None:
        execute = self._connection.execute
        execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        execute("PRAGMA journal_mode = WAL")
        # A power cut may undo the last transactions, never damage the file: it is a cache.
        execute("PRAGMA synchronous = NORMAL")
        (version,) = execute("PRAGMA user_version").fetchone()
        if version == _SCHEMA_VERSION:
            return
        if version not in (0, _VERSION_WITHOUT_CHECKSUMS):
            raise CacheError(
                f"the feature cache {str(self.path)!r} is of version {version}, expected "
                f"{_SCHEMA_VERSION}. {self._how_to_delete()}"
            )
        with self._transaction():
            (version,) = execute("PRAGMA user_version").fetchone()  # another process may be first
            if version == _VERSION_WITHOUT_CHECKSUMS:  # what is in there is encoded again
                execute("DROP TABLE IF EXISTS features")
            execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB)")
            execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the file; the store cannot be used any more."""
        self._connection.close()

    def get(self, keys: Sequence[bytes], width: int) -> tuple[np.ndarray, np.ndarray]:
        """Look features up, as :meth:`FeatureStore.get`.

        Raises
        ------
        CacheError
            If the file cannot be read or is damaged.
        """
        entries: dict[bytes, bytes] = {}
        with self._clear_errors():
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, value FROM features WHERE key IN ({marks})"
                entries.update(self._connection.execute(query, part))
        values = [_if_sound(key, entries.get(key), width) for key in keys]
        asked = zip(keys, values, strict=True)
        self._warn_of({key for key, value in asked if value is None and key in entries})
        found, rows = _to_rows(values, width + 1)  # a checksum takes the place of a number
        return found, rows[:, :width]

    def _warn_of(self, damaged: set[bytes]) -> None:
        """Say once of each feature that it is damaged; it is put again once it is encoded."""
        new = damaged - self._known_damage
        self._known_damage |= new
        if new:
            warnings.warn(
                f"{len(new)} of the features in the cache {str(self.path)!r} are damaged: they "
                "are not what was written. They are encoded again. If this comes back, look at "
                "the disk, or choose another cache_dir.",
                CacheWarning,
                stacklevel=3,
            )

    def put(self, keys: Sequence[bytes], features: np.ndarray) -> None:
        """Keep features, as :meth:`FeatureStore.put`.

        Raises
        ------
        CacheError
            If the disk is full, or the file cannot be written or is damaged.
        """
        values = zip(keys, _to_values(features), strict=True)
        with self._clear_errors(), self._transaction():
            rows = ((key, value + _checksum(key, value)) for key, value in values)
            self._connection.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite ends it by itself on a full disk
                self._connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise CacheError(self._message(error)) from error

    def _message(self, error: sqlite3.Error) -> str:
        reason = str(error)
        if "full" in reason:
            return (
                f"no room is left for the feature cache {str(self.path)!r}. Free some space or "
                "choose another cache_dir; what was kept before can still be used."
            )
        if "locked" in reason:
            return (
                f"another process has been writing to the feature cache {str(self.path)!r} for "
                f"more than {_LOCK_SECONDS:.0f} seconds. Wait for it, or choose another cache_dir."
            )
        if "malformed" in reason or "not a database" in reason or "no such" in reason:
            return self._damaged_message(reason)
        return (
            f"the feature cache {str(self.path)!r} could not be used: {reason}. Make it writable, "
            "or choose another cache_dir."
        )

    def _damaged_message(self, reason: object) -> str:
        return (
            f"the feature cache {str(self.path)!r} is damaged: {reason}. {self._how_to_delete()}"
        )

    def _how_to_delete(self) -> str:
        return (
            f"Delete {str(self.path)!r} (and the files of that name that end in -wal and -shm); "
            "the features will be encoded again."
        )


def _to_values(features: np.ndarray) -> list[bytes]:
    rows = np.ascontiguousarray(features, dtype="<f4")
    return [row.tobytes() for row in rows]


def _to_rows(values: Sequence[bytes | None], width: int) -> tuple[np.ndarray, np.ndarray]:
    found = np.array([value is not None for value in values], dtype=bool)
    joined = b"".join([value for value in values if value is not None])
    return found, np.frombuffer(joined, dtype="<f4").reshape(-1, width)


def _checksum(key: bytes, value: bytes) -> bytes:
    """Of a feature and whose it is, so that no flipped bit passes for one."""
    # A cryptographic hash would make reading a third slower, and protect against nobody: who can
    # write the file can write the hash.
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(_CHECKSUM_BYTES, "little")


def _if_sound(key: bytes, entry: bytes | None, width: int) -> bytes | None:
    """An entry that is a feature of this width with its checksum behind it, else None."""
    # damage may also have made a text or a number of it
    if not isinstance(entry, bytes) or len(entry) != 4 * width + _CHECKSUM_BYTES:
        return None
    return entry if zlib.crc32(entry, zlib.crc32(key)) == _CRC_OF_SOUND else None


def _entry_bytes(value: bytes | None) -> int:
    return 0 if value is None else len(value) + _ENTRY_OVERHEAD_BYTES
