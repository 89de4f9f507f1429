"""Compare methods on a folder of photos whose classes are known."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator

from capkit._optional import require
from capkit._validation import UNLABELED
from capkit.commands._folder import check_can_be_written, encode_folder, names_of_classes
from capkit.comparison import Comparison, compare
from capkit.datasets._image_folder import classes_of_folders
from capkit.encoder import CLIPEncoder
from capkit.exceptions import ClassNamesError, LabelError
from capkit.image_files import ImageFiles, find_images
from capkit.labels import read_labels

__all__ = ["compare_folder"]


def compare_folder(
    photos: str | os.PathLike,
    *,
    class_names: Sequence[str] | str | os.PathLike | None = None,
    labels: str | os.PathLike | None = None,
    estimators: Mapping[str, BaseEstimator] | None = None,
    paradigms: Sequence[str] = ("ul",),
    seeds: Sequence[int] = (0, 1, 2),
    out: str | os.PathLike | None = None,
    plot: str | os.PathLike | None = None,
    encoder: CLIPEncoder | None = None,
    verbose: int = 1,
) -> Comparison:
    """Measure what methods make of photos whose classes are known.

    Parameters
    ----------
    photos : path
        Folder of images; without `labels`, with a folder for each class in it, whose name is the
        class's, blanks in place of underscores.
    class_names : sequence of str, or path, or None, default=None
        Names of the classes, or a text file with a name a line; needed with `labels`. Without
        these, None means the names of the folders.
    labels : path or None, default=None
        Table of the true labels, with columns ``path`` and ``label``; images that it leaves out
        are not looked at.
    estimators : mapping of str to estimator or None, default=None
        The methods, see :func:`capkit.compare`; None are all of them.
    paradigms : sequence of {"ul", "ssl", "trzsl"}, default=("ul",)
        Which labels methods are shown.
    seeds : sequence of int, default=(0, 1, 2)
        One run of each method for each.
    out : path or None, default=None
        CSV file for all numbers.
    plot : path or None, default=None
        File for a picture, of a suffix that matplotlib knows, such as ``.png``.
    encoder : CLIPEncoder or None, default=None
        How images are encoded, and with which backbone. None is one with its defaults.
    verbose : int, default=1
        Above 0, progress bars are shown.

    Returns
    -------
    Comparison

    Raises
    ------
    OSError
        If a file is not there, or cannot be read or written.
    ClassNamesError, LabelError
        If the class names or the labels cannot be right.
    ValueError
        If there is no image in the folder.
    ImportError
        If a package of the extra ``compare`` is missing.

    Examples
    --------
    >>> from capkit.commands import compare_folder
    >>> comparison = compare_folder("known_photos", paradigms=["ul", "ssl"])  # doctest: +SKIP
    >>> print(comparison.to_markdown())  # doctest: +SKIP
    """
    require("compare_folder", "compare", "pandas", "psutil", *(["matplotlib"] if plot else []))
    files = find_images(photos)
    if labels is None:
        names, truth = _from_folders(files, class_names)
    else:
        names, truth = _from_table(files, class_names, labels)
    check_can_be_written(out, plot)
    labeled = np.flatnonzero(truth != UNLABELED)
    files = ImageFiles(files.folder, tuple(files.paths[row] for row in labeled), files.other_files)
    encoded = encode_folder(files, names, encoder)
    comparison = compare(
        estimators,
        encoded.space,
        truth[labeled][encoded.rows],
        paradigms=paradigms,
        seeds=seeds,
        verbose=verbose,
    )
    if out is not None:
        comparison.to_csv(out)
    if plot is not None:
        comparison.plot().savefig(Path(plot))
    return comparison


def _from_folders(
    files: ImageFiles, class_names: Sequence[str] | str | os.PathLike | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes by the folder that each image lies in."""
    loose = [name for name in files.names if "/" not in name]
    if loose:
        raise LabelError(
            f"expected each image in a folder that has its class's name, got {len(loose)} "
            f"directly in {files.folder}, such as {loose[0]!r}. Pass a table of labels otherwise."
        )
    given = None if class_names is None else names_of_classes(class_names)
    return classes_of_folders(files.names, given)


def _from_table(
    files: ImageFiles,
    class_names: Sequence[str] | str | os.PathLike | None,
    labels: str | os.PathLike,
) -> tuple[tuple[str, ...], np.ndarray]:
    if class_names is None:
        raise ClassNamesError("labels in a table need class_names: a file with a name a line.")
    names = names_of_classes(class_names)
    truth = read_labels(labels, files.names, files.folder, names)
    if (truth == UNLABELED).all():
        raise LabelError(f"{os.fspath(labels)} has no label of an image in {files.folder}.")
    return names, truth
