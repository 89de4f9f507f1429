"""The labels of a folder of images: one row per image."""

from __future__ import annotations

import dataclasses
import posixpath
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from capkit._optional import require
from capkit._validation import UNLABELED, first_unwritable, resolve_class_names

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "LabelTable"]

COLUMNS = ("path", "label", "runner_up", "confidence", "doubt")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LabelTable:
    """Labels of a folder of images, their confidence, and why they may be wrong.

    Parameters
    ----------
    folder : path
        Absolute path of the folder with the images.
    images : sequence of str of length n
        Paths relative to `folder`, with forward slashes, without duplicates, and without ``./``,
        ``..`` or double slashes.
    class_names : sequence of str
        At least two names.
    labels : array-like of int of shape (n,)
        Indices into `class_names`; -1 for an image that could not be read.
    runners_up : array-like of int of shape (n,)
        The second most probable class of each image; -1 for an image that could not be read.
    confidence : array-like of float of shape (n,)
        Probability of the label, in [0, 1]; NaN for an image that could not be read.
    doubts : sequence of str of length n
        Why the label may be wrong, or "" if there is no reason. For an image that could not be
        read, what went wrong.

    Raises
    ------
    ValueError
        If lengths differ or a value is out of its range.

    See Also
    --------
    write_labels : Write a table to a file.

    Examples
    --------
    >>> from capkit.labels import LabelTable
    >>> table = LabelTable(
    ...     folder="/photos",
    ...     images=["1.jpg", "trip/2.jpg", "trip/3.jpg"],
    ...     class_names=["forest", "river"],
    ...     labels=[0, 1, -1],
    ...     runners_up=[1, 0, -1],
    ...     confidence=[0.97, 0.55, float("nan")],
    ...     doubts=["", "may be forest as well (45%)", "could not be read: it is cut off"],
    ... )
    >>> table
    LabelTable(folder='/photos', 3 images, 2 classes, 1 could not be read)
    >>> table.label_names
    ['forest', 'river', None]
    >>> table.select(table.most_doubtful()).images
    ('trip/2.jpg', '1.jpg', 'trip/3.jpg')
    """

    folder: Path
    images: tuple[str, ...]
    class_names: tuple[str, ...]
    labels: np.ndarray
    runners_up: np.ndarray
    confidence: np.ndarray
    doubts: tuple[str, ...]

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # the dataclass is frozen
        set_field(self, "folder", Path(self.folder))
        set_field(self, "images", _as_texts(self.images, "images"))
        set_field(self, "class_names", resolve_class_names(self.class_names, None))
        set_field(self, "labels", _as_indices(self.labels, "labels"))
        set_field(self, "runners_up", _as_indices(self.runners_up, "runners_up"))
        set_field(self, "confidence", _read_only(np.array(self.confidence, dtype=np.float64)))
        set_field(self, "doubts", _as_texts(self.doubts, "doubts"))
        self._check_lengths()
        self._check_paths()
        self._check_values()

    def _check_lengths(self) -> None:
        for name in ("labels", "runners_up", "confidence", "doubts"):
            shape = np.shape(getattr(self, name))
            if shape != (len(self.images),):
                raise ValueError(
                    f"expected {name} of shape ({len(self.images)},), one for each image, got "
                    f"{shape}."
                )

    def _check_paths(self) -> None:
        if not self.folder.is_absolute():
            raise ValueError(
                f"expected an absolute folder, got {str(self.folder)!r}: pass "
                "Path(folder).absolute()."
            )
        for image in self.images:
            if not _is_plain(image):
                raise ValueError(
                    "expected images as plain paths inside of the folder, relative to it, got "
                    f"{image!r}: pass path.relative_to(folder).as_posix()."
                )
        if len(set(self.images)) < len(self.images):
            doubled = Counter(self.images).most_common(1)[0][0]
            raise ValueError(f"expected each image once, got several times: {doubled!r}.")

    def _check_values(self) -> None:
        n_classes, unread = len(self.class_names), self.labels == UNLABELED
        for name in ("labels", "runners_up"):
            indices = getattr(self, name)
            wrong = (indices < UNLABELED) | (indices >= n_classes)
            if wrong.any():
                raise ValueError(
                    f"expected {name} from 0 to {n_classes - 1}, or -1 for an image that could "
                    f"not be read, got {indices[wrong][0]}."
                )
        if not np.array_equal(self.runners_up == UNLABELED, unread):
            raise ValueError("expected runners_up of -1 where labels are -1, and only there.")
        if not np.array_equal(np.isnan(self.confidence), unread):
            raise ValueError("expected a confidence of NaN where labels are -1, and only there.")
        if (self.runners_up == self.labels)[~unread].any():
            raise ValueError("expected runners_up other than the labels.")
        wrong = ~((self.confidence >= 0) & (self.confidence <= 1) | unread)
        if wrong.any():
            raise ValueError(
                f"expected a confidence in [0, 1], got {self.confidence[wrong][0]:g}."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        n_unread = int((self.labels == UNLABELED).sum())
        unread = f", {n_unread} could not be read" if n_unread else ""
        return (
            f"LabelTable(folder={str(self.folder)!r}, {len(self)} images, "
            f"{len(self.class_names)} classes{unread})"
        )

    @property
    def label_names(self) -> list[str | None]:
        """Class name of each image; None for one that could not be read."""
        return self._names(self.labels)

    @property
    def runner_up_names(self) -> list[str | None]:
        """Second most probable class of each image; None for one that could not be read."""
        return self._names(self.runners_up)

    def _names(self, indices: np.ndarray) -> list[str | None]:
        names = (*self.class_names, None)  # -1 is the last one
        return [names[index] for index in indices.tolist()]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Iterate over the images.

        Yields
        ------
        dict
            ``path``, ``label`` and ``runner_up`` (class names), ``confidence`` and ``doubt``. The
            middle three are None for an image that could not be read.
        """
        confidence = [None if np.isnan(value) else value for value in self.confidence.tolist()]
        columns = (self.images, self.label_names, self.runner_up_names, confidence, self.doubts)
        for values in zip(*columns, strict=True):
            yield dict(zip(COLUMNS, values, strict=True))

    def to_frame(self) -> pd.DataFrame:
        """Convert the table to a pandas DataFrame.

        Returns
        -------
        pandas.DataFrame
            One row per image, with the columns of :meth:`rows`. For an image that could not be
            read, ``label`` and ``runner_up`` are missing and ``confidence`` is NaN.

        Raises
        ------
        ImportError
            If pandas is missing.
        """
        require("LabelTable.to_frame", "parquet", "pandas")
        import pandas as pd

        # Not object, of which Parquet could not tell that a column without any value holds text.
        columns = {
            "path": pd.array(self.images, dtype="string"),
            "label": pd.array(self.label_names, dtype="string"),
            "runner_up": pd.array(self.runner_up_names, dtype="string"),
            "confidence": self.confidence,
            "doubt": pd.array(self.doubts, dtype="string"),
        }
        return pd.DataFrame(columns)

    def most_doubtful(self) -> np.ndarray:
        """Rows in the order in which a person should check them.

        Returns
        -------
        ndarray of shape (n,), dtype int64
            From the least to the most confident; images that could not be read come last, because
            there is nothing to see. Pass all of it, or the first part, to :meth:`select`.
        """
        return np.argsort(self.confidence, kind="stable").astype(np.int64)  # NaN comes last

    def select(self, rows: Any) -> LabelTable:
        """Select some of the rows.

        Parameters
        ----------
        rows : array-like of int or bool, or slice
            Which rows and in which order, or for each row whether to keep it.

        Returns
        -------
        LabelTable
        """
        chosen = np.arange(len(self))[rows]
        return dataclasses.replace(
            self,
            images=tuple(self.images[row] for row in chosen),
            labels=self.labels[chosen],
            runners_up=self.runners_up[chosen],
            confidence=self.confidence[chosen],
            doubts=tuple(self.doubts[row] for row in chosen),
        )


def _as_texts(texts: Any, name: str) -> tuple[str, ...]:
    if isinstance(texts, str):
        raise ValueError(f"expected {name} as a sequence of str, got the str {texts!r:.80}.")
    texts = tuple(texts)
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise ValueError(
            f"expected {name} as str, got {type(wrong[0]).__name__}: {wrong[0]!r:.80}."
        )
    if (unwritable := first_unwritable(texts)) is not None:
        raise ValueError(
            f"expected {name} that UTF-8 can write, got {texts[unwritable]!r}, which holds "
            "half of a surrogate pair. Give a file of this name another one."
        )
    return texts


def _as_indices(indices: Any, name: str) -> np.ndarray:
    array = np.array(indices)
    if array.dtype.kind not in "iu" and array.size:
        raise ValueError(f"expected {name} as integers, got an array of {array.dtype}.")
    return _read_only(array.astype(np.int64))


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _is_plain(path: str) -> bool:
    """Whether this is a relative path without redundant parts."""
    is_inside = path not in ("", ".", "..") and not path.startswith(("/", "../"))
    return is_inside and posixpath.normpath(path) == path
