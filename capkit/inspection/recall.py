"""Display of the effect of adaptation on each class's recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from capkit._validation import UNLABELED
from capkit.exceptions import LabelError
from capkit.inspection._labels import (
    class_names_of,
    index_labels,
    predict_names,
    zero_shot_names,
)
from capkit.inspection._plotting import (
    axes_for_rows,
    draw_dumbbells,
    largest,
    legend_above_rows,
    with_note,
)
from capkit.space import ConceptSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["RecallDisplay"]


class RecallDisplay:
    """Recall of each class before and after adaptation.

    One row per class, sorted by recall before adaptation, highest first: a circle is the recall
    before, a diamond the recall after.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    before, after : ndarray of shape (n_classes,)
        Recall of each class, in [0, 1]; NaN if no image of the class is labeled.
    class_names : sequence of str of length n_classes
    labels : (str, str), default=("zero-shot", "adapted")
        What the legend calls the two.

    Attributes
    ----------
    shown_ : ndarray of shape (n_shown,), dtype int64
        Indices of the classes that are drawn, from top to bottom.
    before_points_, after_points_ : matplotlib PathCollection
        A point for each of them.
    lines_ : matplotlib LineCollection
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    LabelDistributionDisplay : Number of images labeled as each class; needs no true labels.
    capkit.metrics.labeled_balanced_accuracy_score : The mean over the classes.

    Examples
    --------
    >>> from capkit.inspection import RecallDisplay
    >>> display = RecallDisplay.from_predictions(
    ...     ["cat", "cat", "dog", "dog"],
    ...     before=["cat", "cat", "cat", "cat"],
    ...     after=["cat", "cat", "dog", "cat"],
    ... )
    >>> [label.get_text() for label in display.ax_.get_yticklabels()]
    ['cat', 'dog']
    >>> display.after
    array([1. , 0.5])
    """

    def __init__(
        self,
        *,
        before: np.ndarray,
        after: np.ndarray,
        class_names: Sequence[str],
        labels: tuple[str, str] = ("zero-shot", "adapted"),
    ):
        self.before = before
        self.after = after
        self.class_names = class_names
        self.labels = labels

    @classmethod
    def from_estimator(
        cls,
        before: Any,
        after: Any,
        X: object,
        y: Sequence,
        *,
        class_names: Sequence[str] | None = None,
        labels: tuple[str, str] = ("zero-shot", "adapted"),
        max_classes: int | None = 40,
        ax: Axes | None = None,
    ) -> RecallDisplay:
        """Draw the recall of two classifiers on the same images.

        Parameters
        ----------
        before : estimator or None
            Fitted classifier. None means the zero-shot prediction of `X`, which then has to be a
            ConceptSpace.
        after : estimator
            Fitted classifier.
        X : sequence of images of length n_images, or ConceptSpace
        y : sequence of length n_images
            Class names or indices into `class_names`; -1 or None marks an unlabeled image, which
            does not count.
        class_names : sequence of str or None, default=None
            Names of all classes. None means those of `after`, or of the ConceptSpace.
        labels : (str, str), default=("zero-shot", "adapted")
            What the legend calls the two.
        max_classes : int or None, default=40
            Draw only the classes whose recall changed most, if there are more than this; None
            draws all.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        RecallDisplay

        Raises
        ------
        ValueError
            If `before` is None and `X` is not a ConceptSpace.
        LabelError
            If a label is no class, or none of the images is labeled.
        """
        check_matplotlib_support("RecallDisplay.from_estimator")
        if before is not None:
            earlier = predict_names(before, X)
        elif isinstance(X, ConceptSpace):
            earlier = zero_shot_names(X)
        else:
            raise ValueError(
                "expected a fitted classifier as before where X holds images, got None. Pass "
                "ZeroShotClassifier(...).fit(X, class_names=names), of capkit.baselines; or "
                "encode the images by CLIPEncoder and pass the ConceptSpace as X."
            )
        return cls.from_predictions(
            y,
            earlier,
            predict_names(after, X),
            class_names=class_names_of(after, X) if class_names is None else class_names,
            labels=labels,
            max_classes=max_classes,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: Sequence,
        before: Sequence,
        after: Sequence,
        *,
        class_names: Sequence[str] | None = None,
        labels: tuple[str, str] = ("zero-shot", "adapted"),
        max_classes: int | None = 40,
        ax: Axes | None = None,
    ) -> RecallDisplay:
        """Draw the recall of two predictions for the same images.

        Parameters
        ----------
        y_true : sequence of length n_images
            Class names or indices into `class_names`; -1 or None marks an unlabeled image, which
            does not count.
        before, after : sequence of length n_images
            Predictions of either kind. An image without a prediction, -1 or None, counts as wrong.
        class_names : sequence of str or None, default=None
            Names of all classes. None means the labels that occur, which then are all of one
            kind.
        labels : (str, str), default=("zero-shot", "adapted")
            What the legend calls the two.
        max_classes : int or None, default=40
            Draw only the classes whose recall changed most, if there are more than this; None
            draws all.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        RecallDisplay

        Raises
        ------
        LabelError
            If the lengths or kinds differ, a label is no class, or none of the images is labeled.
        """
        names, (truth, earlier, later) = index_labels(class_names, y_true, before, after)
        if not (truth != UNLABELED).any():
            raise LabelError("expected a label of at least one image in y_true, got none.")
        recalls = [_recall(truth, predicted, len(names)) for predicted in (earlier, later)]
        display = cls(before=recalls[0], after=recalls[1], class_names=names, labels=labels)
        return display.plot(ax, max_classes=max_classes)

    def plot(self, ax: Axes | None = None, *, max_classes: int | None = 40) -> RecallDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.
        max_classes : int or None, default=40
            Draw only the classes whose recall changed most, if there are more than this; None
            draws all.

        Returns
        -------
        RecallDisplay
        """
        check_matplotlib_support("RecallDisplay.plot")
        change = np.abs(self.after - self.before)
        shown = largest(change, max_classes, "max_classes")
        self.shown_ = shown[np.lexsort((-self.after[shown], -self.before[shown]))]
        names = [self.class_names[index] for index in self.shown_]
        if ax is None:
            ax = axes_for_rows(names)
        before, after = self.before[self.shown_], self.after[self.shown_]
        drawn = draw_dumbbells(ax, before, after, names, self.labels)
        self.lines_, self.before_points_, self.after_points_ = drawn
        ax.set_xlim(-0.03, 1.03)
        n_all = int(np.count_nonzero(~np.isnan(change)))
        ax.set_xlabel(with_note("recall", len(shown), n_all, "classes, those that changed most"))
        legend_above_rows(ax, len(names))
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _recall(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    labeled = truth != UNLABELED
    n_images = np.bincount(truth[labeled], minlength=n_classes)
    n_right = np.bincount(truth[labeled & (truth == predicted)], minlength=n_classes)
    return np.where(n_images > 0, n_right / np.maximum(n_images, 1), np.nan)
