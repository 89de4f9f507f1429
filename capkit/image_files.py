"""Image files in a folder and its subfolders, with suffixes in upper or lower case."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from PIL import Image

from capkit.pixels import FORMATS

__all__ = ["ImageFiles", "find_images", "image_suffixes"]

# Photos that Pillow only reads with another package; included so that none is silently left out.
_NEED_A_PACKAGE = frozenset({".heic", ".heif", ".avif"})


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """What :func:`find_images` found.

    Attributes
    ----------
    folder : Path
        Absolute.
    paths : tuple of Path
        Absolute, in the order of their :attr:`names`.
    other_files : mapping of str to int
        Number of files that are not images according to their suffix, by lower-case suffix.
    """

    folder: Path
    paths: tuple[Path, ...]
    other_files: Mapping[str, int]

    @property
    def names(self) -> tuple[str, ...]:
        """Paths relative to the folder, with slashes; bytes that are not UTF-8 are escaped."""
        return tuple(_name(path, self.folder) for path in self.paths)

    def __len__(self) -> int:
        return len(self.paths)


def image_suffixes() -> frozenset[str]:
    """Suffixes of image files, in lower case, each with its dot.

    Returns
    -------
    frozenset of str

    Examples
    --------
    >>> from capkit.image_files import image_suffixes
    >>> sorted({".jpg", ".tif", ".txt"} & image_suffixes())
    ['.jpg', '.tif']
    """
    known = Image.registered_extensions()
    return _NEED_A_PACKAGE | {suffix for suffix, name in known.items() if name in FORMATS}


def find_images(folder: str | os.PathLike) -> ImageFiles:
    """Find the images in a folder and its subfolders, by their suffix in upper or lower case.

    Links to folders are followed, each folder once. Files and folders whose names start with a dot
    are skipped.

    Parameters
    ----------
    folder : path

    Returns
    -------
    ImageFiles

    Raises
    ------
    OSError
        If there is no such folder, or a folder cannot be read.
    ValueError
        If it contains no image.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from capkit.image_files import find_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.JPG", "a.jpeg", "notes.txt"):
    ...         Path(folder, name).touch()
    ...     found = find_images(folder)
    >>> found.names, dict(found.other_files)
    (('a.jpeg', 'b.JPG'), {'.txt': 1})
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing of this name"
        raise NotADirectoryError(f"expected a folder of images, got {what}: {folder}")
    suffixes, seen, paths, others = image_suffixes(), set(), [], Counter[str]()
    for place, folders, files in os.walk(folder, onerror=_fail, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in suffixes:
                paths.append(Path(place, name))
            else:
                others[suffix or "without a suffix"] += 1
    if not paths:
        raise ValueError(f"expected images in {folder}, got none{_of_others(others)}.")
    paths.sort(key=lambda path: _name(path, folder))
    return ImageFiles(folder, tuple(paths), MappingProxyType(dict(others.most_common())))


def _fail(error: OSError) -> None:
    raise error


def _name(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder).as_posix()
    return os.fsencode(relative).decode("utf-8", "backslashreplace")


def _of_others(others: Counter[str]) -> str:
    if not others:
        return " and no other files either"
    counts = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
    return f", but other files ({counts}): convert them to JPEG or PNG"
