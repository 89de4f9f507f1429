"""Choosing labels, images and folds when some images have no label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral

import numpy as np
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import check_random_state

from capkit._sampling import long_tail
from capkit._validation import UNLABELED
from capkit.exceptions import LabelError
from capkit.metrics import as_labels

__all__ = ["PARADIGMS", "LabeledKFold", "make_paradigm", "subsample_long_tail"]

PARADIGMS = ("ul", "ssl", "trzsl")


class LabeledKFold(StratifiedKFold):
    """Folds that test on labeled images only and train on all unlabeled ones.

    The labeled images are split class by class, as in
    :class:`~sklearn.model_selection.StratifiedKFold`. Unlabeled images are in every training fold
    and in no test fold.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2. Use 2 with two labels per class, as in the method's ``ssl``
        protocol.
    shuffle : bool, default=False
        Whether to shuffle the labeled images of each class before splitting.
    random_state : int, RandomState instance or None, default=None
        Determines the shuffling.
    unseen_classes : sequence of labels or None, default=None
        Classes whose labels must not be in any training fold: their labeled images are only in the
        test folds. For ``trzsl``, to score on unseen classes as well.

    See Also
    --------
    capkit.metrics.get_scorer : Scorers that can handle unlabeled images.

    Examples
    --------
    >>> from capkit.model_selection import LabeledKFold
    >>> y = ["cat", "dog", -1, "cat", "dog", None]
    >>> for train, test in LabeledKFold(n_splits=2).split(y, y):
    ...     print(train, test)
    [2 3 4 5] [0 1]
    [0 1 2 5] [3 4]
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        shuffle: bool = False,
        random_state: int | np.random.RandomState | None = None,
        unseen_classes: Sequence | None = None,
    ):
        super().__init__(n_splits=n_splits, shuffle=shuffle, random_state=random_state)
        self.unseen_classes = unseen_classes

    def split(
        self, X: Sequence, y: Sequence | None = None, groups: object = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Generate rows of training and test folds.

        Parameters
        ----------
        X : sequence of length n_images
            Only its length is used.
        y : sequence of length n_images
            Class names or indices; -1 or None marks an unlabeled image.
        groups : object
            Ignored, as in StratifiedKFold.

        Yields
        ------
        train : ndarray of int
            Rows of the unlabeled images, and of the labeled ones of the other folds.
        test : ndarray of int
            Rows of labeled images.

        Raises
        ------
        LabelError
            If there are fewer labeled images than folds, or `unseen_classes` has labels that are
            not in `y`.
        ValueError
            If every class has fewer labeled images than there are folds.
        """
        if y is None or len(y) != len(X):
            raise LabelError(
                f"LabeledKFold expected a label or -1 for each of {len(X)} images in y, got "
                f"{'none' if y is None else len(y)}. Without any label, use KFold and "
                "scoring=capkit.metrics.get_scorer('infomax')."
            )
        labels, labeled = as_labels(y)
        if len(labels) < self.n_splits:
            raise LabelError(
                f"expected at least n_splits={self.n_splits} labeled images, got {len(labels)} "
                f"among {len(labeled)}. Label more of them or lower n_splits."
            )
        unseen = self._is_unseen(labels)
        rows, unlabeled = np.flatnonzero(labeled), np.flatnonzero(~labeled)
        for train, test in super().split(rows, labels, groups):
            train = train[~unseen[train]]
            yield np.sort(np.concatenate([unlabeled, rows[train]])), rows[test]

    def _is_unseen(self, labels: np.ndarray) -> np.ndarray:
        if self.unseen_classes is None:
            return np.zeros(len(labels), dtype=bool)
        unseen, _ = as_labels(self.unseen_classes)
        missing = sorted(set(unseen.tolist()) - set(labels.tolist()))
        if missing:
            raise LabelError(
                f"expected labeled images of each of unseen_classes, got none of {missing}."
            )
        return np.isin(labels, unseen)


def make_paradigm(
    y: Sequence | np.ndarray,
    paradigm: str,
    *,
    n_labeled: int = 2,
    seen_fraction: float = 0.62,
    random_state: int | np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide the labels that a paradigm does not use, as in the method's experiments.

    Parameters
    ----------
    y : sequence of length n_images
        Class name or index of every image.
    paradigm : {"ul", "ssl", "trzsl"}
        ``"ul"`` hides all labels. ``"ssl"`` keeps `n_labeled` labels of each class, or all if a
        class has no more. ``"trzsl"`` keeps all labels of some classes, the seen ones.
    n_labeled : int, default=2
        Number of labels per class in ``ssl``.
    seen_fraction : float, default=0.62
        Fraction of the classes in `y` that are seen in ``trzsl``, rounded to a whole number.
    random_state : int, Generator or None, default=None
        Determines the labeled images, or the seen classes.

    Returns
    -------
    y_paradigm : ndarray of shape (n_images,)
        Indices with -1 for the unlabeled images, or an array of objects: names, with None for
        the unlabeled images.
    seen_classes : ndarray of shape (n_seen,)
        The seen classes of ``trzsl``, sorted; empty in the other paradigms.

    Raises
    ------
    LabelError
        If an image has no label, or the paradigm is impossible with these labels: ``ssl`` if no
        image would be left unlabeled, ``trzsl`` without both seen and unseen classes.
    ValueError
        If a parameter is out of its range.

    See Also
    --------
    LabeledKFold : Folds for labels that are already incomplete.
    capkit.metrics.harmonic_mean_score : The metric for ``trzsl``.

    Examples
    --------
    >>> from capkit.model_selection import make_paradigm
    >>> y = ["cat", "dog", "cat", "dog", "cat", "dog"]
    >>> make_paradigm(y, "ssl", n_labeled=1, random_state=0)[0].tolist()
    [None, None, None, 'dog', 'cat', None]
    >>> make_paradigm([0, 1, 2, 0, 1, 2], "trzsl", random_state=0)
    (array([-1,  1,  2, -1,  1,  2]), array([1, 2]))
    """
    _check_paradigm(paradigm, n_labeled, seen_fraction)
    target = _complete_labels(y, "make_paradigm")
    rng, classes = np.random.default_rng(random_state), np.unique(target)
    shown, seen = np.zeros(len(target), dtype=bool), classes[:0]
    if paradigm == "ssl":
        for label in classes:
            rows = np.flatnonzero(target == label)
            shown[rng.choice(rows, min(n_labeled, len(rows)), replace=False)] = True
    elif paradigm == "trzsl":
        n_seen = round(seen_fraction * len(classes))
        if not 0 < n_seen < len(classes):
            raise LabelError(
                f"paradigm='trzsl' expected seen and unseen classes, got {n_seen} seen ones of "
                f"{len(classes)} by seen_fraction={seen_fraction}. Change it, or give images of "
                "more classes."
            )
        seen = np.sort(rng.choice(classes, n_seen, replace=False))
        shown = np.isin(target, seen)
    if shown.all():
        raise LabelError(
            f"paradigm={paradigm!r} expected unlabeled images beside n_labeled={n_labeled} a "
            f"class, but no class has more among {len(target)} images. Lower n_labeled or give "
            "more images."
        )
    of_names = target.dtype.kind == "U"
    y_paradigm = target.astype(object) if of_names else target.copy()
    y_paradigm[~shown] = None if of_names else UNLABELED
    return y_paradigm, seen


def subsample_long_tail(
    y: Sequence | np.ndarray,
    imbalance_ratio: float,
    *,
    random_state: int | np.random.RandomState | None = None,
) -> np.ndarray:
    """Choose images so that few classes are frequent and most are rare.

    Class sizes decrease geometrically, in a random order of the classes, from the size of the
    largest class to that size divided by `imbalance_ratio`, rounded. The largest size is the
    largest one for which every class has enough images for its place in the order.

    Parameters
    ----------
    y : sequence of length n_images
        Class name or index of every image.
    imbalance_ratio : float
        Size of the largest class divided by that of the smallest, at least 1; no class gets less
        than one image. 1 makes all classes as large as the smallest one.
    random_state : int, RandomState instance or None, default=None
        Determines the order of the classes, and the images that are kept.

    Returns
    -------
    ndarray of shape (n_chosen,), dtype int64
        Rows, ascending.

    Raises
    ------
    LabelError
        If an image has no label.
    ValueError
        If `imbalance_ratio` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.model_selection import subsample_long_tail
    >>> y = np.repeat([0, 1, 2], 16)
    >>> rows = subsample_long_tail(y, 16, random_state=0)
    >>> np.bincount(y[rows]).tolist()
    [1, 4, 16]
    """
    target = _complete_labels(y, "subsample_long_tail")
    _, classes = np.unique(target, return_inverse=True)
    return long_tail(classes, imbalance_ratio, check_random_state(random_state))


def _check_paradigm(paradigm: str, n_labeled: int, seen_fraction: float) -> None:
    if paradigm not in PARADIGMS:
        raise ValueError(f"expected a paradigm of {', '.join(PARADIGMS)}, got {paradigm!r}.")
    if not isinstance(n_labeled, Integral) or n_labeled < 1:
        raise ValueError(f"expected n_labeled as an int of at least 1, got {n_labeled!r}.")
    if not 0 < seen_fraction < 1:
        raise ValueError(f"expected seen_fraction between 0 and 1, got {seen_fraction!r}.")


def _complete_labels(y: Sequence | np.ndarray, owner: str) -> np.ndarray:
    labels, labeled = as_labels(list(y))
    if not len(labels) or not labeled.all():
        raise LabelError(
            f"{owner} expected the label of every image, got {len(labels)} labels of "
            f"{len(labeled)} images. Leave the others out."
        )
    return labels
