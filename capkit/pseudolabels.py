"""Choosing the images that represent a class: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from capkit._validation import UNLABELED

__all__ = ["class_balance", "main_sample_target", "renew_main_samples", "top_k_pseudo_labels"]

# How far down a class's list is looked at first, in multiples of the images that it takes.
_DEPTH = 4
# Pairs of an image and a class that are looked at together: most are gone by the time they come.
_PAIRS = 2**14


def top_k_pseudo_labels(
    probabilities: np.ndarray,
    k: int | np.ndarray,
    similarities: np.ndarray | None = None,
    mismatched: Sequence[int] | np.ndarray = (),
) -> np.ndarray:
    """Label the most confident images of each class (``D_PL``, method section 1).

    A mismatched class takes the `k` images most similar to its new text, whatever they are
    predicted as. Every other class takes, among the images predicted as it, the `k` most
    confident ones that no mismatched class took. An image belongs to at most one class.

    If two mismatched classes claim the same image, the more similar class gets it and the other
    continues down its own list. The result is a stable matching: no image and class would both
    prefer each other to what they got. Ties go to the lower image index, then to the lower class
    index.

    Parameters
    ----------
    probabilities : array-like of shape (n_images, n_classes)
        Predicted probabilities; the maximum of a row gives the prediction and its confidence.
    k : int or array-like of shape (n_classes,)
        Largest number of images per class, at least 0; one number for each class if classes are
        known to differ in size.
    similarities : array-like of shape (n_images, n_classes) or None, default=None
        Cosine similarities of images and texts. Needed if `mismatched` is not empty.
    mismatched : sequence of int, default=()
        Indices of the mismatched classes.

    Returns
    -------
    ndarray of shape (n_images,), dtype int64
        The class of each chosen image, -1 for images that no class chose.

    Raises
    ------
    ValueError
        If `k` is negative, or similarities are missing or have another shape.

    Examples
    --------
    >>> from capkit.pseudolabels import top_k_pseudo_labels
    >>> top_k_pseudo_labels([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.2, 0.8]], k=2)
    array([ 0,  0, -1,  1])
    """
    probabilities = np.asarray(probabilities)
    mismatched = np.unique(np.asarray(mismatched, dtype=np.int64))
    _check_top_k(probabilities, k, similarities, mismatched)
    labels = np.full(len(probabilities), UNLABELED, dtype=np.int64)
    if not probabilities.size:
        return labels
    if len(mismatched):
        wanted = np.asarray(similarities)[:, mismatched]
        chosen = _most_similar_first(wanted, k if np.ndim(k) == 0 else np.asarray(k)[mismatched])
        labels[chosen >= 0] = mismatched[chosen[chosen >= 0]]
    predicted = probabilities.argmax(axis=1)
    predicted[(labels != UNLABELED) | np.isin(predicted, mismatched)] = UNLABELED
    confident = _top_of_each_class(predicted, probabilities.max(axis=1), k)
    labels[confident] = predicted[confident]
    return labels


def _check_top_k(probabilities, k, similarities, mismatched) -> None:
    if probabilities.ndim != 2:
        raise ValueError(f"expected probabilities of two dimensions, got {probabilities.shape}")
    if np.min(k) < 0 or np.shape(k) not in ((), probabilities.shape[1:]):
        raise ValueError(f"expected k of at least 0, one or one a class, got {k}")
    if len(mismatched) and similarities is None:
        raise ValueError("similarities are needed to choose images of mismatched classes")
    if len(mismatched) and np.shape(similarities) != probabilities.shape:
        raise ValueError(
            f"expected similarities of shape {probabilities.shape}, as the probabilities, "
            f"got {np.shape(similarities)}"
        )
    if len(mismatched) and not (mismatched[0] >= 0 and mismatched[-1] < probabilities.shape[1]):
        raise ValueError(
            f"expected mismatched classes between 0 and {probabilities.shape[1] - 1}, "
            f"got {mismatched.tolist()}"
        )


def _most_similar_first(similarities: np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """Give each column its k most similar rows, contested ones to the more similar column."""
    n_images, n_classes = similarities.shape
    room = np.broadcast_to(k, n_classes)
    # Most columns get theirs from the top of their lists: the whole is for where one does not.
    for depth in (min(n_images, _DEPTH * max(1, int(np.max(k)))), n_images):
        chosen, left = _fill_columns(similarities, room, depth)
        if not left.any():
            break
    return chosen


def _fill_columns(
    similarities: np.ndarray, room: np.ndarray, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """The column of each row, from the top of each column's list, and the room that is left."""
    n_images, n_classes = similarities.shape
    chosen, room = np.full(n_images, UNLABELED, dtype=np.int64), room.copy()
    least = np.partition(similarities, n_images - depth, axis=0)[n_images - depth]
    pairs = np.flatnonzero(similarities >= least)
    # A stable order of flat indices: ties go to the lower image, then to the lower class.
    pairs = pairs[np.argsort(-similarities.ravel()[pairs], kind="stable")]
    for start in range(0, len(pairs), _PAIRS):
        images, columns = np.divmod(pairs[start : start + _PAIRS], n_classes)
        free = (chosen[images] == UNLABELED) & (room[columns] > 0)
        for image, column in zip(images[free].tolist(), columns[free].tolist(), strict=True):
            if room[column] and chosen[image] == UNLABELED:
                chosen[image] = column
                room[column] -= 1
    return chosen, room


def _top_of_each_class(labels: np.ndarray, scores: np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """Indices of the k best scored images of each label, ties to the lower index; no -1."""
    images = np.flatnonzero(labels != UNLABELED)
    images = images[np.lexsort((images, -scores[images], labels[images]))]
    ordered = labels[images]
    place_in_class = np.arange(len(images)) - np.searchsorted(ordered, ordered)
    return images[place_in_class < (k if np.ndim(k) == 0 else np.asarray(k)[ordered])]


def main_sample_target(
    epoch: int,
    epochs: int,
    k: int,
    n_unlabeled: int,
    n_classes: int,
    ramp_fraction: float = 0.7,
    max_share: float = 0.8,
    max_per_class: int = 1000,
) -> int:
    """Largest number of main samples of a class at an epoch (method section 3).

    ``k + (largest - k) * min(1, epoch / (ramp_fraction * epochs))`` with ``largest =
    min(max_per_class, max_share * n_unlabeled / n_classes)``, rounded down, and never less than
    `k`; with few images the formula alone would give less.

    Parameters
    ----------
    epoch : int
        Number of epochs done, from 0.
    epochs : int
        Number of epochs of the whole training.
    k : int
        Number of main samples that a class starts with.
    n_unlabeled : int
        Number of unlabeled images ``n_u``.
    n_classes : int
        Number of classes ``C`` that the unlabeled images may belong to.
    ramp_fraction : float, default=0.7
        Fraction of the epochs after which the maximum is reached.
    max_share : float, default=0.8
        The maximum, as a fraction of the mean number of images per class. The official code uses
        0.6 for FGVCAircraft.
    max_per_class : int, default=1000
        Upper bound of the maximum, whatever the number of images.

    Returns
    -------
    int

    Examples
    --------
    >>> from capkit.pseudolabels import main_sample_target
    >>> [main_sample_target(e, 50, k=16, n_unlabeled=6300, n_classes=45) for e in (0, 5, 35, 50)]
    [16, 29, 112, 112]
    """
    largest = max(k, min(max_per_class, max_share * n_unlabeled / n_classes))
    done = min(1.0, epoch / (ramp_fraction * epochs))
    return int(k + (largest - k) * done)


def renew_main_samples(
    current: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    target: int | np.ndarray,
) -> np.ndarray:
    """Renew the main samples from an epoch's pseudolabels (method section 3).

    Each class first takes its most confident pseudolabeled images of the epoch, up to `target`.
    The remaining places go to its earlier main samples that no class takes now: first those
    without a pseudolabel in this epoch, then those with another pseudolabel, least confident
    first.

    Parameters
    ----------
    current : array-like of shape (n_images,), dtype int
        Class of each main sample, -1 for the other images.
    predicted : array-like of shape (n_images,), dtype int
        Pseudolabels of the epoch, -1 for images without one.
    confidence : array-like of shape (n_images,)
        Their probability; ignored for images without a pseudolabel.
    target : int or array-like of shape (n_classes,)
        Largest number of images, for all classes or for each class, see
        :func:`main_sample_target`.

    Returns
    -------
    ndarray of shape (n_images,), dtype int64
        Class of each new main sample, -1 for the other images.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> from capkit.pseudolabels import renew_main_samples
    >>> renew_main_samples([0, 0, -1, -1], [-1, 1, 0, 1], [0.0, 0.9, 0.8, 0.95], target=2)
    array([0, 1, 0, 1])
    """
    current, predicted = np.asarray(current, np.int64), np.asarray(predicted, np.int64)
    confidence = np.asarray(confidence, dtype=np.float64)
    if not current.shape == predicted.shape == confidence.shape or current.ndim != 1:
        raise ValueError(
            "expected current, predicted and confidence of one shape (n_images,), got "
            f"{current.shape}, {predicted.shape} and {confidence.shape}"
        )
    renewed = np.full(len(current), UNLABELED, dtype=np.int64)
    fresh = _top_of_each_class(predicted, confidence, target)
    renewed[fresh] = predicted[fresh]

    # A class's fresh samples stand before its old ones, whose score is never above zero.
    contradiction = np.where(predicted == UNLABELED, 0.0, confidence)
    claims = np.where(renewed == UNLABELED, current, renewed)
    scores = np.where(renewed == UNLABELED, -contradiction, 1.0)
    kept = _top_of_each_class(claims, scores, target)
    renewed[kept] = claims[kept]
    return renewed


def class_balance(counts: np.ndarray) -> float:
    """Evenness of class counts: entropy of the class shares, relative to that of equal shares.

    Parameters
    ----------
    counts : ndarray of shape (C,)
        Number of pseudolabels of each class.

    Returns
    -------
    float
        1 if all classes are equally frequent, 0 if there is only one, or none.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.pseudolabels import class_balance
    >>> class_balance(np.array([1, 1, 0, 0]))
    0.5
    """
    if len(counts) < 2 or not counts.any():
        return 0.0
    share = counts[counts > 0] / counts.sum()
    return float((share * -np.log(share)).sum() / np.log(len(counts)))
