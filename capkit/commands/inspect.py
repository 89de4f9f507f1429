"""Inspect a folder of photos before any training: which classes will be difficult."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.base import clone

from capkit.commands._folder import check_can_be_written, encode_folder, names_of_classes
from capkit.encoder import CLIPEncoder
from capkit.image_files import find_images
from capkit.metrics import expected_confusions
from capkit.mismatch import MismatchDetector
from capkit.report import ReportContent, write_report

__all__ = ["Inspection", "inspect_folder"]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Result of :func:`inspect_folder`.

    Attributes
    ----------
    class_names : tuple of str
    counts : ndarray of shape (n_classes,), int
        Number of images predicted as each class by the names alone.
    confidence : ndarray of shape (n_classes,), dtype float64
        Mean probability of these predictions; NaN if there are none.
    mismatched : tuple of str
        Classes whose name does not fit their images.
    confusions : ndarray of shape (n_classes, n_classes), dtype float64
        Expected number of images confused between each pair of classes, see
        :func:`capkit.metrics.expected_confusions`.
    n_images : int
        Number of images that could be read.
    unreadable : mapping of str to str
        Name of each file that could not be read, with the reason.
    other_files : mapping of str to int
        Number of files in the folder that are not images, by suffix.
    report : Path or None
        The report, if one was written.
    """

    class_names: tuple[str, ...]
    counts: np.ndarray
    confidence: np.ndarray
    mismatched: tuple[str, ...]
    confusions: np.ndarray
    n_images: int
    unreadable: dict[str, str]
    other_files: dict[str, int]
    report: Path | None

    def confused_pairs(self, n: int = 10) -> list[tuple[str, str, float]]:
        """The pairs of classes with the most expected confusions.

        Parameters
        ----------
        n : int, default=10
            Largest number of pairs.

        Returns
        -------
        list of (str, str, float)
            Two classes and the expected number of images, the largest first; none below half
            an image.
        """
        first, second = np.triu_indices(len(self.class_names), k=1)
        images = self.confusions[first, second]
        order = np.argsort(-images, kind="stable")[:n]
        names = self.class_names
        return [
            (names[first[pair]], names[second[pair]], float(images[pair]))
            for pair in order
            if images[pair] >= 0.5
        ]


def inspect_folder(
    photos: str | os.PathLike,
    class_names: Sequence[str] | str | os.PathLike,
    *,
    report: str | os.PathLike | None = None,
    encoder: CLIPEncoder | None = None,
    detector: MismatchDetector | None = None,
) -> Inspection:
    """Find classes that the model misses or confuses; nothing is trained.

    Parameters
    ----------
    photos : path
        Folder of images.
    class_names : sequence of str, or path
        Names of the classes, or a text file with one name per line.
    report : path or None, default=None
        File for an HTML report with pictures; None writes none.
    encoder : CLIPEncoder or None, default=None
        How images are encoded, and with which backbone. None means one with its defaults.
    detector : MismatchDetector or None, default=None
        None means one with its defaults and ``random_state=0``.

    Returns
    -------
    Inspection

    Raises
    ------
    OSError
        If a file does not exist, or cannot be read or written.
    ClassNamesError
        If the class names are invalid.
    ValueError
        If there is no image in the folder.
    BackboneError
        If the backbone cannot be loaded.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from capkit import CLIPEncoder
    >>> from capkit.commands import inspect_folder
    >>> from capkit.datasets import load_digits
    >>> digits = load_digits()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for row, image in enumerate(digits.images[:200]):
    ...         Image.fromarray(image).save(Path(folder, f"{row:03}.png"))
    ...     found = inspect_folder(folder, digits.class_names, encoder=CLIPEncoder("glyph"))
    >>> found.n_images
    200
    """
    files, names = find_images(photos), names_of_classes(class_names)
    check_can_be_written(report)
    encoded = encode_folder(files, names, encoder)
    detector = MismatchDetector(random_state=0) if detector is None else clone(detector)
    with warnings.catch_warnings():  # few images a class: the counts say it
        warnings.simplefilter("ignore", UserWarning)
        space = detector.fit_transform(encoded.space)
    if report is not None:
        content = ReportContent.from_space(
            space,
            image_names=encoded.names,
            title=files.folder.name,
            unreadable=encoded.unreadable,
        )
        write_report(content, report)
    probabilities = space.predict_proba()
    labels = probabilities.argmax(axis=1)
    counts = np.bincount(labels, minlength=len(names))
    sums = np.bincount(labels, weights=probabilities.max(axis=1), minlength=len(names))
    with np.errstate(invalid="ignore"):
        confidence = sums / counts
    return Inspection(
        class_names=names,
        counts=counts,
        confidence=confidence,
        mismatched=tuple(names[index] for index in space.mismatch.mismatched),
        confusions=expected_confusions(probabilities),
        n_images=len(space),
        unreadable=dict(encoded.unreadable),
        other_files=dict(files.other_files),
        report=None if report is None else Path(report),
    )
