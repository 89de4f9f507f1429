"""Labels as indices of named classes, and what classifiers say in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from capkit._validation import UNLABELED, LabelCodec, is_unlabeled, resolve_class_names
from capkit.exceptions import LabelError
from capkit.metrics import as_labels
from capkit.space import ConceptSpace

__all__ = [
    "as_names",
    "check_probabilities",
    "class_names_of",
    "final_estimator",
    "in_names",
    "index_labels",
    "predict_names",
    "zero_shot_names",
]

# How far a sum of probabilities in half precision may be from 1.
_TOLERANCE = 1e-2


def index_labels(
    class_names: Sequence[str] | None, *labellings: Sequence
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Class names, and several labellings of the same images as indices into them.

    Parameters
    ----------
    class_names : sequence of str or None
        None means the labels that occur, sorted.
    *labellings : sequence of length n_images
        Class names or indices into `class_names`; -1 or None marks an image without a label.
        Each may be of another kind where `class_names` are given.

    Returns
    -------
    class_names : tuple of str
    indices : list of ndarray of shape (n_images,), dtype int64
        -1 where there is no label.

    Raises
    ------
    LabelError
        If the lengths differ, kinds are mixed, or a label is no class.
    """
    if class_names is None:
        names, labellings = _name_by_labels(labellings)
    else:
        names = resolve_class_names(class_names, None)
    n_images = len(labellings[0])
    return names, [LabelCodec.from_labels(y, names, n_images)[1] for y in labellings]


def _name_by_labels(
    labellings: tuple[Sequence, ...],
) -> tuple[tuple[str, ...], tuple[list[str | None], ...]]:
    """The labels that occur as names, sorted, and labellings by them."""
    found = [as_labels(y) for y in labellings]
    present = [labels for labels, _ in found if len(labels)]
    if not present:
        raise LabelError("expected a label of at least one image, got none.")
    if len({labels.dtype.kind == "U" for labels in present}) > 1:
        raise LabelError(
            "expected labels of one kind, got class names and indices. Pass class_names, and "
            "each may be of its own kind."
        )
    if present[0].dtype.kind != "U":
        present = [labels.astype(np.int64) for labels in present]  # NaN makes floats of indices
    named = []
    for labels, labeled in found:
        of_images = np.full(len(labeled), None, dtype=object)
        kept = labels if labels.dtype.kind == "U" else labels.astype(np.int64).astype(str)
        of_images[labeled] = kept
        named.append(of_images.tolist())
    return tuple(str(label) for label in np.unique(np.concatenate(present))), tuple(named)


def in_names(class_names: Sequence[str], y: Sequence) -> list[str | None]:
    """Labels by name, None where there is none.

    Parameters
    ----------
    class_names : sequence of str
    y : sequence of length n
        Class names or indices into `class_names`; -1 or None marks an image without a label.

    Returns
    -------
    list of str or None, of length n

    Raises
    ------
    LabelError
        If a label is no class.
    """
    names, (indices,) = index_labels(class_names, y)
    return [None if index == UNLABELED else names[index] for index in indices]


# -- what classifiers say


def final_estimator(estimator: Any) -> Any:
    """What predicts in the end: of a search the best, of a pipeline the last step.

    Parameters
    ----------
    estimator : estimator

    Returns
    -------
    estimator
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator


def class_names_of(estimator: Any, X: object) -> Sequence[str] | None:
    """Names of the classes that a classifier predicts; None where nobody knows them.

    Parameters
    ----------
    estimator : estimator
    X : sequence of images, or ConceptSpace

    Returns
    -------
    sequence of str or None
    """
    names = getattr(final_estimator(estimator), "class_names_", None)
    if names is None and isinstance(X, ConceptSpace):
        names = X.class_names
    if names is None and np.asarray(estimator.classes_).dtype.kind in "UO":
        names = list(estimator.classes_)
    return names


def predict_names(estimator: Any, X: object) -> Sequence:
    """What a classifier predicts, by name where it knows its classes' names.

    Parameters
    ----------
    estimator : estimator
    X : sequence of images, or ConceptSpace

    Returns
    -------
    sequence of length n_images
    """
    return as_names(estimator, estimator.predict(X))


def as_names(estimator: Any, labels: Sequence) -> Sequence:
    """Labels of a classifier by name, where it knows its classes' names.

    Parameters
    ----------
    estimator : estimator
    labels : sequence of length n

    Returns
    -------
    sequence of length n
    """
    names = getattr(final_estimator(estimator), "class_names_", None)
    if names is None:
        return labels
    return [
        label if isinstance(label, str) or is_unlabeled(label) else names[label]
        for label in labels
    ]


def zero_shot_names(space: ConceptSpace) -> list[str]:
    """What the class texts alone say, by name.

    Parameters
    ----------
    space : ConceptSpace

    Returns
    -------
    list of str of length n_images
    """
    return [space.class_names[index] for index in space.predict()]


def check_probabilities(probabilities: Any, n_classes: int) -> np.ndarray:
    """Probabilities as an array, or say what is expected.

    Parameters
    ----------
    probabilities : array-like of shape (n_images, n_classes)
    n_classes : int

    Returns
    -------
    ndarray of shape (n_images, n_classes), dtype float64

    Raises
    ------
    ValueError
        If the shape is another, or the rows are no probabilities.
    """
    array = np.asarray(probabilities, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != n_classes or not len(array):
        raise ValueError(
            f"expected probabilities of shape (n_images, {n_classes}), a column for each class, "
            f"got shape {array.shape}."
        )
    wrong = ~((array >= 0).all(axis=1) & (np.abs(array.sum(axis=1) - 1) <= _TOLERANCE))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            "expected probabilities, rows of numbers of at least 0 that sum to 1, got "
            f"{array[row]!s:.60} in row {row}. Pass what predict_proba gives."
        )
    return array
