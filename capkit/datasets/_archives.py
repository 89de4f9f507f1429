"""Archives of data sets: extracted whole or not at all, and never outside their folder."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath

from capkit._files import write_atomically
from capkit.datasets._disk import exclusive, naming
from capkit.exceptions import DatasetError

__all__ = ["extract", "is_extracted"]

# In the extracted folder: its files and their sizes, written last.
_RECORD = ".extracted.json"
_CHUNK = 1 << 20
_DAMAGED = (EOFError, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile, zlib.error)


def is_extracted(folder: Path) -> bool:
    """Whether a folder holds all that was extracted into it, by names and sizes.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    bool
    """
    try:
        recorded = json.loads((folder / _RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return recorded.items() <= _sizes(folder).items()


def extract(archive: Path, top: str, folder: Path) -> None:
    """Make one of the folders in an archive a folder on the disk.

    It appears there once it is complete, in place of one that is not. Of several processes that
    extract it at once one does it and the others wait.

    Parameters
    ----------
    archive : Path
        A ``.zip``, or else a ``.tar.gz``.
    top : str
        The archive's folder; what lies beside it is left out.
    folder : Path
        What becomes of it; whatever is there and not complete is replaced.

    Raises
    ------
    DatasetError
        If the archive is damaged, has no such folder, or has a member that would be written
        elsewhere or is no file, folder or link. Nothing is kept then.
    OSError
        If it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    workplace = folder.with_name(f".{folder.name}.partial")
    with exclusive(folder):
        if is_extracted(folder):  # another process was quicker
            return
        with contextlib.suppress(FileNotFoundError):  # of one that was killed
            shutil.rmtree(workplace)
        try:
            _unpack(archive, top, workplace, folder)
            _replace(folder, workplace)
        finally:
            shutil.rmtree(workplace, ignore_errors=True)


def _unpack(archive: Path, top: str, workplace: Path, folder: Path) -> None:
    """Extract into a new folder, and record what came."""
    unpack = _unpack_zip if archive.suffix == ".zip" else _unpack_tar
    try:
        with naming(folder):
            unpack(archive, top, workplace)
    except tarfile.FilterError as error:
        raise _refusal(archive, error.tarinfo.name, f"is not safe ({error})") from error
    except _DAMAGED as error:
        raise DatasetError(
            f"{archive} is damaged and was not extracted ({type(error).__name__}: {error}). "
            "Delete it and call again to download it anew."
        ) from error
    made = workplace / top
    if not made.is_dir():
        raise DatasetError(
            f"expected files in a folder {top!r} of {archive}, got none. It is another archive: "
            "delete it and call again."
        )
    with naming(folder):
        write_atomically(made / _RECORD, json.dumps(_sizes(made)).encode())


def _replace(folder: Path, workplace: Path) -> None:
    """Put what was extracted in the place of what may be there."""
    [made] = workplace.iterdir()
    if folder.exists():
        os.replace(folder, workplace / _RECORD)  # a name that no member has; deleted with it
    os.replace(made, folder)


def _sizes(folder: Path) -> dict[str, int]:
    """Sizes of all files in a folder and its folders, by their path relative to it."""
    sizes = {}
    for place, _, names in os.walk(folder):
        prefix = "" if Path(place) == folder else Path(place).relative_to(folder).as_posix() + "/"
        for name in names:
            if prefix + name != _RECORD:
                sizes[prefix + name] = os.lstat(os.path.join(place, name)).st_size
    return sizes


def _unpack_tar(archive: Path, top: str, workplace: Path) -> None:
    with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in _progress(tar, archive):
            _check_name(member.name, archive)
            if member.issym() or member.islnk():
                _check_link(member, archive)
            elif not (member.isreg() or member.isdir()):
                raise _refusal(archive, member.name, "is a device")
            if _inside(member.name, top):
                # The filter checks again, with the links that are on the disk by now.
                tar.extract(_seen_from(top, member), workplace / top, filter="data")
        while stream.read(_CHUNK):  # a checksum of all stands at the end
            pass


def _seen_from(top: str, member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member named relative to the archive's folder, and so a hard link's target."""
    name, linkname = _inside(member.name, top), member.linkname
    if member.islnk():
        linkname = _inside(linkname, top)
    return member.replace(name=name, linkname=linkname, deep=False)


def _unpack_zip(archive: Path, top: str, workplace: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for member in _progress(packed.infolist(), archive):
            # Checked here, since zipfile drops the wrong parts of a name and goes on.
            _check_name(member.orig_filename, archive)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refusal(archive, member.filename, "is a link or a device")
            if _inside(member.filename, top):
                packed.extract(member, workplace)


def _progress(members: Iterable, archive: Path) -> Iterator:
    from tqdm import tqdm

    return iter(tqdm(members, desc=f"extracting {archive.name}", unit=" files", disable=None))


def _inside(name: str, top: str) -> str:
    """Name relative to the archive's folder; empty for the folder itself and what is beside it."""
    first, _, rest = posixpath.normpath(name).partition("/")
    return rest if first == top else ""


def _check_name(name: str, archive: Path) -> None:
    # As Windows reads names: it knows drives, and both kinds of slashes.
    path = PureWindowsPath(name)
    if path.drive or path.root or ".." in path.parts or "\0" in name:
        raise _refusal(archive, name, "would be written elsewhere")


def _check_link(member: tarfile.TarInfo, archive: Path) -> None:
    target = PureWindowsPath(member.linkname)
    start = posixpath.dirname(member.name) if member.issym() else ""
    reached = posixpath.normpath(posixpath.join(start, target.as_posix()))
    top = posixpath.normpath(member.name).split("/")[0]
    if reached.split("/")[0] != top:
        raise _refusal(archive, member.name, f"is a link that leads elsewhere ({member.linkname})")


def _refusal(archive: Path, name: str, reason: str) -> DatasetError:
    return DatasetError(
        f"{archive} was not extracted: its member {name!r} {reason}. It is not the file that was "
        "published: delete it, and get it from its publishers."
    )
