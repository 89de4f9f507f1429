"""Display of how well probabilities are calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from capkit._validation import UNLABELED
from capkit.exceptions import LabelError
from capkit.inspection._labels import as_names, check_probabilities, class_names_of, in_names
from capkit.inspection._plotting import AFTER, MARKERS, split_axes
from capkit.metrics import as_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ReliabilityDisplay"]


class ReliabilityDisplay:
    """Reliability diagram: whether predictions are right as often as their probability says.

    Images are binned by their confidence, the probability of the predicted class. The upper panel
    shows the accuracy of each bin against its mean confidence: on the diagonal the probabilities
    are calibrated, below it they are overconfident. The lower panel is a histogram of the
    confidence.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    edges : ndarray of shape (n_bins + 1,)
        Bin edges, ascending, from 0 to 1.
    counts : ndarray of shape (n_bins,), dtype int64
        Number of images in each bin.
    confidence : ndarray of shape (n_bins,)
        Their mean confidence; NaN for empty bins.
    accuracy : ndarray of shape (n_bins,)
        Their accuracy; NaN for empty bins.
    name : str or None, default=None
        What the legend calls the curve.

    Attributes
    ----------
    calibration_error_ : float
        Expected calibration error: mean over the images of the difference between accuracy and
        confidence of their bin, in [0, 1].
    line_ : matplotlib Line2D
        The curve: one point per non-empty bin.
    bars_ : matplotlib BarContainer
        The histogram.
    axes_ : ndarray of shape (2,), dtype object
        Axes of the curve and of the histogram.
    figure_ : matplotlib Figure

    See Also
    --------
    sklearn.calibration.CalibrationDisplay : The same for binary classification.

    References
    ----------
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Examples
    --------
    >>> from capkit.inspection import ReliabilityDisplay
    >>> probabilities = [[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]]
    >>> display = ReliabilityDisplay.from_predictions(
    ...     ["cat", "dog", "dog", "dog"], probabilities, classes=["cat", "dog"]
    ... )
    >>> round(display.calibration_error_, 2)
    0.35
    """

    def __init__(
        self,
        *,
        edges: np.ndarray,
        counts: np.ndarray,
        confidence: np.ndarray,
        accuracy: np.ndarray,
        name: str | None = None,
    ):
        self.edges = edges
        self.counts = counts
        self.confidence = confidence
        self.accuracy = accuracy
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        classifier: Any,
        X: object,
        y: Sequence,
        *,
        n_bins: int = 10,
        strategy: str = "uniform",
        name: str | None = None,
        ax: Axes | None = None,
    ) -> ReliabilityDisplay:
        """Draw the probabilities of a classifier.

        Parameters
        ----------
        classifier : estimator
            Fitted classifier with ``predict_proba``.
        X : sequence of images of length n_images, or ConceptSpace
        y : sequence of length n_images
            Class names or indices into the classifier's ``class_names_``; -1 or None marks an
            unlabeled image, which does not count. Do not use images that the classifier was fitted
            to with their labels.
        n_bins : int, default=10
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of the same width, or of the same number of images.
        name : str or None, default=None
            Name of the curve in the legend. None means the name of the estimator's class.
        ax : matplotlib Axes or None, default=None
            Whose place the two panels take; None makes a new figure.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        LabelError
            If a label is no class, or none of the images is labeled.
        """
        check_matplotlib_support("ReliabilityDisplay.from_estimator")
        names, classes = class_names_of(classifier, X), classifier.classes_
        if names is not None:
            y, classes = in_names(names, y), in_names(names, as_names(classifier, classes))
        return cls.from_predictions(
            y,
            classifier.predict_proba(X),
            classes=classes,
            n_bins=n_bins,
            strategy=strategy,
            name=type(classifier).__name__ if name is None else name,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: Sequence,
        probabilities: np.ndarray,
        *,
        classes: Sequence,
        n_bins: int = 10,
        strategy: str = "uniform",
        name: str | None = None,
        ax: Axes | None = None,
    ) -> ReliabilityDisplay:
        """Draw probabilities.

        Parameters
        ----------
        y_true : sequence of length n_images
            Labels in the kind of `classes`; -1 or None marks an unlabeled image, which does not
            count.
        probabilities : array-like of shape (n_images, n_classes)
            Rows sum to 1.
        classes : sequence of length n_classes
            Labels of the columns, as a classifier's ``classes_``.
        n_bins : int, default=10
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of the same width, or of the same number of images.
        name : str or None, default=None
            What the legend calls the curve.
        ax : matplotlib Axes or None, default=None
            Whose place the two panels take; None makes a new figure.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        LabelError
            If a label is no class, or none of the images is labeled.
        ValueError
            If the array does not contain probabilities of these classes, or the binning is
            invalid.
        """
        probabilities = check_probabilities(probabilities, len(classes))
        truth = _columns_of(y_true, classes)
        if len(truth) != len(probabilities):
            raise LabelError(
                "expected as many labels as rows of probabilities, got "
                f"{len(truth)} and {len(probabilities)} of them."
            )
        labeled = truth != UNLABELED
        if not labeled.any():
            raise LabelError("expected a label of at least one image in y_true, got none.")
        confidence = probabilities[labeled].max(axis=1)
        right = probabilities[labeled].argmax(axis=1) == truth[labeled]
        edges = _edges(confidence, n_bins, strategy)
        bins = np.searchsorted(edges[1:-1], confidence)
        counts = np.bincount(bins, minlength=len(edges) - 1)
        with np.errstate(invalid="ignore"):  # of bins without an image
            means = [
                np.bincount(bins, weights=values, minlength=len(counts)) / counts
                for values in (confidence, right)
            ]
        display = cls(
            edges=edges, counts=counts, confidence=means[0], accuracy=means[1], name=name
        )
        return display.plot(ax)

    @property
    def calibration_error_(self) -> float:
        """Expected calibration error, in [0, 1]."""
        gaps = np.abs(self.accuracy - self.confidence)
        filled = self.counts > 0
        return float(np.average(gaps[filled], weights=self.counts[filled]))

    def plot(self, ax: Axes | None = None) -> ReliabilityDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Whose place the two panels take; None makes a new figure.

        Returns
        -------
        ReliabilityDisplay
        """
        check_matplotlib_support("ReliabilityDisplay.plot")
        self.axes_ = curve, histogram = split_axes(ax, [3.2, 1.1])
        filled = self.counts > 0
        error = f"expected calibration error {self.calibration_error_:.1%}"
        curve.plot([0, 1], [0, 1], ls="--", color="0.5", label="perfectly calibrated")
        (self.line_,) = curve.plot(
            self.confidence[filled],
            self.accuracy[filled],
            color=AFTER,
            marker=MARKERS[0],
            label=error if self.name is None else f"{self.name}: {error}",
        )
        curve.set_ylabel("share of right predictions")
        curve.set_yticks(np.linspace(0, 1, 6))
        curve.set_ylim(-0.03, 1.25)  # room for the legend, where no point can be
        curve.legend(loc="upper left", frameon=False)
        curve.grid(color="0.93")
        self.bars_ = histogram.bar(
            self.edges[:-1],
            self.counts,
            width=np.diff(self.edges),
            align="edge",
            color=AFTER,
            edgecolor="white",
        )
        histogram.set_xlim(-0.03, 1.03)
        histogram.set_xlabel("confidence: probability of the predicted class")
        histogram.set_ylabel("images")
        self.figure_ = curve.figure
        return self


def _columns_of(y_true: Sequence, classes: Sequence) -> np.ndarray:
    """Column of each label, -1 where there is none."""
    labels, labeled = as_labels(y_true)
    column = {label: index for index, label in enumerate(np.asarray(classes).tolist())}
    missing = [label for label in labels.tolist() if label not in column]
    if missing:
        raise LabelError(
            f"label {missing[0]!r} is none of the {len(column)} classes: expected labels like "
            f"{next(iter(column), None)!r}, or -1 or None for an unlabeled image."
        )
    columns = np.full(len(labeled), UNLABELED, dtype=np.int64)
    columns[labeled] = [column[label] for label in labels.tolist()]
    return columns


def _edges(confidence: np.ndarray, n_bins: int, strategy: str) -> np.ndarray:
    if not isinstance(n_bins, Integral) or n_bins < 1:
        raise ValueError(f"expected n_bins as a whole number above 0, got {n_bins!r}.")
    shares = np.linspace(0, 1, n_bins + 1)
    if strategy == "uniform":
        return shares
    if strategy == "quantile":
        inner = np.quantile(confidence, shares[1:-1])
        return np.unique([0.0, *inner, 1.0])  # many images may have the same confidence
    raise ValueError(f"expected strategy as 'uniform' or 'quantile', got {strategy!r}.")
