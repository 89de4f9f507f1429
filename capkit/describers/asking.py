"""Asking a describer, and cleaning what it says."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from sklearn.utils import check_scalar

from capkit.exceptions import DescriberAnswerError, DescriberError

__all__ = ["clean_descriptions", "describe_classes"]

MAX_DESCRIPTION_LENGTH = 300  # characters; a CLIP text tower reads 77 tokens at most
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
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
        ``describe(class_names, n)``, where there is one, is asked once for all classes.
    class_names : iterable of str
    n : int, default=8
        Descriptions a class, at most.

    Returns
    -------
    dict of str to list of str
        1 to `n` descriptions of each class, as :func:`clean_descriptions` leaves them.

    Raises
    ------
    TypeError
        If `describer` is not one.
    DescriberError
        If it fails, or :class:`~capkit.exceptions.DescriberAnswerError` if it says nothing usable
        about a class. ``error.descriptions`` holds the classes answered before.

    Examples
    --------
    >>> from capkit.describers import describe_classes
    >>> describe_classes(lambda name, n: [f"a  {name}\n", f"1. A {name}"], ["river"])
    {'river': ['a river']}
    """
    n = check_scalar(n, "n", Integral, min_val=1)
    class_names = list(class_names)
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
    return cleaned


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
    blanks are taken out; what is longer than 300 characters is cut between words; repetitions
    (whatever their case) and empty texts are dropped.

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
        If `texts` is no sequence of str or nothing is left of it.

    Examples
    --------
    >>> from capkit.describers import clean_descriptions
    >>> clean_descriptions(["1. a blue\tribbon", "A blue ribbon", " "], "river")
    ['a blue ribbon']
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise DescriberAnswerError(
            f"expected a list of str as the descriptions of class {class_name!r}, "
            f"got {type(texts).__name__}: {texts!r:.80}"
        )
    cleaned: dict[str, str] = {}
    for text in texts:
        if not isinstance(text, str):
            raise DescriberAnswerError(
                f"expected every description of class {class_name!r} to be a str, "
                f"got {type(text).__name__}: {text!r:.80}"
            )
        text = _clean_text(text)
        if text:
            cleaned.setdefault(text.casefold(), text)
    if not cleaned:
        raise DescriberAnswerError(
            f"no description of class {class_name!r}: the answer was empty. Ask again with "
            "another seed or model, or write descriptions yourself for a TableDescriber."
        )
    return list(cleaned.values())[:n]


def _clean_text(text: str) -> str:
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
