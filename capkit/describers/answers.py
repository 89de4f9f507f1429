"""Questions to a language model and its answers, which are cached in a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from capkit._files import write_atomically
from capkit.describers.asking import clean_descriptions
from capkit.exceptions import CacheError

__all__ = ["Answer", "Question", "make_folder", "read_answer", "remove_remnants", "write_answer"]

logger = logging.getLogger(__name__)

_MAX_ENTRY_BYTES = 4 * 2**20  # as much as an answer of a server can have
_CHECKSUM_KEY = "checksum"
_REMNANT_SECONDS = 3600.0  # writing an answer takes a fraction of one


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about one class: all that the answer depends on, except the model's version.

    Parameters
    ----------
    model : str
        Its full name.
    class_name : str
    n : int
        Number of descriptions.
    system : str
        System prompt.
    prompt : str
        The prompt, filled in.
    options : dict
        Sampling options.
    """

    model: str
    class_name: str
    n: int
    system: str
    prompt: str
    options: dict[str, Any]

    def schema(self) -> dict[str, Any]:
        """JSON schema that the answer has to follow.

        Returns
        -------
        dict
        """
        texts = {
            "type": "array",
            "items": {"type": "string"},
            "minItems": self.n,
            "maxItems": self.n,
        }
        return {
            "type": "object",
            "properties": {"descriptions": texts},
            "required": ["descriptions"],
            "additionalProperties": False,
        }

    def identity(self) -> dict[str, Any]:
        """Everything that distinguishes this question from others, as JSON values.

        Returns
        -------
        dict
        """
        return {**dataclasses.asdict(self), "format": self.schema()}

    def key(self) -> str:
        """Digest of the identity.

        Returns
        -------
        str
        """
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Answer:
    """Descriptions, and the digest of the version of the model that wrote them.

    Parameters
    ----------
    descriptions : tuple of str
    digest : str
    """

    descriptions: tuple[str, ...]
    digest: str


def make_folder(cache_dir: str | os.PathLike) -> Path:
    """Make the folder for answers in a cache folder.

    Parameters
    ----------
    cache_dir : path

    Returns
    -------
    Path

    Raises
    ------
    CacheError
        If it cannot be made.
    """
    folder = Path(cache_dir).expanduser() / "descriptions"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise CacheError(f"cannot make the folder {folder} for cache_dir: {error}") from error
    return folder


def read_answer(folder: Path, question: Question) -> Answer | None:
    """Read the cached answer to a question.

    Parameters
    ----------
    folder : Path
    question : Question

    Returns
    -------
    Answer or None
        None if there is none, or, with a warning in the log, if it cannot be used.
    """
    path = _path(folder, question)
    try:
        with open(path, "rb") as stream:
            content = stream.read(_MAX_ENTRY_BYTES + 1)
        return _parse(content, question)
    except FileNotFoundError:
        return None
    except (OSError, RecursionError, ValueError) as error:
        logger.warning("kept answer %s cannot be used (%s); asking again", path, error)
        return None


def _parse(content: bytes, question: Question) -> Answer:
    if len(content) > _MAX_ENTRY_BYTES:
        raise ValueError(f"it has more than {_MAX_ENTRY_BYTES} bytes")
    record = json.loads(content)
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {type(record).__name__}")
    for name, expected in question.identity().items():
        # Copied, renamed or edited: the name of the file alone does not say what it is about.
        if record.get(name) != expected:
            raise ValueError(
                f"expected an answer for {name} {expected!r:.80}, got {record.get(name)!r:.80}"
            )
    if record.pop(_CHECKSUM_KEY, None) != _checksum(record):
        raise ValueError("its content is not what was written")
    digest = record.get("digest")
    if not isinstance(digest, str):
        raise ValueError(f"expected a str as digest, got {type(digest).__name__}")
    texts: Any = record.get("descriptions")
    return Answer(tuple(clean_descriptions(texts, question.class_name, question.n)), digest)


def write_answer(folder: Path, question: Question, answer: Answer) -> None:
    """Cache an answer, replacing any earlier one.

    Parameters
    ----------
    folder : Path
    question : Question
    answer : Answer

    Raises
    ------
    CacheError
        If it cannot be written.
    """
    path = _path(folder, question)
    record = question.identity() | dataclasses.asdict(answer)
    record[_CHECKSUM_KEY] = _checksum(record)
    try:
        write_atomically(path, json.dumps(record, ensure_ascii=False, indent=2).encode())
    except OSError as error:
        raise CacheError(
            f"cannot write the answer for class {question.class_name!r} to {path}: {error}. Free "
            "space or name another cache_dir; this object still has the answer."
        ) from error


def remove_remnants(folder: Path) -> None:
    """Remove the leftovers of processes that were killed while writing an answer.

    Parameters
    ----------
    folder : Path
    """
    latest = time.time() - _REMNANT_SECONDS  # younger ones may still be written
    for partial in folder.glob(".*.partial"):
        with contextlib.suppress(OSError):  # gone in the meantime, or not ours to remove
            if partial.stat().st_mtime < latest:
                partial.unlink()


def _checksum(record: dict[str, Any]) -> str:
    """Checksum of a whole entry, so that a flipped bit is not taken for the model's words."""
    text = json.dumps(record, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _path(folder: Path, question: Question) -> Path:
    return folder / f"{question.key()}.json"
