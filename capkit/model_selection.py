"""Cross-validation where some images have no label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.model_selection import StratifiedKFold

from capkit.exceptions import LabelError
from capkit.metrics import as_labels

__all__ = ["LabeledKFold"]


class LabeledKFold(StratifiedKFold):
    """Folds that are scored on labeled images and train on all unlabeled ones.

    The labeled images are dealt out to the folds class by class, as
    :class:`~sklearn.model_selection.StratifiedKFold` does it. Unlabeled ones are in every
    training fold and in no test fold.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2. With two labels a class, as in the method's ``ssl``
        protocol, 2.
    shuffle : bool, default=False
        Whether to shuffle the labeled images of each class before they are dealt out.
    random_state : int, RandomState instance or None, default=None
        Fixes the shuffling.
    unseen_classes : sequence of labels or None, default=None
        Classes whose labels no training fold may hold: their labeled images are in the test
        folds only. For ``trzsl``, to score on unseen classes as well.

    See Also
    --------
    capkit.metrics.get_scorer : Scorers that know unlabeled images.

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
            Not looked at but for its length.
        y : sequence of length n_images
            Class names or indices; -1 or None marks an unlabeled image.
        groups : object
            Ignored, as by StratifiedKFold.

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
