"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write a file that takes the place of `path` once it is on the disk.

    A reader sees the old file or the new one, never a part. Several processes and threads may
    write at once: the last one wins.

    Parameters
    ----------
    path : path
        In a folder that exists.
    content : bytes

    Raises
    ------
    OSError
        If it cannot be written; a file that stood there is left as it was.
    """
    path = Path(path)
    # In the same folder, since replacing a file is atomic only within one file system.
    writer = f"{os.getpid()}-{threading.get_ident()}"
    partial = path.with_name(f".{path.name}.{writer}.partial")
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
