"""The picture of how many images are labeled as each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from capkit._validation import UNLABELED
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
    whole_numbers,
    with_note,
)
from capkit.space import ConceptSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LabelDistributionDisplay"]


class LabelDistributionDisplay:
    """Number of images that are labeled as each class, before and after adaptation.

    One row per class, sorted by the number of images before adaptation, most first: a circle is
    the number before, a diamond the number after. The dashed line is the mean over the classes. No
    true labels are needed to see classes that hardly any image is labeled as, or classes that take
    the images of others.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    after : ndarray of shape (n_classes,), dtype int64
        Number of images of each class.
    before : ndarray of shape (n_classes,), dtype int64, or None, default=None
    class_names : sequence of str of length n_classes
    labels : (str, str), default=("zero-shot", "adapted")
        What the legend calls the two.

    Attributes
    ----------
    shown_ : ndarray of shape (n_shown,), dtype int64
        Indices of the classes that are drawn, from top to bottom.
    before_points_ : matplotlib PathCollection or None
    after_points_ : matplotlib PathCollection
        A point for each of them.
    lines_ : matplotlib LineCollection
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    RecallDisplay : Recall of each class; needs true labels.

    Examples
    --------
    >>> from capkit.inspection import LabelDistributionDisplay
    >>> display = LabelDistributionDisplay.from_predictions(
    ...     ["cat", "dog", "dog", "fox"], before=["cat", "cat", "cat", "dog"]
    ... )
    >>> [label.get_text() for label in display.ax_.get_yticklabels()]
    ['cat', 'dog', 'fox']
    >>> display.before, display.after
    (array([3, 1, 0]), array([1, 2, 1]))
    """

    def __init__(
        self,
        *,
        after: np.ndarray,
        before: np.ndarray | None = None,
        class_names: Sequence[str],
        labels: tuple[str, str] = ("zero-shot", "adapted"),
    ):
        self.after = after
        self.before = before
        self.class_names = class_names
        self.labels = labels

    @classmethod
    def from_estimator(
        cls,
        classifier: Any,
        X: object,
        *,
        before: Any = None,
        class_names: Sequence[str] | None = None,
        labels: tuple[str, str] = ("zero-shot", "adapted"),
        max_classes: int | None = 40,
        ax: Axes | None = None,
    ) -> LabelDistributionDisplay:
        """Draw how a classifier labels images.

        Parameters
        ----------
        classifier : estimator
            Fitted classifier.
        X : sequence of images of length n_images, or ConceptSpace
        before : estimator or None, default=None
            Fitted classifier. None means the zero-shot prediction if `X` is a ConceptSpace, and
            nothing if it contains images; in that case pass a
            :class:`~capkit.baselines.ZeroShotClassifier`.
        class_names : sequence of str or None, default=None
            Names of all classes. None means those of the classifier, or of the ConceptSpace.
        labels : (str, str), default=("zero-shot", "adapted")
            What the legend calls the two.
        max_classes : int or None, default=40
            Draw only the classes whose number of images changed most, if there are more than
            this; without a `before`, those whose number is furthest from the mean. None draws
            all.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        LabelDistributionDisplay
        """
        check_matplotlib_support("LabelDistributionDisplay.from_estimator")
        earlier: Sequence | None = None
        if before is not None:
            earlier = predict_names(before, X)
        elif isinstance(X, ConceptSpace):
            earlier = zero_shot_names(X)
        return cls.from_predictions(
            predict_names(classifier, X),
            earlier,
            class_names=class_names_of(classifier, X) if class_names is None else class_names,
            labels=labels,
            max_classes=max_classes,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        after: Sequence,
        before: Sequence | None = None,
        *,
        class_names: Sequence[str] | None = None,
        labels: tuple[str, str] = ("zero-shot", "adapted"),
        max_classes: int | None = 40,
        ax: Axes | None = None,
    ) -> LabelDistributionDisplay:
        """Draw one or two labellings of images.

        Parameters
        ----------
        after : sequence of length n_images
            Class names or indices into `class_names`; -1 or None marks an image without a label,
            which does not count.
        before : sequence of length n_images or None, default=None
            Earlier labels of the same images, of either kind.
        class_names : sequence of str or None, default=None
            Names of all classes. None means the labels that occur, which then are all of one
            kind; a class that no image is labeled as only appears if it is named here.
        labels : (str, str), default=("zero-shot", "adapted")
            What the legend calls the two.
        max_classes : int or None, default=40
            Draw only the classes whose number of images changed most, if there are more than
            this; without a `before`, those whose number is furthest from the mean. None draws
            all.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        LabelDistributionDisplay

        Raises
        ------
        LabelError
            If the lengths or kinds differ, or a label is no class.
        """
        given = [after] if before is None else [after, before]
        names, labellings = index_labels(class_names, *given)
        counts = [np.bincount(y[y != UNLABELED], minlength=len(names)) for y in labellings]
        display = cls(
            after=counts[0],
            before=None if before is None else counts[1],
            class_names=names,
            labels=labels,
        )
        return display.plot(ax, max_classes=max_classes)

    def plot(
        self, ax: Axes | None = None, *, max_classes: int | None = 40
    ) -> LabelDistributionDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.
        max_classes : int or None, default=40
            Draw only the classes whose number of images changed most, if there are more than
            this; without a `before`, those whose number is furthest from the mean. None draws
            all.

        Returns
        -------
        LabelDistributionDisplay
        """
        check_matplotlib_support("LabelDistributionDisplay.plot")
        first = self.after if self.before is None else self.before
        mean = self.after.mean()
        reference = mean if self.before is None else self.before
        shown = largest(np.abs(self.after - reference), max_classes, "max_classes")
        self.shown_ = shown[np.lexsort((-self.after[shown], -first[shown]))]
        names = [self.class_names[index] for index in self.shown_]
        if ax is None:
            ax = axes_for_rows(names)
        before = None if self.before is None else self.before[self.shown_]
        drawn = draw_dumbbells(ax, before, self.after[self.shown_], names, self.labels)
        self.lines_, self.before_points_, self.after_points_ = drawn
        ax.axvline(mean, ls="--", lw=1, color="0.4", zorder=1.5, label="mean")
        which = "furthest from the mean" if self.before is None else "that changed most"
        label, which = "images labeled as the class", f"classes, those {which}"
        ax.set_xlabel(with_note(label, len(shown), len(self.after), which))
        whole_numbers(ax.xaxis)
        ax.set_xlim(left=-0.02 * ax.get_xlim()[1])  # numbers are compared from 0
        legend_above_rows(ax, len(names))
        self.ax_, self.figure_ = ax, ax.figure
        return self
