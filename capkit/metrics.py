"""Scores that ignore unlabeled images, and one that needs no labels at all.

scikit-learn looks up the names in ``scoring="..."`` in its own list, which other packages cannot
extend. Its names ``"accuracy"`` and ``"balanced_accuracy"`` are correct if the test folds contain
only labeled images, as those of :class:`capkit.model_selection.LabeledKFold` do. ``scoring=None``
means the classifier's own ``score``, which ignores unlabeled images. For everything else pass
``scoring=capkit.metrics.get_scorer(name)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import entr
from sklearn.metrics import make_scorer

from capkit._validation import is_unlabeled
from capkit.exceptions import LabelError

__all__ = [
    "expected_confusions",
    "get_scorer",
    "get_scorer_names",
    "harmonic_mean_score",
    "infomax_score",
    "labeled_accuracy_score",
    "labeled_balanced_accuracy_score",
]


def labeled_accuracy_score(y_true: Sequence, y_pred: Sequence) -> float:
    """Fraction of the labeled images that are predicted correctly.

    Parameters
    ----------
    y_true : sequence of length n_images
        Class names or indices; -1 or None marks an unlabeled image, which does not count.
    y_pred : sequence of length n_images
        Predictions in the same kind.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    LabelError
        If the lengths or kinds differ, or no image is labeled.

    Examples
    --------
    >>> from capkit.metrics import labeled_accuracy_score
    >>> labeled_accuracy_score(["cat", "dog", -1, None], ["cat", "cat", "cat", "dog"])
    0.5
    """
    truth, predicted = _labeled_part(y_true, y_pred)
    return float((truth == predicted).mean())


def labeled_balanced_accuracy_score(y_true: Sequence, y_pred: Sequence) -> float:
    """Mean recall over the classes, computed on the labeled images.

    Also called mean per-class accuracy. Classes without a labeled image do not count.

    Parameters
    ----------
    y_true : sequence of length n_images
        Class names or indices; -1 or None marks an unlabeled image, which does not count.
    y_pred : sequence of length n_images
        Predictions in the same kind.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    LabelError
        If the lengths or kinds differ, or no image is labeled.

    Examples
    --------
    >>> from capkit.metrics import labeled_balanced_accuracy_score
    >>> labeled_balanced_accuracy_score([0, 0, 0, 1, -1], [0, 0, 0, 0, 1])
    0.5
    """
    truth, predicted = _labeled_part(y_true, y_pred)
    _, classes = np.unique(truth, return_inverse=True)
    hits = np.bincount(classes, weights=truth == predicted)
    return float((hits / np.bincount(classes)).mean())


def harmonic_mean_score(y_true: Sequence, y_pred: Sequence, *, seen_classes: Sequence) -> float:
    """Harmonic mean of the accuracies on seen and on unseen classes.

    The metric for transductive zero-shot learning (``trzsl``): ``2 * S * U / (S + U)``, where S
    and U are the accuracies on the labeled images of seen and of unseen classes. It is 0 if either
    is.

    Parameters
    ----------
    y_true : sequence of length n_images
        Class names or indices; -1 or None marks an unlabeled image, which does not count.
    y_pred : sequence of length n_images
        Predictions in the same kind.
    seen_classes : sequence
        The classes whose labels were available in training, of the same kind.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    LabelError
        If the lengths or kinds differ, or the labeled images do not include both seen and unseen
        classes.

    Examples
    --------
    >>> from capkit.metrics import harmonic_mean_score
    >>> score = harmonic_mean_score([0, 0, 1, 1], [0, 0, 1, 0], seen_classes=[0])
    >>> round(score, 3)
    0.667
    """
    truth, predicted = _labeled_part(y_true, y_pred)
    seen_labels, _ = as_labels(seen_classes)
    if len(seen_labels) and _is_of_names(seen_labels) != _is_of_names(truth):
        raise LabelError(
            "seen_classes must be of the kind of y_true: expected labels like "
            f"{_first(truth)!r}, got {_first(seen_labels)!r}."
        )
    seen = np.isin(truth, seen_labels)
    if seen.all() or not seen.any():
        raise LabelError(
            "expected labeled images of seen and of unseen classes, got "
            f"{seen.sum()} of seen_classes={list(seen_classes)} and {(~seen).sum()} of others. "
            "Score on images of both; LabeledKFold(unseen_classes=...) keeps labels of unseen "
            "classes out of training."
        )
    hits = truth == predicted
    of_seen, of_unseen = hits[seen].mean(), hits[~seen].mean()
    total = of_seen + of_unseen
    return float(2 * of_seen * of_unseen / total) if total > 0 else 0.0


def infomax_score(probabilities: np.ndarray) -> float:
    """Mutual information between images and predicted classes; needs no labels.

    ``(H(mean p) - mean H(p)) / log C``: high if each image is predicted with confidence and all
    classes are predicted equally often; the method assumes that they are equally frequent. Rarely
    predicted classes and uncertain predictions lower it. It says nothing about whether predictions
    are right, and it favours overconfident models: use it only to compare candidates of the same
    kind, and check the winner.

    Parameters
    ----------
    probabilities : array-like of shape (n_images, n_classes)
        Rows sum to one.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If the array does not have the shape of probabilities.

    References
    ----------
    Bridle et al., "Unsupervised Classifiers, Mutual Information and 'Phantom Targets'",
    NIPS 1991.

    Examples
    --------
    >>> from capkit.metrics import infomax_score
    >>> infomax_score([[1, 0], [0, 1]]), infomax_score([[1, 0], [1, 0]])
    (1.0, 0.0)
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or not len(probabilities) or probabilities.shape[1] < 2:
        raise ValueError(
            "expected probabilities of shape (n_images, n_classes) with at least one image and "
            f"two classes, got shape {probabilities.shape}."
        )
    of_mean = entr(probabilities.mean(axis=0)).sum()
    mean_of = entr(probabilities).sum(axis=1).mean()
    # Rounding may move the quotient slightly out of its range.
    return float(np.clip((of_mean - mean_of) / np.log(probabilities.shape[1]), 0.0, 1.0))


def expected_confusions(probabilities: np.ndarray) -> np.ndarray:
    """Expected number of images confused between each pair of classes, from probabilities.

    The product of an image's probabilities of the two classes, summed over the images. Needs no
    labels.

    Parameters
    ----------
    probabilities : ndarray of shape (n_images, n_classes)
        Rows sum to 1.

    Returns
    -------
    ndarray of shape (n_classes, n_classes), dtype float64
        Symmetric, with zeros on the diagonal. Two images with equal probabilities of two classes
        count as half an image.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.metrics import expected_confusions
    >>> expected_confusions(np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]))
    array([[0. , 0.5, 0. ],
           [0.5, 0. , 0. ],
           [0. , 0. , 0. ]])
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    confusions = probabilities.T @ probabilities
    np.fill_diagonal(confusions, 0.0)
    return confusions


# -- scorers


def get_scorer(name: str, **parameters: Any) -> Callable[..., float]:
    """Get a scorer for ``scoring=`` in scikit-learn's searches and cross-validations.

    Parameters
    ----------
    name : {"harmonic_mean", "infomax", "labeled_accuracy", "labeled_balanced_accuracy"}
        Name of a function in this module, without ``_score``.
    **parameters
        Arguments for that function: ``seen_classes`` for ``"harmonic_mean"``.

    Returns
    -------
    callable ``(estimator, X, y) -> float``
        Greater is better. ``"infomax"`` ignores ``y``.

    Raises
    ------
    ValueError
        If there is no such name.
    TypeError
        If the parameters do not match the function.

    Examples
    --------
    >>> from capkit.metrics import get_scorer
    >>> get_scorer("harmonic_mean", seen_classes=["cat", "dog"])
    make_scorer(harmonic_mean_score, response_method='predict', seen_classes=['cat', 'dog'])
    """
    if name not in get_scorer_names():
        raise ValueError(
            f"{name!r} is not a scorer of capkit: expected one of {get_scorer_names()}. For the "
            "others use sklearn.metrics.get_scorer."
        )
    expected = {"seen_classes"} if name == "harmonic_mean" else set()
    if set(parameters) != expected:
        raise TypeError(
            f"expected the parameters {sorted(expected)} for the scorer {name!r}, "
            f"got {sorted(parameters)}."
        )
    if name == "infomax":
        return _infomax_scorer
    return make_scorer(_SCORE_FUNCTIONS[name], **parameters)


def get_scorer_names() -> list[str]:
    """List the names that :func:`get_scorer` accepts.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from capkit.metrics import get_scorer_names
    >>> get_scorer_names()
    ['harmonic_mean', 'infomax', 'labeled_accuracy', 'labeled_balanced_accuracy']
    """
    return sorted([*_SCORE_FUNCTIONS, "infomax"])


_SCORE_FUNCTIONS = {
    "harmonic_mean": harmonic_mean_score,
    "labeled_accuracy": labeled_accuracy_score,
    "labeled_balanced_accuracy": labeled_balanced_accuracy_score,
}


def _infomax_scorer(estimator: Any, X: object, y: object = None) -> float:
    # Not made with make_scorer, whose scorers cannot be called without y.
    return infomax_score(estimator.predict_proba(X))


# -- labels


def as_labels(y: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """The given labels, all of one kind, and a mask of the labeled images.

    Parameters
    ----------
    y : sequence of length n
        Class names or indices; -1 or None marks an unlabeled image.

    Returns
    -------
    labels : ndarray of shape (n_labeled,)
        Of str or numbers.
    labeled : ndarray of shape (n,), bool

    Raises
    ------
    LabelError
        If names and indices are mixed.
    """
    items = list(y)
    labeled = np.array([not is_unlabeled(label) for label in items], dtype=bool)
    kept = [label for label in items if not is_unlabeled(label)]
    if len({isinstance(label, str) for label in kept}) > 1:
        raise LabelError("y mixes class names and indices into class_names: use one of them.")
    return np.array(kept), labeled


def _labeled_part(y_true: Sequence, y_pred: Sequence) -> tuple[np.ndarray, np.ndarray]:
    if len(y_true) != len(y_pred):
        raise LabelError(
            f"expected as many predictions as labels, got {len(y_pred)} and {len(y_true)} of them."
        )
    truth, labeled = as_labels(y_true)
    if not len(truth):
        raise LabelError(
            f"expected at least one labeled image to score on, got {len(labeled)} unlabeled ones. "
            "LabeledKFold puts labeled images into every test fold; get_scorer('infomax') needs "
            "no label."
        )
    predicted = np.asarray(y_pred)[labeled]
    if _is_of_names(truth) != _is_of_names(predicted):
        raise LabelError(
            "expected labels and predictions of one kind, names or indices, "
            f"got {_first(truth)!r} and {_first(predicted)!r}."
        )
    return truth, predicted


def _is_of_names(labels: np.ndarray) -> bool:
    return isinstance(_first(labels), str)


def _first(labels: np.ndarray) -> object:
    return labels[:1].tolist()[0]
