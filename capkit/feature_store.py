"""Where encoded features are kept, so that an image is encoded once: on disk or in memory."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from capkit.exceptions import CacheError

__all__ = ["DiskFeatureStore", "FeatureStore", "MemoryFeatureStore", "open_feature_store"]

_FILE_NAME = "features.sqlite"
_SCHEMA_VERSION = 1
_PAGE_BYTES = 16384  # with the default of 4096, a feature of 512 numbers fills a page by half
_KEYS_PER_QUERY = 500  # SQLite's lowest limit on variables is 999
_LOCK_SECONDS = 60.0
_MEMORY_BYTES = 512 * 2**20
_ENTRY_OVERHEAD_BYTES = 200  # of the key, the bytes object and the dictionary
_NORM_TOLERANCE = 1e-3


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
    middle of one leaves the file as it was before.

    Parameters
    ----------
    cache_dir : path
        Folder of the file ``features.sqlite``; made if it is not there. Not on a network file
        system, where SQLite's locks do not work.

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
        self.path = Path(cache_dir) / _FILE_NAME
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"the folder {str(self.path.parent)!r} for cached features could not be made: "
                f"{error}. Choose another cache_dir."
            ) from error
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
        if version != 0:
            raise CacheError(
                f"the feature cache {str(self.path)!r} is of version {version}, expected "
                f"{_SCHEMA_VERSION}. {self._how_to_delete()}"
            )
        with self._transaction():
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
        values: dict[bytes, bytes] = {}
        with self._clear_errors():
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, value FROM features WHERE key IN ({marks})"
                values.update(self._connection.execute(query, part))
        try:
            found, features = _to_rows([values.get(key) for key in keys], width)
        except ValueError as error:
            raise CacheError(self._damaged_message(error)) from error
        if not np.all(np.abs(np.linalg.norm(features, axis=1) - 1) < _NORM_TOLERANCE):
            raise CacheError(self._damaged_message("a feature is not of unit norm"))
        return found, features

    def put(self, keys: Sequence[bytes], features: np.ndarray) -> None:
        """Keep features, as :meth:`FeatureStore.put`.

        Raises
        ------
        CacheError
            If the disk is full, or the file cannot be written or is damaged.
        """
        rows = zip(keys, _to_values(features), strict=True)
        with self._clear_errors(), self._transaction():
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
    if len(joined) != 4 * width * int(found.sum()):
        raise ValueError(f"expected features of {width} numbers, found others")
    return found, np.frombuffer(joined, dtype="<f4").reshape(-1, width)


def _entry_bytes(value: bytes | None) -> int:
    return 0 if value is None else len(value) + _ENTRY_OVERHEAD_BYTES
