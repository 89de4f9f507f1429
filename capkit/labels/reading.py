"""Reading class names and labels that a person wrote, checked line by line."""

from __future__ import annotations

import csv
import difflib
import io
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from capkit._validation import UNLABELED, is_unlabeled, resolve_class_names
from capkit.exceptions import ClassNamesError, LabelError

__all__ = ["merge_labels", "read_class_names", "read_labels"]

# Larger files are not what the user meant: a hundred thousand names, millions of labels.
_MAX_BYTES_OF_NAMES = 10 * 2**20
_MAX_BYTES_OF_LABELS = 512 * 2**20

_DELIMITERS = (",", ";", "\t")


def read_class_names(path: str | os.PathLike) -> tuple[str, ...]:
    r"""Read class names from a text file, one per line.

    Parameters
    ----------
    path : path
        UTF-8. Blank lines, and spaces around names, are ignored.

    Returns
    -------
    tuple of str
        At least two different names, in the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ClassNamesError
        If it is not UTF-8 or too large to be a list of names; if all names are on one line,
        separated by commas; or if there are duplicates or fewer than two names.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from capkit.labels import read_class_names
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "names.txt"
    >>> _ = path.write_text("forest\nriver, from above\n")
    >>> read_class_names(path)
    ('forest', 'river, from above')
    """
    try:
        text = _read_text(path, _MAX_BYTES_OF_NAMES)
        lines = (line.strip() for line in io.StringIO(text, newline=None))
        names = [line for line in lines if line]
        if len(names) == 1 and "," in names[0]:
            raise ValueError(
                f"expected one class name a line, got commas in a single line: {names[0]!r:.80}. "
                "Put each name on a line of its own, without commas between them."
            )
        return resolve_class_names(names, None)
    except ValueError as error:
        raise ClassNamesError(f"{os.fspath(path)}: {error}") from error


def read_labels(
    path: str | os.PathLike,
    images: Sequence[str],
    folder: str | os.PathLike,
    class_names: Sequence[str],
) -> np.ndarray:
    r"""Read labels for some of the images from a CSV file.

    Parameters
    ----------
    path : path
        UTF-8, written by a person or by :func:`write_labels`. The first line names the columns, of
        which only ``path`` and ``label`` are used; columns are separated by commas, semicolons or
        tabs. A path is relative to `folder`, absolute, or just the file name if only one image has
        it. An empty label, or -1, means no label.
    images : sequence of str of length n
        Paths relative to `folder`, with slashes.
    folder : path
    class_names : sequence of str

    Returns
    -------
    ndarray of shape (n,), dtype int64
        Indices into `class_names`; -1 for images without a label in the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    LabelError
        If the file does not have this layout, a path or label is unknown, a file name belongs to
        several images, or an image has two different labels. The message names the line.

    See Also
    --------
    merge_labels : Combine the labels of several files.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from capkit.labels import read_labels
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "known.csv"
    >>> _ = path.write_text("path,label\n2.jpg,river\ntrip/3.jpg,forest\n")
    >>> images = ["1.jpg", "trip/2.jpg", "trip/3.jpg"]
    >>> read_labels(path, images, "/photos", ["forest", "river"]).tolist()
    [-1, 1, 0]
    """
    try:
        return _labels_of(_read_text(path, _MAX_BYTES_OF_LABELS), images, folder, class_names)
    except ValueError as error:
        raise LabelError(f"{os.fspath(path)}: {error}") from error


def merge_labels(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Combine labels of the same images.

    Parameters
    ----------
    arrays : iterable of ndarray of shape (n,), int
        Indices of classes, -1 for no label; at least one array. If several arrays have a label for
        an image, the last of them counts.

    Returns
    -------
    ndarray of shape (n,), dtype int64

    Raises
    ------
    ValueError
        If there are no arrays, or their lengths differ.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.labels import merge_labels
    >>> merge_labels([np.array([0, 1, -1]), np.array([-1, 2, -1])]).tolist()
    [0, 2, -1]
    """
    arrays = [np.asarray(array, dtype=np.int64) for array in arrays]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) != 1 or len(shapes[0]) != 1:
        raise ValueError(
            f"expected one or more arrays of labels, of one shape (n,), got {shapes or 'none'}."
        )
    merged = arrays[0].copy()
    for array in arrays[1:]:
        merged = np.where(array == UNLABELED, merged, array)
    return merged


# -- text


def _read_text(path: str | os.PathLike, max_bytes: int) -> str:
    """Text of a file; ValueError if it is not text."""
    with open(path, "rb") as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(
            f"expected at most {max_bytes // 2**20} MiB, got more. Look whether this is the right "
            "file."
        )
    try:
        # utf-8-sig: spreadsheet programs and editors put a byte order mark in front.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected text in UTF-8, got something else ({error}). Save it as UTF-8, in a "
            "spreadsheet program as 'CSV UTF-8'."
        ) from error
    if "\0" in text:
        raise ValueError("expected text in UTF-8, got NUL characters. Save it as UTF-8.")
    return text


# -- rows of a CSV file


def _records(text: str) -> Iterator[tuple[int, str, str]]:
    """Number of the first line, path and label of each row."""
    line = 1
    try:
        reader, header = _open_table(text)
        columns = header.index("path"), header.index("label")
        line = reader.line_num + 1
        for row in reader:
            extra = [cell for cell in row[len(header) :] if cell.strip()]
            if extra:
                raise ValueError(
                    f"line {line}: expected {len(header)} cells as in the first line, got "
                    f'{len(row)}. Put names that hold the character between cells in quotes (").'
                )
            cells = row + [""] * (len(header) - len(row))  # programs drop empty ones at the end
            yield line, cells[columns[0]], cells[columns[1]]
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"line {line}: {error}. Look for a double quote that is not closed, or stands inside "
            "of a cell: there it is written twice."
        ) from error


def _open_table(text: str) -> tuple[Any, list[str]]:
    """Reader positioned after the first line, and the column names in lower case."""
    for delimiter in _DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = [cell.strip().lower() for cell in next(filter(None, reader), [])]
        if header.count("path") == 1 and header.count("label") == 1:
            return reader, header
    first = text.strip().partition("\n")[0]
    raise ValueError(
        "expected a first line that names the columns, one of them path and one label, such as "
        f"'path,label', got {first!r:.80}."
    )


def _labels_of(
    text: str, images: Sequence[str], folder: str | os.PathLike, class_names: Sequence[str]
) -> np.ndarray:
    finder = _ImageFinder(images, folder)
    position = {name: index for index, name in enumerate(class_names)}
    labels = np.full(len(images), UNLABELED, dtype=np.int64)
    labeled_at: dict[int, int] = {}
    for line, given_path, given_label in _records(text):
        if not given_label.strip() or is_unlabeled(given_label.strip()):
            continue
        try:
            label, row = _find_class(given_label, position), finder.find(given_path)
        except ValueError as error:
            raise ValueError(f"line {line}: {error}") from error
        if labels[row] not in (UNLABELED, label):
            raise ValueError(
                f"line {line}: expected one label of {images[row]!r}, got {class_names[label]!r} "
                f"and in line {labeled_at[row]} {class_names[labels[row]]!r}. Take one of them "
                "out."
            )
        labels[row] = label
        labeled_at.setdefault(row, line)
    return labels


def _find_class(given: str, position: Mapping[str, int]) -> int:
    for name in (given, given.strip()):
        if name in position:
            return position[name]
    small = {name.lower(): name for name in position}
    close = difflib.get_close_matches(given.strip().lower(), small, n=1)
    raise ValueError(
        f"expected one of the {len(position)} class names, got {given!r:.80}"
        + (f"; did you mean {small[close[0]]!r}?" if close else ".")
        + " Correct it, or add it to the class names."
    )


class _ImageFinder:
    """Finds the image that a path written by a person refers to."""

    def __init__(self, images: Sequence[str], folder: str | os.PathLike):
        self.images = images
        self.folder = os.path.abspath(folder)
        self.real_folder = os.path.realpath(folder)
        self.rows = {image: row for row, image in enumerate(images)}
        self.rows_by_name: dict[str, list[int]] = {}
        for row, image in enumerate(images):
            self.rows_by_name.setdefault(posixpath.basename(image), []).append(row)

    def find(self, given: str) -> int:
        # Try the path unchanged first: a space or a backslash can be part of a name.
        stripped = given.strip()
        for path in dict.fromkeys((given, stripped, stripped.replace("\\", "/"))):
            path = self._relative(path)
            if path in self.rows:
                return self.rows[path]
            rows = self.rows_by_name.get(path, [])
            if len(rows) == 1:
                return rows[0]
            if rows:
                some = ", ".join(repr(self.images[row]) for row in rows[:3])
                raise ValueError(
                    f"expected a path that only one image has, got {given!r}, which is the name "
                    f"of {len(rows)}: {some}{', ...' if len(rows) > 3 else ''}. Write the path "
                    f"relative to {self.folder}."
                )
        raise ValueError(
            f"expected one of the {len(self.images)} images, got {given!r:.200}. Write its path "
            f"relative to {self.folder}, or take out the row."
        )

    def _relative(self, path: str) -> str:
        """Path relative to the folder, if it is inside it."""
        path = posixpath.normpath(path)
        if not path.startswith("/"):
            return path
        parent, name = posixpath.split(path)
        # The folder, or the way to the image, may go over symbolic links.
        real_path = posixpath.join(os.path.realpath(parent), name)
        for folder, inside in ((self.folder, path), (self.real_folder, real_path)):
            if inside.startswith(f"{folder.rstrip('/')}/"):
                return posixpath.relpath(inside, folder)
        return path
