"""Working on files of data sets: one process at a time, and errors that name the file."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["exclusive", "naming"]

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other processes and threads from making a file or folder at the same time.

    Parameters
    ----------
    path : Path
        In a folder that exists; a file ``.NAME.lock`` beside it is what they wait for.

    Yields
    ------
    None
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("waiting for another process that is making %s", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file or folder in errors of writing it: of a full disk the system names none.

    Parameters
    ----------
    path : Path

    Yields
    ------
    None
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
