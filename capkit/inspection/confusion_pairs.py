"""Display of the classes that are confused with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from capkit._validation import UNLABELED, resolve_class_names
from capkit.exceptions import LabelError
from capkit.inspection._labels import (
    as_names,
    check_probabilities,
    class_names_of,
    in_names,
    index_labels,
    predict_names,
)
from capkit.inspection._plotting import (
    AFTER,
    axes_for_rows,
    label_rows,
    label_size,
    largest,
    whole_numbers,
    with_note,
)
from capkit.metrics import expected_confusions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ConfusionPairsDisplay"]


class ConfusionPairsDisplay:
    """The pairs of classes that are confused with each other most often.

    One bar per pair, such as "cat / dog": the number of cats predicted as dogs plus the number of
    dogs predicted as cats. Without true labels, it is the number of images that may be either,
    according to the probabilities. With many classes a full confusion matrix is unreadable, but
    its largest values are not.

    Create it with :meth:`from_estimator`, :meth:`from_predictions` or :meth:`from_probabilities`.

    Parameters
    ----------
    confusions : ndarray of shape (n_classes, n_classes)
        Number of images confused between each pair of classes: symmetric; the diagonal is ignored.
    class_names : sequence of str of length n_classes
    expected : bool, default=False
        Whether the numbers come from probabilities rather than true labels.

    Attributes
    ----------
    pairs_ : ndarray of shape (n_shown, 2), dtype int64
        Indices of the two classes of each bar, from top to bottom.
    counts_ : ndarray of shape (n_shown,)
        Lengths of the bars.
    bars_ : matplotlib BarContainer
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    capkit.metrics.expected_confusions : Confusions without true labels.
    sklearn.metrics.ConfusionMatrixDisplay : All pairs, for few classes.

    Examples
    --------
    >>> from capkit.inspection import ConfusionPairsDisplay
    >>> display = ConfusionPairsDisplay.from_predictions(
    ...     ["cat", "dog", "dog", "fox"], ["dog", "cat", "dog", "dog"]
    ... )
    >>> [label.get_text() for label in display.ax_.get_yticklabels()]
    ['cat / dog', 'dog / fox']
    >>> display.counts_
    array([2, 1])
    """

    def __init__(
        self, *, confusions: np.ndarray, class_names: Sequence[str], expected: bool = False
    ):
        self.confusions = confusions
        self.class_names = class_names
        self.expected = expected

    @classmethod
    def from_estimator(
        cls,
        classifier: Any,
        X: object,
        y: Sequence | None = None,
        *,
        class_names: Sequence[str] | None = None,
        max_pairs: int | None = 20,
        ax: Axes | None = None,
    ) -> ConfusionPairsDisplay:
        """Draw the classes that a classifier confuses.

        Parameters
        ----------
        classifier : estimator
            Fitted classifier.
        X : sequence of images of length n_images, or ConceptSpace
        y : sequence of length n_images or None, default=None
            Class names or indices into `class_names`; -1 or None marks an unlabeled image, which
            does not count. Without `y`, expected confusions are computed from the probabilities.
        class_names : sequence of str or None, default=None
            Names of all classes. None means those of the classifier, or of the ConceptSpace.
        max_pairs : int or None, default=20
            Largest number of bars; None draws every pair that is confused at all.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        ConfusionPairsDisplay

        Raises
        ------
        LabelError
            If a label is no class, or `y` is given and none of the images is labeled.
        """
        check_matplotlib_support("ConfusionPairsDisplay.from_estimator")
        names = class_names_of(classifier, X) if class_names is None else class_names
        if y is not None:
            predicted = predict_names(classifier, X)
            return cls.from_predictions(
                y, predicted, class_names=names, max_pairs=max_pairs, ax=ax
            )
        columns = as_names(classifier, classifier.classes_)
        if names is not None:
            columns = in_names(names, columns)
        return cls.from_probabilities(
            classifier.predict_proba(X),
            [str(label) for label in columns],
            max_pairs=max_pairs,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: Sequence,
        y_pred: Sequence,
        *,
        class_names: Sequence[str] | None = None,
        max_pairs: int | None = 20,
        ax: Axes | None = None,
    ) -> ConfusionPairsDisplay:
        """Draw the classes that were confused with each other.

        Parameters
        ----------
        y_true : sequence of length n_images
            Class names or indices into `class_names`; -1 or None marks an unlabeled image, which
            does not count.
        y_pred : sequence of length n_images
            Predictions of either kind. An image without a prediction, -1 or None, does not count
            as confused.
        class_names : sequence of str or None, default=None
            Names of all classes. None means the labels that occur, which then are all of one
            kind.
        max_pairs : int or None, default=20
            Largest number of bars; None draws every pair that is confused at all.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        ConfusionPairsDisplay

        Raises
        ------
        LabelError
            If the lengths or kinds differ, a label is no class, or none of the images is labeled.
        """
        names, (truth, predicted) = index_labels(class_names, y_true, y_pred)
        if not (truth != UNLABELED).any():
            raise LabelError("expected a label of at least one image in y_true, got none.")
        both = (truth != UNLABELED) & (predicted != UNLABELED)
        confusions = np.zeros((len(names), len(names)), dtype=np.int64)
        np.add.at(confusions, (truth[both], predicted[both]), 1)
        display = cls(confusions=confusions + confusions.T, class_names=names)
        return display.plot(ax, max_pairs=max_pairs)

    @classmethod
    def from_probabilities(
        cls,
        probabilities: np.ndarray,
        class_names: Sequence[str],
        *,
        max_pairs: int | None = 20,
        ax: Axes | None = None,
    ) -> ConfusionPairsDisplay:
        """Draw the pairs of classes that may be confused, without any true labels.

        Parameters
        ----------
        probabilities : array-like of shape (n_images, n_classes)
            Rows sum to 1.
        class_names : sequence of str of length n_classes
            In the order of the columns.
        max_pairs : int or None, default=20
            Largest number of bars; None draws every pair that is confused at all.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        ConfusionPairsDisplay

        Raises
        ------
        ValueError
            If the array does not contain probabilities of these classes.
        """
        names = resolve_class_names(class_names, None)
        confusions = expected_confusions(check_probabilities(probabilities, len(names)))
        display = cls(confusions=confusions, class_names=names, expected=True)
        return display.plot(ax, max_pairs=max_pairs)

    def plot(self, ax: Axes | None = None, *, max_pairs: int | None = 20) -> ConfusionPairsDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.
        max_pairs : int or None, default=20
            Largest number of bars; None draws every pair that is confused at all.

        Returns
        -------
        ConfusionPairsDisplay
        """
        check_matplotlib_support("ConfusionPairsDisplay.plot")
        pairs = np.column_stack(np.triu_indices(len(self.class_names), k=1))
        counts = self.confusions[pairs[:, 0], pairs[:, 1]]
        chosen = largest(counts, max_pairs, "max_pairs")
        chosen = chosen[counts[chosen] > 0]
        self.pairs_, self.counts_ = pairs[chosen], counts[chosen]
        names = [f"{self.class_names[i]} / {self.class_names[j]}" for i, j in self.pairs_]
        if ax is None:
            ax = axes_for_rows(names)
        label_rows(ax, names)
        self.bars_ = ax.barh(range(len(names)), self.counts_, height=0.7, color=AFTER)
        number = "{:.1f}" if self.expected else "{:.0f}"
        ax.bar_label(self.bars_, fmt=number, padding=3, fontsize=label_size(ax, len(names)))
        ax.set_xlim(0, 1.1 * self.counts_[0] if len(names) else 1)
        label = "images that may be either, expected" if self.expected else "images confused"
        n_all = int(np.count_nonzero(counts > 0))
        ax.set_xlabel(with_note(label, len(names), n_all, "pairs of classes, the most confused"))
        if not self.expected:
            whole_numbers(ax.xaxis)
        self.ax_, self.figure_ = ax, ax.figure
        return self
