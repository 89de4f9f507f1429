"""Descriptions in a table: a dict, or a file that a person can edit."""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sklearn.base import BaseEstimator

from capkit._files import write_atomically
from capkit.describers.asking import (
    check_class_names,
    clean_descriptions,
    object_without_doubles,
    unfit_character,
)
from capkit.exceptions import DescriberAnswerError

__all__ = ["TableDescriber", "load_descriptions", "save_descriptions"]

_CSV_HEADER = ["class_name", "description"]
_LAYOUT = (
    "Lay it out as save_descriptions does: in JSON each class once, with a list of texts; in CSV "
    "a line for each description, in double quotes where it has a comma."
)


class TableDescriber(BaseEstimator):
    """Descriptions from a dict or a file, written or corrected by a person.

    Parameters
    ----------
    table : mapping of str to list of str, or path
        Class names and their descriptions, or a ``.json`` or ``.csv`` file as
        :func:`save_descriptions` writes it.

    See Also
    --------
    OllamaDescriber, OpenAIDescriber : Descriptions by a language model.
    save_descriptions : Save the answers of a language model, to read and correct them.

    Examples
    --------
    >>> from capkit.describers import TableDescriber
    >>> describer = TableDescriber({"river": ["a winding blue band", "brown water with banks"]})
    >>> describer("river", 1)
    ['a winding blue band']
    """

    def __init__(self, table: Mapping[str, Sequence[str]] | str | os.PathLike):
        self.table = table

    def __call__(self, class_name: str, n: int | None = None) -> list[str]:
        """Return the first `n` descriptions of a class; see :meth:`describe`.

        Parameters
        ----------
        class_name : str
        n : int or None, default=None
            None returns all.

        Returns
        -------
        list of str
        """
        return self.describe([class_name], n)[class_name]

    def describe(self, class_names: Iterable[str], n: int | None = None) -> dict[str, list[str]]:
        """Return the first `n` descriptions of each class.

        Parameters
        ----------
        class_names : iterable of str
        n : int or None, default=None
            None returns all.

        Returns
        -------
        dict of str to list of str

        Raises
        ------
        FileNotFoundError
            If `table` is the path of a file that does not exist.
        TypeError
            If `table` is neither a mapping nor a path.
        ClassNamesError
            If `class_names` are not non-empty str.
        DescriberAnswerError
            If the table lacks a class or does not have the expected layout.
        """
        names = check_class_names(class_names)
        table, where = self._read()
        descriptions = {}
        for name in names:
            if name not in table:
                close = difflib.get_close_matches(name, [str(known) for known in table])
                raise DescriberAnswerError(
                    f"{where} has no class {name!r} among its {len(table)}"
                    + (f"; close to it: {close}" if close else "")
                    + ". Add its descriptions."
                )
            descriptions[name] = _checked_texts(table[name], name, where)[:n]
        return descriptions

    def _read(self) -> tuple[Mapping[str, Sequence[str]], str]:
        """The table, and how errors refer to it."""
        if isinstance(self.table, Mapping):
            for name in self.table:
                _check_name(name, "the table")
            return self.table, "the table"
        if not isinstance(self.table, (str, os.PathLike)):
            raise TypeError(
                "expected as table a mapping of class names to lists of texts, or the path of a "
                f".json or .csv file, got {type(self.table).__name__}."
            )
        return load_descriptions(self.table), str(self.table)


def save_descriptions(
    path: str | os.PathLike, descriptions: Mapping[str, Sequence[str] | str]
) -> None:
    """Write descriptions to a file that a person can edit and TableDescriber reads.

    Parameters
    ----------
    path : path
        Ends in ``.json`` (class names and lists of texts) or ``.csv`` (one line per description,
        columns ``class_name`` and ``description``). An existing file is replaced as a whole or not
        at all.
    descriptions : mapping of str to sequence of str, or to str
        For instance ``aligner.descriptions_``, ``classifier.descriptions_``, or
        ``error.descriptions`` of a :class:`~capkit.exceptions.DescriberError`.

    Raises
    ------
    TypeError
        If class names or descriptions are not str.
    ValueError
        If the path has another ending, or :func:`load_descriptions` could not read the file.

    Examples
    --------
    >>> from capkit.describers import TableDescriber, save_descriptions
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "descriptions.csv"
    >>> save_descriptions(path, {"river": ["a winding blue band"]})
    >>> print(path.read_text(), end="")
    class_name,description
    river,a winding blue band
    >>> TableDescriber(path)("river")
    ['a winding blue band']
    """
    suffix = _table_suffix(path)
    table = {
        name: [texts] if isinstance(texts, str) else list(texts)
        for name, texts in descriptions.items()
    }
    for name, texts in table.items():
        for text in (name, *texts):
            if not isinstance(text, str):
                raise TypeError(
                    "expected class names and descriptions as str, got "
                    f"{type(text).__name__}: {text!r:.80} (class {name!r:.80})"
                )
        _check_name(name, "descriptions")
        _checked_texts(texts, name, "descriptions")
    if suffix == ".json":
        content = json.dumps(table, ensure_ascii=False, indent=2) + "\n"
    else:
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_CSV_HEADER)
        for name, texts in table.items():
            writer.writerows((name, text) for text in texts)
        content = stream.getvalue()
    write_atomically(path, content.encode())


def load_descriptions(path: str | os.PathLike) -> dict[str, list[str]]:
    """Read a table that :func:`save_descriptions` or a person wrote.

    Parameters
    ----------
    path : path
        UTF-8, ending in ``.json`` or ``.csv``.

    Returns
    -------
    dict of str to list of str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the path has another ending.
    DescriberAnswerError
        If the file does not have the layout of :func:`save_descriptions`, names a class twice
        (``.json``), or is not UTF-8 text without NUL characters and lone surrogates.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from capkit.describers import load_descriptions, save_descriptions
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "descriptions.csv")
    ...     save_descriptions(path, {"pond": ["a small round lake", "still water"]})
    ...     load_descriptions(path)
    {'pond': ['a small round lake', 'still water']}
    """
    suffix = _table_suffix(path)
    # utf-8-sig: spreadsheet programs put a byte order mark before the first column's name.
    with open(path, encoding="utf-8-sig", newline="") as stream:
        try:
            if suffix == ".json":
                table = json.load(stream, object_pairs_hook=object_without_doubles)
            else:
                table = _read_csv(stream)
        except UnicodeDecodeError as error:
            raise DescriberAnswerError(
                f"{path} cannot be read: expected UTF-8, got another encoding ({error}). Save it "
                "as UTF-8."
            ) from error
        except RecursionError as error:
            raise DescriberAnswerError(
                f"{path} cannot be read: it is nested too deeply. {_LAYOUT}"
            ) from error
        except (ValueError, csv.Error) as error:
            raise DescriberAnswerError(f"{path} cannot be read: {error}. {_LAYOUT}") from error
    if not isinstance(table, dict):
        raise DescriberAnswerError(
            f"{path}: expected an object of class names and lists of texts, "
            f"got {type(table).__name__}. {_LAYOUT}"
        )
    for name in table:
        _check_name(name, str(path))
    return {name: _checked_texts(texts, name, str(path)) for name, texts in table.items()}


def _check_name(name: object, where: str) -> None:
    """Refuse anything that cannot be the name of a class."""
    if not isinstance(name, str):
        raise DescriberAnswerError(
            f"{where}: expected a str as the name of each class, got {type(name).__name__}: "
            f"{name!r:.80}. Write the names as in class_names."
        )
    if not name.strip():
        raise DescriberAnswerError(
            f"{where}: expected the name of a class, got {name!r}. Name it or take it out."
        )
    if fault := unfit_character(name):
        raise DescriberAnswerError(
            f"{where}: expected text as the name of a class, got {fault} in {name!r:.80}. Write "
            "it anew, and save a file as UTF-8."
        )


def _checked_texts(texts: Sequence[str], class_name: str, where: str) -> list[str]:
    """Clean the descriptions of a class; refuse what no person can have written."""
    # clean_descriptions checks the type and everything else.
    for text in texts if isinstance(texts, Sequence) else ():
        fault = unfit_character(text) if isinstance(text, str) else None
        if fault:
            raise DescriberAnswerError(
                f"{where}: expected text as descriptions of class {class_name!r}, got {fault} in "
                f"{text!r:.80}. Write it anew, and save a file as UTF-8."
            )
    try:
        return clean_descriptions(texts, class_name)
    except DescriberAnswerError as error:
        raise DescriberAnswerError(f"{where}: {error}") from None


def _read_csv(stream: Iterable[str]) -> dict[str, list[str]]:
    # Strict: else a quote that nobody closed makes one description of the rest of the file.
    rows = csv.reader(stream, strict=True)
    header = next(rows, [])
    if header != _CSV_HEADER:
        raise ValueError(f"expected the first line {','.join(_CSV_HEADER)!r}, got {header!r:.80}")
    table: dict[str, list[str]] = {}
    for row in rows:
        if len(row) == 2:
            table.setdefault(row[0], []).append(row[1])
        elif row:
            raise ValueError(f"line {rows.line_num}: expected 2 columns, got {len(row)}")
    return table


def _table_suffix(path: str | os.PathLike) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".csv"):
        raise ValueError(f"expected a path ending in .json or .csv, got {os.fspath(path)!r}.")
    return suffix
