"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

__all__ = ["atomic_writer", "write_atomically"]


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike) -> Iterator[TextIO]:
    """Open a text file that takes the place of `path` once it is complete.

    A reader sees the old file or the new one, never a part; after an error the old one is left.

    Parameters
    ----------
    path : path
        In a folder that exists.

    Yields
    ------
    TextIO
        UTF-8, line ends as written.
    """
    path = Path(path)
    # In the same folder: replacing a file is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "x", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write a file that takes the place of `path` once it is on the disk.

    Parameters
    ----------
    path : path
        In a folder that exists. One process at a time may write it; what a killed one left
        unfinished is overwritten.
    content : bytes

    Raises
    ------
    OSError
        If it cannot be written; a file that stood there is left as it was.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
