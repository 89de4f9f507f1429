"""Whether a description is a better text for its class: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from capkit._arrays import unit_rows
from capkit.guard import LEAST_CLARITY, change_clarity
from capkit.mismatch import pair_with_centers

__all__ = [
    "choose_descriptions",
    "doubt_of_text",
    "labels_with_texts",
    "resembles_own_cluster",
    "resembles_own_name",
]

# Images whose similarities are in memory at a time.
_CHUNK_SIZE = 8192


def choose_descriptions(
    description_features: Sequence[np.ndarray], centers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Choose a description and a centre for each class.

    Classes and centres are paired by a linear assignment that maximises the sum of similarities;
    the similarity of a class and a centre is that of the class's most similar description.

    Parameters
    ----------
    description_features : sequence of n_classes arrays of shape (n_descriptions, n_features)
        Unit rows; the number of descriptions may differ between the classes.
    centers : ndarray of shape (n_classes, n_features)
        Unit rows.

    Returns
    -------
    chosen : ndarray of shape (n_classes,), dtype int64
        For each class, the index of the description that is most similar to its centre.
    center_of_class : ndarray of shape (n_classes,), dtype int64
        For each class, its row of `centers`.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.descriptions import choose_descriptions
    >>> first = np.array([[1.0, 0.0], [0.6, 0.8]])
    >>> second = np.array([[0.8, 0.6]])
    >>> choose_descriptions([first, second], np.eye(2))
    (array([1, 0]), array([1, 0]))
    """
    similarity = [
        np.asarray(features) @ np.asarray(centers).T for features in description_features
    ]
    center_of_class = pair_with_centers(np.array([rows.max(axis=0) for rows in similarity]))
    chosen = [
        rows[:, center].argmax() for rows, center in zip(similarity, center_of_class, strict=True)
    ]
    return np.array(chosen, dtype=np.int64), center_of_class


def resembles_own_name(
    description_features: np.ndarray, text_features: np.ndarray, label: int
) -> np.ndarray:
    """Whether descriptions describe their own class, judged by the texts alone.

    The mean of the class texts, which all texts have in common, is subtracted. After that, a
    description has to be more similar to its class's text than to that of any other class. This
    fails, for example, for a table row that slipped into another class's place.

    Parameters
    ----------
    description_features : ndarray of shape (n_descriptions, n_features)
        Descriptions of one class; unit rows.
    text_features : ndarray of shape (n_classes, n_features)
        Features of the class names; unit rows.
    label : int
        Index of the class.

    Returns
    -------
    ndarray of shape (n_descriptions,), dtype bool

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.descriptions import resembles_own_name
    >>> names = np.eye(3)
    >>> resembles_own_name(np.array([[0.8, 0.6, 0.0], [0.0, 0.6, 0.8]]), names, label=0)
    array([ True, False])
    """
    text_mean = text_features.mean(axis=0)
    names = unit_rows(text_features - text_mean)
    similarity = unit_rows(description_features - text_mean) @ names.T
    return similarity[:, label] > np.delete(similarity, label, axis=1).max(axis=1, initial=-np.inf)


def resembles_own_cluster(
    description_features: np.ndarray,
    text_features: np.ndarray,
    class_centers: np.ndarray,
    image_mean: np.ndarray,
    label: int,
) -> np.ndarray:
    """Whether descriptions describe their own class, judged by the images.

    For names that say so little that :func:`resembles_own_name` rejects even good descriptions.
    Deviations of texts from the mean text are compared with deviations of cluster centres from the
    mean image: a description has to be more similar to its class's cluster than to any other
    class's cluster, and more similar than the class's present text is.

    Parameters
    ----------
    description_features : ndarray of shape (n_descriptions, n_features)
        Descriptions of one class; unit rows.
    text_features : ndarray of shape (n_classes, n_features)
        Present texts of the classes; unit rows.
    class_centers : ndarray of shape (n_classes, n_features)
        Centre of each class's cluster; zeros for a class without a cluster.
    image_mean : ndarray of shape (n_features,)
    label : int
        Index of the class.

    Returns
    -------
    ndarray of shape (n_descriptions,), dtype bool
        All False for a class without a cluster.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.descriptions import resembles_own_cluster
    >>> names = np.array([[0.6, 0.8, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> descriptions = np.array([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])
    >>> resembles_own_cluster(descriptions, names, np.eye(3), np.full(3, 1 / 3), label=0)
    array([ True, False])
    """
    if not class_centers[label].any():
        return np.zeros(len(description_features), dtype=bool)
    text_mean = text_features.mean(axis=0)
    has_center = np.any(class_centers != 0, axis=1, keepdims=True)
    clusters = unit_rows(np.where(has_center, class_centers - image_mean, 0.0))
    similarity = unit_rows(description_features - text_mean) @ clusters.T
    present = unit_rows(text_features[[label]] - text_mean)[0] @ clusters[label]
    return (similarity.argmax(axis=1) == label) & (similarity[:, label] > present)


def labels_with_texts(
    image_features: np.ndarray,
    text_features: np.ndarray,
    label: int,
    candidates: np.ndarray,
) -> np.ndarray:
    """Zero-shot labels with each candidate text in place of one class's text.

    Parameters
    ----------
    image_features : ndarray of shape (n_images, n_features)
    text_features : ndarray of shape (n_classes, n_features)
    label : int
        Index of the class.
    candidates : ndarray of shape (n_candidates, n_features)
        Texts that replace the class's text.

    Returns
    -------
    ndarray of shape (n_candidates, n_images), dtype int64

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.descriptions import labels_with_texts
    >>> texts = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> images = np.array([[0.8, 0.6], [0.6, 0.8]])
    >>> labels_with_texts(images, texts, label=1, candidates=np.array([[0.0, 1.0], [0.6, 0.8]]))
    array([[0, 1],
           [1, 1]])
    """
    labels = np.empty((len(candidates), len(image_features)), dtype=np.int64)
    for start in range(0, len(image_features), _CHUNK_SIZE):
        chunk = slice(start, start + _CHUNK_SIZE)
        others = image_features[chunk] @ text_features.T
        others[:, label] = -np.inf
        own = candidates @ image_features[chunk].T
        labels[:, chunk] = np.where(own > others.max(axis=1), label, others.argmax(axis=1))
    return labels


def doubt_of_text(
    image_features: np.ndarray, before: np.ndarray, after: np.ndarray, label: int, n_classes: int
) -> str | None:
    """Why a new text for one class should not be trusted, judged by the labels that it gives.

    A mismatched class is predicted too rarely, so a better text gives it more images, and these
    belong to it clearly enough by :func:`~capkit.guard.change_clarity`.

    Parameters
    ----------
    image_features : ndarray of shape (n_images, n_features)
    before, after : ndarray of shape (n_images,), int
        Zero-shot labels with the present text and with the new one.
    label : int
        Index of the class.
    n_classes : int

    Returns
    -------
    str or None
        None if there is no reason.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.descriptions import doubt_of_text
    >>> before, after = np.array([0, 1, 1]), np.array([0, 0, 0])
    >>> doubt_of_text(np.eye(3), before, after, label=1, n_classes=2)
    'no more images are predicted as the class'
    """
    if (after == label).sum() <= (before == label).sum():
        return "no more images are predicted as the class"
    clarity = change_clarity(image_features, before, after, n_classes)
    if clarity < LEAST_CLARITY:
        return f"the labels that it changes are not clear ({clarity:.2f} < {LEAST_CLARITY})"
    return None
