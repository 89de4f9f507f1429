"""Files of data sets: downloaded once, in several goes if need be, and checked."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from capkit._files import write_atomically
from capkit._optional import require
from capkit.datasets._disk import exclusive, naming
from capkit.exceptions import DatasetDownloadError, DatasetError

if TYPE_CHECKING:
    import httpx

__all__ = ["RemoteFile", "data_folder", "fetch_files"]

logger = logging.getLogger(__name__)

# Before each further attempt; a call makes one attempt more than there are pauses.
_PAUSES_SECONDS = (0.5, 2.0, 5.0)
_SILENCE_SECONDS = 30.0
# More files than these have one bar for all; what is done sooner than this has none.
_FILES_WITHOUT_A_BAR = 3
_SECONDS_WITHOUT_A_BAR = 1.0
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file of a data set and where it is published.

    Attributes
    ----------
    name : str
        Where it is kept, relative to the data set's folder; may have slashes.
    url : str
    checksum : str or None
        ``"sha256:..."`` or ``"md5:..."``; None where none is published.
    """

    name: str
    url: str
    checksum: str | None


def data_folder(data_home: str | os.PathLike | None, name: str) -> Path:
    """Folder of a data set.

    Parameters
    ----------
    data_home : path or None
        None is ``$CAPKIT_DATA``, or else the user's own folder for capkit's data.
    name : str
        Of the data set.

    Returns
    -------
    Path
        Absolute; it need not exist.
    """
    if data_home is None:
        default = platformdirs.user_data_path("capkit") / "datasets"
        data_home = os.environ.get("CAPKIT_DATA") or default
    return Path(os.path.abspath(os.path.expanduser(data_home))) / name


def fetch_files(
    files: Sequence[RemoteFile], folder: Path, *, download: bool, owner: str
) -> list[Path]:
    """Files of a data set; those that are missing or damaged are downloaded.

    A download that breaks off leaves a ``.part`` file, from which the next call goes on. Of
    several processes that fetch a file at once one downloads it and the others wait.

    Parameters
    ----------
    files : sequence of RemoteFile
    folder : Path
        Of the data set.
    download : bool
        Otherwise what is missing is an error.
    owner : str
        The public function's name, for messages.

    Returns
    -------
    list of Path
        Absolute, in the order of `files`.

    Raises
    ------
    DatasetDownloadError
        If the server cannot be reached, has no such file, or breaks off again and again.
    DatasetError
        If what came has the wrong checksum, or a file is not there and is not to be downloaded.
    OSError
        If a file cannot be written.
    ImportError
        If pooch or filelock is not installed.
    """
    require(owner, "datasets", "pooch", "filelock")
    from tqdm import tqdm

    with contextlib.ExitStack() as stack:
        connect = functools.cache(lambda: stack.enter_context(_client()))
        quiet = True if len(files) <= _FILES_WITHOUT_A_BAR else None  # None: by the terminal
        shown = tqdm(files, desc=owner, unit="file", disable=quiet, delay=_SECONDS_WITHOUT_A_BAR)
        return [_fetch(file, folder / file.name, download, owner, connect) for file in shown]


def _client() -> httpx.Client:
    """One for all files of a call, as each connection takes longer than a small file."""
    import httpx

    return httpx.Client(follow_redirects=True, timeout=httpx.Timeout(_SILENCE_SECONDS))


def _fetch(
    file: RemoteFile,
    path: Path,
    download: bool,
    owner: str,
    connect: Callable[[], httpx.Client],
) -> Path:
    if _is_right(path, file.checksum):
        return path
    if not download:
        what = "has another checksum" if path.is_file() else "is not there"
        raise DatasetError(
            f"{owner}: {path} {what}, and download=False. Download it with download=True, or from "
            f"{file.url} by hand. {_by_hand(file, path)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path):
        _download(file, path, owner, connect())
    return path


def _is_right(path: Path, checksum: str | None) -> bool:
    """Whether a file is there and has its checksum, which is read off it only once."""
    import pooch

    if not path.is_file() or checksum is None:
        return path.is_file()
    with contextlib.suppress(OSError):
        if _note(path).read_text("utf-8") == _state(path, checksum):
            return True
    algorithm, _, digest = checksum.partition(":")
    if pooch.file_hash(str(path), alg=algorithm) != digest:
        return False
    _note_right(path, checksum)
    return True


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified")


def _state(path: Path, checksum: str) -> str:
    status = path.stat()
    return f"{checksum} {status.st_size} {status.st_mtime_ns}"


def _note_right(path: Path, checksum: str) -> None:
    with contextlib.suppress(OSError):  # a folder that cannot be written to serves as well
        write_atomically(_note(path), _state(path, checksum).encode())


def _by_hand(file: RemoteFile, path: Path) -> str:
    checksum = "" if file.checksum is None else f" ({file.checksum.replace(':', ' ')})"
    return (
        f"If the link is dead, get {path.name}{checksum} elsewhere. Put the file here: {path} "
        "and call again; that needs no network."
    )


def _download(file: RemoteFile, path: Path, owner: str, client: httpx.Client) -> None:
    """Download a file, check it and move it into place, all by pooch.

    Which looks first whether a right one is there: another process may have been quicker.
    """
    import httpx
    import pooch

    part = _Part(path, client)
    try:
        with _only_warnings(pooch.get_logger()):
            pooch.retrieve(
                file.url,
                file.checksum,
                fname=path.name,
                path=path.parent,
                downloader=part.complete,
            )
    except httpx.HTTPError as error:
        raise DatasetDownloadError(
            f"{owner} could not download {file.url}: {_reason(error)}. {part.progress()}"
            f"{_by_hand(file, path)}"
        ) from error
    except ValueError as error:  # pooch's, with both checksums in it; the file is deleted
        raise DatasetError(
            f"{owner}: {file.url} gave another file than was expected. {error} Call again to "
            f"download it anew. If that gives the same, the published file has changed. "
            f"{_by_hand(file, path)}"
        ) from error
    if file.checksum is not None:
        _note_right(path, file.checksum)


@contextlib.contextmanager
def _only_warnings(other: logging.Logger) -> Iterator[None]:
    """Without pooch's lines for each file, which go to the terminal beside the bar."""
    level = other.level
    other.setLevel(logging.WARNING)
    try:
        yield
    finally:
        other.setLevel(level)


def _reason(error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return f"the server answers {error.response.status_code} {error.response.reason_phrase}"
    return f"{type(error).__name__}: {error}".rstrip(": .")


class _Part:
    """The part of a file that has been downloaded so far, beside the file to be.

    Parameters
    ----------
    path : Path
        The file to be.
    client : httpx.Client
    """

    def __init__(self, path: Path, client: httpx.Client):
        self._target, self._client = path, client
        self._path = path.with_name(f"{path.name}.part")
        # Which version of the file it is a part of, by what the server said with it.
        self._origin = path.with_name(f"{path.name}.part.json")

    def complete(self, url: str, output_file: str, pooch: object) -> None:
        """Download what is missing and move the whole to `output_file`, as pooch calls it."""
        import httpx

        for pause in _PAUSES_SECONDS:
            try:
                self._receive(url)
                break
            except httpx.HTTPError as error:
                if not _is_worth_another_attempt(error):
                    raise
                logger.info("%s broke off (%s), again in %s s", url, _reason(error), pause)
                time.sleep(pause)
        else:
            self._receive(url)
        os.replace(self._path, output_file)
        self._forget()

    def progress(self) -> str:
        """What is there of the file, for a message; empty if nothing is."""
        size = self._size()
        if not size:
            return ""
        return f"{size:,} bytes have come and are kept: calling again goes on from there. "

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def _forget(self) -> None:
        self._origin.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    def _version(self, url: str) -> str | None:
        """Version that the part is of; None if that is not known, so that it is of no use."""
        try:
            origin = json.loads(self._origin.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return origin["version"] if origin["url"] == url else None

    def _receive(self, url: str) -> None:
        """One request, for what is missing where the server can tell that it is the same file."""
        import httpx

        # Never compressed on the way: the length and the checksum are those of the file itself.
        headers = {"Accept-Encoding": "identity"}
        version, size = self._version(url), self._size()
        if version is not None and size:
            headers |= {"Range": f"bytes={size}-", "If-Range": version}
        with self._client.stream("GET", url, headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                if _total(response) == size:
                    return  # it was all there: only the move was missing
                self._forget()
                raise httpx.RemoteProtocolError("the file is shorter than what came of it before")
            response.raise_for_status()
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                self._begin(url, response)
                size = 0
            elif _first_byte(response) != size or _version_of(response) not in (None, version):
                self._forget()
                raise httpx.RemoteProtocolError("the server sent another part than was asked for")
            self._append(response, size)

    def _begin(self, url: str, response: httpx.Response) -> None:
        self._forget()
        version = _version_of(response)
        if version is not None:
            content = json.dumps({"url": url, "version": version})
            write_atomically(self._origin, content.encode())

    def _append(self, response: httpx.Response, size: int) -> None:
        from tqdm import tqdm

        bar = tqdm(
            desc=self._target.name,
            total=_total(response),
            initial=size,
            unit="B",
            unit_scale=True,
            disable=None,
            delay=_SECONDS_WITHOUT_A_BAR,
        )
        with bar, naming(self._target), open(self._path, "ab") as stream:
            # Raw: servers call a .tar.gz compressed on the way, which httpx would undo.
            for chunk in response.iter_raw():
                stream.write(chunk)
                bar.update(len(chunk))


def _is_worth_another_attempt(error: Exception) -> bool:
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _RETRIED_STATUS
    return isinstance(error, httpx.TransportError)


def _version_of(response: httpx.Response) -> str | None:
    """What tells versions of a file apart byte by byte, as If-Range wants it; None if nothing."""
    tag = response.headers.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        return tag
    return response.headers.get("Last-Modified")


def _first_byte(response: httpx.Response) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _total(response: httpx.Response) -> int | None:
    """Length of the whole file, where the server says it."""
    if "Content-Range" in response.headers:
        found = re.search(r"/(\d+)$", response.headers["Content-Range"])
        return int(found[1]) if found else None
    length = response.headers.get("Content-Length")
    return None if length is None else int(length)
