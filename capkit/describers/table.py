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
from capkit.describers.asking import clean_descriptions
from capkit.exceptions import DescriberAnswerError

__all__ = ["TableDescriber", "load_descriptions", "save_descriptions"]

_CSV_HEADER = ["class_name", "description"]


class TableDescriber(BaseEstimator):
    """Descriptions from a dict or a file, written or corrected by a person.

    Parameters
    ----------
    table : mapping of str to list of str, or path
        Class names and their descriptions, or a ``.json`` or ``.csv`` file as
        :func:`save_descriptions` writes it.

    See Also
    --------
    OllamaDescriber : Descriptions by a language model.
    save_descriptions : Keep what a language model said, to read and correct it.

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
            If `table` is the path of no file.
        DescriberAnswerError
            If the table lacks a class or is not laid out as expected.
        """
        if isinstance(self.table, Mapping):
            table, where = self.table, "the table"
        else:
            table, where = load_descriptions(self.table), os.fspath(self.table)
        descriptions = {}
        for name in class_names:
            if name not in table:
                close = difflib.get_close_matches(name, [str(known) for known in table])
                raise DescriberAnswerError(
                    f"{where} has no class {name!r} among its {len(table)}"
                    + (f"; close to it: {close}" if close else "")
                    + ". Add its descriptions."
                )
            descriptions[name] = clean_descriptions(table[name], name, n)
        return descriptions


def save_descriptions(
    path: str | os.PathLike, descriptions: Mapping[str, Sequence[str] | str]
) -> None:
    """Write descriptions to a file that a person can edit and TableDescriber reads.

    Parameters
    ----------
    path : path
        Ends in ``.json`` (class names and lists of texts) or ``.csv`` (a line a description,
        columns ``class_name`` and ``description``). Replaced as a whole or not at all.
    descriptions : mapping of str to sequence of str, or to str
        For instance ``aligner.descriptions_``, ``classifier.descriptions_``, or
        ``error.descriptions`` of a :class:`~capkit.exceptions.DescriberError`.

    Raises
    ------
    ValueError
        If the path ends otherwise.

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
    table = {
        name: [texts] if isinstance(texts, str) else list(texts)
        for name, texts in descriptions.items()
    }
    if _table_suffix(path) == ".json":
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
        If the path ends otherwise.
    DescriberAnswerError
        If the file is not laid out as :func:`save_descriptions` does it.
    """
    suffix = _table_suffix(path)
    # utf-8-sig: spreadsheet programs put a byte order mark before the first column's name.
    with open(path, encoding="utf-8-sig", newline="") as stream:
        try:
            table = json.load(stream) if suffix == ".json" else _read_csv(stream)
        except (ValueError, csv.Error) as error:
            raise DescriberAnswerError(f"{path} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise DescriberAnswerError(
            f"{path}: expected an object of class names and lists of texts, "
            f"got {type(table).__name__}."
        )
    return {name: clean_descriptions(texts, name) for name, texts in table.items()}


def _read_csv(stream: Iterable[str]) -> dict[str, list[str]]:
    rows = csv.reader(stream)
    header = next(rows, [])
    if header != _CSV_HEADER:
        raise ValueError(f"expected the first line {','.join(_CSV_HEADER)!r}, got {header}")
    table: dict[str, list[str]] = {}
    for row in rows:
        if len(row) == 2:
            table.setdefault(row[0], []).append(row[1])
        elif row:
            raise ValueError(
                f"line {rows.line_num}: expected 2 columns, got {len(row)}. A description with a "
                "comma stands in double quotes"
            )
    return table


def _table_suffix(path: str | os.PathLike) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".csv"):
        raise ValueError(f"expected a path ending in .json or .csv, got {os.fspath(path)!r}.")
    return suffix
