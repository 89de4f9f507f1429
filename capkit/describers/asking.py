"""Asking a describer, and cleaning its answers."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from sklearn.utils import check_scalar

from capkit.exceptions import ClassNamesError, DescriberAnswerError, DescriberError

__all__ = [
    "check_class_names",
    "clean_descriptions",
    "clean_text",
    "describe_classes",
    "object_without_doubles",
    "unfit_character",
]

logger = logging.getLogger(__name__)

MAX_TEXT_LENGTH = 10_000  # characters; what is longer is something else than a description
MAX_DESCRIPTION_LENGTH = 300  # characters; a CLIP text tower reads 77 tokens at most
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_WORD = re.compile(r"[^\W_]+")
_UNFIT_CHARACTER = re.compile(r"[\x00\ud800-\udfff]")
_LIST_MARKER = re.compile(r"^(?:[-*•–]|\d{1,2}[.)])\s+")


def describe_classes(
    describer: Callable[[str, int], Sequence[str]],
    class_names: Iterable[str],
    n: int = 8,
) -> dict[str, list[str]]:
    r"""Ask a describer for each class and clean the answers.

    Parameters
    ----------
    describer : callable ``(class_name, n) -> sequence of str`` or object with ``describe``
        If there is a method ``describe(class_names, n)``, it is called once for all classes.
    class_names : iterable of str
    n : int, default=8
        Largest number of descriptions per class.

    Returns
    -------
    dict of str to list of str
        1 to `n` descriptions of each class, cleaned by :func:`clean_descriptions`.

    Raises
    ------
    TypeError
        If `describer` is not a describer.
    ClassNamesError
        If `class_names` are not non-empty str.
    DescriberError
        If the describer fails, or :class:`~capkit.exceptions.DescriberAnswerError` if it gives
        nothing usable for a class. ``error.descriptions`` has the answers obtained before.

    Notes
    -----
    Descriptions that two classes share, or that name another class, are logged as warnings: they
    do not distinguish the classes, but may be right.

    Examples
    --------
    >>> from capkit.describers import describe_classes
    >>> describe_classes(lambda name, n: [f"a  {name}\n", f"1. A {name}"], ["river"])
    {'river': ['a river']}
    """
    n = check_scalar(n, "n", Integral, min_val=1)
    class_names = check_class_names(class_names)
    if isinstance(describer, type):
        raise TypeError(
            f"describer must be an object, got the class {describer.__name__}. Make one of it: "
            f"{describer.__name__}(...)."
        )
    answers: Mapping[str, Any]
    if hasattr(describer, "describe"):
        answers = describer.describe(class_names, n)
        if not isinstance(answers, Mapping):
            raise DescriberAnswerError(
                f"{_name_of(describer)}.describe must return a dict of class name to list of str, "
                f"got {type(answers).__name__}."
            )
    elif callable(describer):
        answers = _ask_one_by_one(describer, class_names, n)
    else:
        raise TypeError(
            "describer must be a callable (class_name, n) -> list of str or have a method "
            f"describe(class_names, n), got {type(describer).__name__}. For a dict or a file of "
            "descriptions use capkit.describers.TableDescriber."
        )
    cleaned: dict[str, list[str]] = {}
    for class_name in class_names:
        try:
            cleaned[class_name] = clean_descriptions(answers.get(class_name, ()), class_name, n)
        except DescriberError as error:
            error.descriptions = cleaned
            raise
    _warn_of_likenesses(cleaned)
    return cleaned


def check_class_names(class_names: Iterable[str]) -> list[str]:
    """Check names of classes that are to be described.

    Parameters
    ----------
    class_names : iterable of str

    Returns
    -------
    list of str
        Without duplicates, in the order given.

    Raises
    ------
    ClassNamesError
        If they are not str, are empty, or are text that cannot be written to a file.
    """
    if isinstance(class_names, (str, bytes)) or not isinstance(class_names, Iterable):
        raise ClassNamesError(
            f"expected class_names as an iterable of str, got {type(class_names).__name__}: "
            f"{class_names!r:.80}. Put a single one into a list."
        )
    names = list(class_names)
    for name in names:
        if not isinstance(name, str):
            raise ClassNamesError(
                f"expected each of class_names to be a str, got {type(name).__name__}: "
                f"{name!r:.80}. Give the classes names that say what they are."
            )
        if not name.strip():
            raise ClassNamesError(
                f"expected class_names that say something, got {name!r}. Leave it out or name it."
            )
        if fault := unfit_character(name):
            raise ClassNamesError(
                f"expected text as class_names, got {fault} in {name!r:.80}. Read the names anew, "
                "in the encoding that they were written in."
            )
    return list(dict.fromkeys(names))


def object_without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict from a JSON object without duplicate names; json's ``object_pairs_hook``.

    Parameters
    ----------
    pairs : list of (str, object)

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If a name occurs twice; json would silently use the last one.

    Examples
    --------
    >>> import json
    >>> from capkit.describers.asking import object_without_doubles
    >>> json.loads('{"a": 1, "a": 2}', object_pairs_hook=object_without_doubles)
    Traceback (most recent call last):
    ValueError: expected each name once, got twice: ['a']
    """
    table = dict(pairs)
    if len(table) < len(pairs):
        times = Counter(name for name, _ in pairs)
        doubled = [name for name in table if times[name] > 1]
        raise ValueError(f"expected each name once, got twice: {doubled!r:.200}")
    return table


def unfit_character(text: str) -> str | None:
    """Name a character that only a wrong encoding or binary data can put into a text.

    Parameters
    ----------
    text : str

    Returns
    -------
    str or None
        The first such character in words, None if there is none.

    Examples
    --------
    >>> from capkit.describers.asking import unfit_character
    >>> unfit_character("a blue" + chr(0xD800))
    'a lone surrogate (U+D800)'
    """
    found = _UNFIT_CHARACTER.search(text)
    if found is None:
        return None
    code = ord(found[0])
    return f"a lone surrogate (U+{code:04X})" if code else "a NUL character"


def _warn_of_likenesses(descriptions: Mapping[str, list[str]]) -> None:
    """Log which descriptions also fit another class, by their words."""
    words = {name: _words(name) for name in descriptions}
    first_class: dict[str, str] = {}
    for name, texts in descriptions.items():
        for text in texts:
            first = first_class.setdefault(text.casefold(), name)
            if first != name:
                logger.warning("classes %r and %r share the description %r", first, name, text)
            named = _named_classes(_words(text), name, words)
            if named:
                logger.warning("a description of class %r names %s: %r", name, named, text)


def _named_classes(text: str, own_class: str, words: Mapping[str, str]) -> list[str]:
    """Other classes that a text names, except those whose name is part of its own class's name."""
    own = words[own_class]
    without_own = text.replace(own, " ")
    return [
        other
        for other, name in words.items()
        if other != own_class and name in (text if own in name else without_own)
    ]


def _words(text: str) -> str:
    """The words of a text, each with a space on either side."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def _ask_one_by_one(describer: Callable, class_names: list[str], n: int) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for class_name in class_names:
        try:
            answers[class_name] = describer(class_name, n)
        except DescriberError as error:
            error.descriptions = answers
            raise
        except Exception as error:
            failure = DescriberError(
                f"{_name_of(describer)} failed for class {class_name!r}: "
                f"{type(error).__name__}: {error}"
            )
            failure.descriptions = answers
            raise failure from error
    return answers


def clean_descriptions(texts: Sequence[str], class_name: str, n: int | None = None) -> list[str]:
    r"""Make descriptions safe to show and fit to encode.

    Control and invisible formatting characters, escape sequences, list markers and superfluous
    spaces are removed. Texts of more than 300 characters are cut between words, and those of more
    than 10000 are refused. Duplicates (ignoring case) and empty texts are dropped.

    Parameters
    ----------
    texts : sequence of str
    class_name : str
        Named in the error.
    n : int or None, default=None
        Keep the first `n`; None keeps all.

    Returns
    -------
    list of str
        At least one.

    Raises
    ------
    DescriberAnswerError
        If `texts` is not a sequence of str, nothing is left after cleaning, or a text has more
        than 10000 characters.

    Examples
    --------
    >>> from capkit.describers import clean_descriptions
    >>> clean_descriptions(["1. a blue\tribbon", "A blue ribbon", " "], "river")
    ['a blue ribbon']
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise DescriberAnswerError(
            f"expected a list of str as the descriptions of class {class_name!r}, "
            f"got {type(texts).__name__}: {texts!r:.80}. Put a single one into a list."
        )
    cleaned: dict[str, str] = {}
    for text in texts:
        if not isinstance(text, str):
            raise DescriberAnswerError(
                f"expected every description of class {class_name!r} to be a str, "
                f"got {type(text).__name__}: {text!r:.80}"
            )
        if len(text) > MAX_TEXT_LENGTH:
            raise DescriberAnswerError(
                f"expected descriptions of class {class_name!r} of at most {MAX_TEXT_LENGTH} "
                f"characters, got one of {len(text)}: {text[:40]!r}... Of what CLIP reads, "
                f"{MAX_DESCRIPTION_LENGTH} are used: shorten it, or see that it is one at all."
            )
        text = clean_text(text)
        if text:
            cleaned.setdefault(text.casefold(), text)
    if not cleaned:
        raise DescriberAnswerError(
            f"no description of class {class_name!r}: the answer was empty. Ask again with "
            "another seed or model, or write descriptions yourself for a TableDescriber."
        )
    return list(cleaned.values())[:n]


def clean_text(text: str) -> str:
    """Remove from a text what is invisible or not part of it; see :func:`clean_descriptions`.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
        At most 300 characters.
    """
    text = _ESCAPE_SEQUENCE.sub("", text)
    # White space is kept as a blank before the categories C* go: newline and tab are among them.
    visible = (
        " " if character.isspace() else character
        for character in text
        if character.isspace() or not unicodedata.category(character).startswith("C")
    )
    text = _LIST_MARKER.sub("", " ".join("".join(visible).split()))
    if len(text) > MAX_DESCRIPTION_LENGTH:
        text = text[: MAX_DESCRIPTION_LENGTH + 1]
        text = text.rpartition(" ")[0] or text[:MAX_DESCRIPTION_LENGTH]
    return text


def _name_of(describer: object) -> str:
    return getattr(describer, "__name__", type(describer).__name__)
