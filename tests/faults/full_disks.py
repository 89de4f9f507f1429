"""Disks that are full: from a step of a write on, or where a file is to grow beyond some bytes.

An older file has to stay as it was and nothing of the new one may remain; once there is room, the
same call has to succeed. A file that may not grow is the real system's refusal in the middle of a
write; it says so in other words than a full disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from ollama_server import OllamaServer

from capkit import CAPClassifier, _files
from capkit.describers import OllamaDescriber, load_descriptions, save_descriptions
from capkit.exceptions import CacheError, CheckpointError
from capkit.feature_store import DiskFeatureStore
from capkit.training.checkpoint import CHECKPOINT_NAME, read_fingerprint
from faults.common import HARMLESS, Fault, WrongResult, expect_same
from faults.files import TOLERANCE, counted_passes
from faults.subjects import (
    TABLE,
    encoder,
    expect_same_reading,
    few_digits,
    planted_space,
    quick_classifier,
    quietly_fitted,
    read_of,
)

_PARTS = (0.0, 0.01, 0.3, 0.6, 0.9, 0.999)  # of a file that are written
_OF_DATABASE = (0, 1, 512, 4096, 17_000, 33_000, 50_000, 70_000, 10**6)  # bytes
_N_IMAGES, _N_KEPT = 60, 4  # of the latter features are kept before the disk is full
_SECONDS = 60.0  # of two trainings


@dataclasses.dataclass(frozen=True)
class _Write:
    """A call that writes, and what has to be there before and after it.

    Parameters
    ----------
    kind : str
        Row of the table.
    folder : Path
        In which nothing may remain.
    prepare : callable
        Brings all to where it was before the call.
    call : callable
        Writes; gives what it is called for.
    expect_before : callable
        Raises unless what was there before the call is there still.
    expect_after : callable
        Of what the call gave; raises unless it and what was written are right.
    refusals : tuple of exception classes
    """

    kind: str
    folder: Path
    prepare: Callable[[], object]
    call: Callable[[], Any]
    expect_before: Callable[[], object]
    expect_after: Callable[[Any], object]
    refusals: tuple[type[BaseException], ...]

    def attempt(self, disk: AbstractContextManager) -> str:
        """Call it while the disk is full, and once more when there is room."""
        self.prepare()
        try:
            with disk:
                found = self.call()
        except Exception as error:
            self.expect_before()
            self._expect_no_remnants()
            self.expect_after(self.call())
            if str(self.folder) not in str(error):
                raise WrongResult(f"it does not say which file it is about: {error}") from error
            raise
        self.expect_after(found)
        self._expect_no_remnants()
        return HARMLESS

    def faults(self, file_sizes: Iterable[int]) -> Iterator[Fault]:
        """Each step of it as the first that finds no room, and files that may not grow."""
        self.prepare()
        with full_after(10**9) as counted:
            self.expect_after(self.call())
        for n_steps in range(counted.n_steps):
            yield self._fault(f"full after {n_steps} steps", lambda n=n_steps: full_after(n))
        for n_bytes in file_sizes:
            name = f"no file of more than {n_bytes} bytes"
            yield self._fault(name, lambda n=n_bytes: files_of_at_most(n))

    def _fault(self, name: str, disk: Callable[[], AbstractContextManager]) -> Fault:
        return Fault(
            self.kind, name, lambda: self.attempt(disk()), self.refusals, seconds=_SECONDS
        )

    def _expect_no_remnants(self) -> None:
        if remnants := list(self.folder.rglob("*.partial")):
            raise WrongResult(f"left behind: {remnants[0].name}")


def faults(folder: Path) -> Iterator[Fault]:
    """All faults of this kind; the files lie in `folder`."""
    yield from of_saved_model(folder)
    yield from of_tables(folder)
    yield from of_checkpoint(folder)
    yield from of_features(folder)
    yield from of_answers(folder)


# -- disks


class _Disk:
    """Counts the steps that need room; those after the first `n_steps` find none."""

    def __init__(self, room: int) -> None:
        self._room, self.n_steps = room, 0
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            self.n_steps += 1
            is_full = self.n_steps > self._room
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def counting(self, function: Callable) -> Callable:
        def counted(*arguments, **keywords):
            self.step()
            return function(*arguments, **keywords)

        return counted

    def open(self, *arguments) -> _Stream:
        self.step()
        return _Stream(open(*arguments), self)

    def mkdir(self, path, *arguments, make=os.mkdir, **keywords) -> None:
        if not os.path.exists(path):
            self.step()
        make(path, *arguments, **keywords)


class _Stream:
    """A file on such a disk; of what finds no room, half is written all the same."""

    def __init__(self, stream: Any, disk: _Disk) -> None:
        self._stream, self._disk = stream, disk

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *exception) -> None:
        self._stream.close()

    def write(self, content: bytes) -> int:
        try:
            self._disk.step()
        except OSError:
            self._stream.write(content[: len(content) // 2])
            raise
        return self._stream.write(content)

    def flush(self) -> None:
        self._disk.step()
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()


@contextlib.contextmanager
def full_after(n_steps: int) -> Iterator[_Disk]:
    """Let opening, writing, flushing, syncing, replacing and making folders find no room."""
    disk = _Disk(n_steps)
    with contextlib.ExitStack() as stack:
        put = lambda *what, **how: stack.enter_context(mock.patch.object(*what, **how))  # noqa: E731
        put(_files, "open", disk.open, create=True)
        put(os, "fsync", disk.counting(os.fsync))
        put(os, "replace", disk.counting(os.replace))
        put(os, "mkdir", disk.mkdir)
        yield disk


@contextlib.contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Let the system refuse every write behind so many bytes of a file."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


@contextlib.contextmanager
def databases_of_at_most(n_pages: int) -> Iterator[None]:
    """Let SQLite find the disk full where a database is to have more pages."""
    set_up = DiskFeatureStore._set_up

    def set_up_small(store: DiskFeatureStore) -> None:
        set_up(store)
        store._connection.execute(f"PRAGMA max_page_count = {n_pages}")

    with mock.patch.object(DiskFeatureStore, "_set_up", set_up_small):
        yield


# -- files that are written as a whole


def _write_of_file(
    kind: str,
    path: Path,
    older: bytes | None,
    call: Callable[[], object],
    expect_after: Callable[[object], object],
) -> _Write:
    """A call that replaces a file, or makes it where there is no older content."""
    path.parent.mkdir(exist_ok=True)

    def prepare() -> None:
        path.unlink(missing_ok=True)
        if older is not None:
            path.write_bytes(older)

    def expect_before() -> None:
        expect_same(path.read_bytes() if path.exists() else None, older, "older file")

    return _Write(kind, path.parent, prepare, call, expect_before, expect_after, (OSError,))


def of_saved_model(folder: Path) -> Iterator[Fault]:
    """The system's own error, with the name of the file."""
    space, path = planted_space(), folder / "full models" / "model.capkit"
    classifier = quietly_fitted(quick_classifier(), space)
    path.parent.mkdir()
    classifier.save(path)
    right, size = read_of(CAPClassifier.load(path, device="cpu"), space), path.stat().st_size

    def expect_after(_: object) -> None:
        expect_same_reading(read_of(CAPClassifier.load(path, device="cpu"), space), right)

    for older in (None, b"an older model"):
        write = _write_of_file(
            "full disk, saved model", path, older, lambda: classifier.save(path), expect_after
        )
        yield from write.faults(int(part * size) for part in _PARTS)


def of_tables(folder: Path) -> Iterator[Fault]:
    """As saved models."""
    for suffix in (".json", ".csv"):
        path = folder / "full tables" / f"table{suffix}"
        for older in (None, b"an older table"):
            write = _write_of_file(
                "full disk, table of descriptions",
                path,
                older,
                lambda path=path: save_descriptions(path, TABLE),
                lambda _, path=path: expect_same(load_descriptions(path), TABLE, "table"),
            )
            yield from write.faults((0, 10, 100))


# -- folders in which a call goes on from what is there


def of_checkpoint(folder: Path) -> Iterator[Fault]:
    """A training stops, and goes on from the last epoch that was written."""
    space, checkpoint_dir = planted_space(), folder / "full checkpoints"
    classifier = quick_classifier(checkpoint_dir=checkpoint_dir)
    right = read_of(quietly_fitted(classifier, space), space)
    (path,) = checkpoint_dir.rglob(CHECKPOINT_NAME)
    size = path.stat().st_size

    def expect_readable() -> None:
        for found in checkpoint_dir.rglob(CHECKPOINT_NAME):
            read_fingerprint(found)

    write = _Write(
        "full disk, training checkpoint",
        checkpoint_dir,
        prepare=lambda: shutil.rmtree(checkpoint_dir),
        call=lambda: read_of(quietly_fitted(classifier, space), space),
        expect_before=expect_readable,
        expect_after=lambda found: expect_same_reading(found, right),
        refusals=(CheckpointError,),
    )
    yield from write.faults(int(part * size) for part in _PARTS)


def of_features(folder: Path) -> Iterator[Fault]:
    """What was kept before is still used."""
    images, names = few_digits(_N_IMAGES)
    right = encoder(class_names=names).fit_transform(images).image_features
    for n_kept in (0, _N_KEPT):
        cache_dir = folder / f"full features, {n_kept} kept"

        def encode(n: int = len(images), cache_dir: Path = cache_dir) -> np.ndarray:
            own = encoder(class_names=names, cache_dir=cache_dir)
            return own.fit_transform(images[:n]).image_features

        def prepare(n_kept=n_kept, cache_dir=cache_dir, encode=encode) -> None:
            shutil.rmtree(cache_dir, ignore_errors=True)
            if n_kept:
                encode(n_kept)

        def expect_kept(n_kept=n_kept, encode=encode) -> None:
            with counted_passes() as passes:
                if n_kept:
                    encode(n_kept)
            if passes:
                raise WrongResult("features that were kept before are gone")

        write = _Write(
            "full disk, feature cache",
            cache_dir,
            prepare,
            encode,
            expect_kept,
            lambda found: expect_same(found, right, "features", TOLERANCE),
            refusals=(CacheError,),
        )
        yield from write.faults(_OF_DATABASE)
        for n_pages in range(3, 7):
            name = f"no database of more than {n_pages} pages"
            yield write._fault(name, lambda n=n_pages: databases_of_at_most(n))


def of_answers(folder: Path) -> Iterator[Fault]:
    """What was answered is kept by the object, which asks for nothing twice."""
    cache_dir, classes = folder / "full answers", ["river", "harbour"]
    with OllamaServer() as server:

        def new() -> OllamaDescriber:
            return OllamaDescriber(host=server.host, n=2, cache_dir=cache_dir, n_jobs=1)

        right = new().describe(classes)
        size = min(path.stat().st_size for path in cache_dir.rglob("*.json"))
        describers: list[OllamaDescriber] = []

        def prepare() -> None:
            shutil.rmtree(cache_dir)
            server.questions.clear()
            describers[:] = [new()]

        def expect_after(found: object) -> None:
            expect_same(found, right, "descriptions")
            expect_same(len(server.questions), len(classes), "questions")
            expect_same(new().describe(classes), right, "descriptions from the folder")

        write = _Write(
            "full disk, kept answers",
            cache_dir,
            prepare,
            call=lambda: describers[0].describe(classes),
            expect_before=lambda: None,
            expect_after=expect_after,
            refusals=(CacheError,),
        )
        yield from write.faults(int(part * size) for part in _PARTS)
