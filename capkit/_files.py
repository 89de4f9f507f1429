"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import threading
from pathlib import Path

__all__ = ["write_atomically"]

# Nobody goes on writing a file after such a pause: whoever began it was killed.
_ABANDONED_SECONDS = 600.0


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write a file that takes the place of `path` once it is on the disk.

    A reader sees the old file or the new one, never a part. Several processes and threads may
    write at once: the last one wins. What a writer that was killed has left beside `path` is
    deleted once it is ten minutes old.

    Parameters
    ----------
    path : path
        In a folder that exists.
    content : bytes

    Raises
    ------
    OSError
        If it cannot be written; it names `path`, and a file that stood there is left as it was.
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
        _delete_abandoned(path, partial)
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if not isinstance(error, OSError):
            raise
        # Of a full disk the system names no file, and else one that the user does not know.
        reason = error.strerror or str(error)
        raise OSError(error.errno, reason, os.fspath(path)) from error


def _delete_abandoned(path: Path, partial: Path) -> None:
    """Delete files that others began for `path` long before `partial`, by the same clock."""
    newest = partial.stat().st_mtime - _ABANDONED_SECONDS
    for other in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(OSError):  # another process may be quicker
            if other.stat().st_mtime < newest:
                other.unlink()
