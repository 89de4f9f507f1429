"""Pictures of what the stages found. Needs matplotlib (``pip install capkit-clip[plot]``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from capkit.margins import MarginCalibrator
    from capkit.mismatch import MismatchDetector

__all__ = ["MarginDisplay", "MismatchDisplay"]


class MismatchDisplay:
    """Why classes were called mismatched: matched late and seldom predicted.

    Each class is a point: from left to right in the order of the matches, upwards by the number
    of its predictions, coloured by the probability of its match. Classes right of the dashed
    line were left unmatched; those below the dotted line are the `t` least predicted. What is
    both, in the shaded corner, is mismatched.

    Create it with :meth:`from_estimator`.

    Parameters
    ----------
    position : ndarray of shape (n_classes,)
        Place of each class in the order of the matches; the classes that are left come last.
    prediction_counts : ndarray of shape (n_classes,)
        Number of images predicted as each class.
    match_confidence : ndarray of shape (n_classes,)
        Probability of each class's match.
    n_matched : int
        Number of classes that were matched.
    fewest_predicted : ndarray of shape (t,)
        Indices of the classes with the fewest predictions.
    mismatched : ndarray of shape (n_mismatched,)
        Indices of the mismatched classes.
    class_names : sequence of str of length n_classes

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    points_ : matplotlib PathCollection
        One point a class, in the order of the classes.
    labels_ : list of matplotlib Text
        Names of the mismatched classes.

    See Also
    --------
    capkit.MismatchDetector : What this draws.

    Examples
    --------
    >>> from capkit import MismatchDetector
    >>> from capkit.datasets import make_concept_space
    >>> from capkit.inspection import MismatchDisplay
    >>> problem = make_concept_space(random_state=0)
    >>> detector = MismatchDetector(random_state=0).fit(problem.space)
    >>> display = MismatchDisplay.from_estimator(detector)
    >>> [label.get_text() for label in display.labels_]
    ['class 11', 'class 14']
    """

    def __init__(
        self,
        *,
        position: np.ndarray,
        prediction_counts: np.ndarray,
        match_confidence: np.ndarray,
        n_matched: int,
        fewest_predicted: np.ndarray,
        mismatched: np.ndarray,
        class_names: Sequence[str],
    ):
        self.position = position
        self.prediction_counts = prediction_counts
        self.match_confidence = match_confidence
        self.n_matched = n_matched
        self.fewest_predicted = fewest_predicted
        self.mismatched = mismatched
        self.class_names = class_names

    @classmethod
    def from_estimator(
        cls, detector: MismatchDetector, *, ax: Axes | None = None
    ) -> MismatchDisplay:
        """Draw a fitted detector.

        Parameters
        ----------
        detector : MismatchDetector
            Fitted.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        MismatchDisplay
        """
        check_is_fitted(detector)
        by_confidence = np.argsort(-detector.match_confidence_[detector.unmatched_], kind="stable")
        order = np.concatenate([detector.match_order_, detector.unmatched_[by_confidence]])
        return cls(
            position=np.argsort(order),
            prediction_counts=detector.prediction_counts_,
            match_confidence=detector.match_confidence_,
            n_matched=len(detector.match_order_),
            fewest_predicted=detector.fewest_predicted_,
            mismatched=detector.mismatched_,
            class_names=detector.class_names_,
        ).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> MismatchDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        MismatchDisplay
        """
        check_matplotlib_support("MismatchDisplay.plot")
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        n_classes = len(self.class_names)
        self.points_ = ax.scatter(
            self.position, self.prediction_counts, c=self.match_confidence, vmin=0, vmax=1
        )
        if len(self.fewest_predicted):
            highest = self.prediction_counts[self.fewest_predicted].max() + 0.5
            ax.axhline(highest, ls=":", color="gray", label=f"{len(self.fewest_predicted)} least")
            ax.axvline(self.n_matched - 0.5, ls="--", color="gray")
            ax.fill_between([self.n_matched - 0.5, n_classes - 0.5], highest, alpha=0.15)
        self.labels_ = [
            ax.annotate(
                self.class_names[index],
                (self.position[index], self.prediction_counts[index]),
                xytext=(-6, 6),
                textcoords="offset points",
                ha="right",
            )
            for index in self.mismatched
        ]
        ax.set_xlim(-0.5, n_classes - 0.5)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("order of the matches (right of the dashed line: left over)")
        ax.set_ylabel("images predicted as the class")
        ax.figure.colorbar(self.points_, ax=ax, label="probability of the match")
        self.ax_, self.figure_ = ax, ax.figure
        return self


class MarginDisplay:
    """Heat map of a margin matrix: which class is protected against which.

    Create it with :meth:`from_estimator` or :meth:`from_matrix`.

    Parameters
    ----------
    margin_matrix : ndarray of shape (n_classes, n_classes)
        ``M``, see :func:`capkit.margins.margin_matrix`.
    class_names : sequence of str of length n_classes

    Attributes
    ----------
    shown_ : ndarray of shape (n_shown,)
        Indices of the classes that are drawn, ascending.
    image_ : matplotlib AxesImage
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    capkit.MarginCalibrator : What this draws.

    Examples
    --------
    >>> from capkit import MarginCalibrator
    >>> from capkit.datasets import make_concept_space
    >>> from capkit.inspection import MarginDisplay
    >>> space = make_concept_space(random_state=0).space
    >>> calibrator = MarginCalibrator().fit(space)
    >>> display = MarginDisplay.from_estimator(calibrator)
    >>> display.ax_.get_xlabel()
    'other class'
    """

    def __init__(self, *, margin_matrix: np.ndarray, class_names: Sequence[str]):
        self.margin_matrix = margin_matrix
        self.class_names = class_names

    @classmethod
    def from_estimator(
        cls,
        calibrator: MarginCalibrator,
        *,
        class_names: Sequence[str] | None = None,
        max_classes: int = 30,
        ax: Axes | None = None,
    ) -> MarginDisplay:
        """Draw the margin of a fitted calibrator or classifier.

        Parameters
        ----------
        calibrator : estimator
            Fitted, with a ``margin_matrix_``: a MarginCalibrator or a CAPClassifier.
        class_names : sequence of str or None, default=None
            None means those of the estimator, or numbers where it knows none.
        max_classes : int, default=30
            Draw only the classes with the largest margins, if there are more than this.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        MarginDisplay
        """
        check_is_fitted(calibrator)
        if class_names is None:
            class_names = getattr(calibrator, "class_names_", None)
        return cls.from_matrix(
            calibrator.margin_matrix_, class_names=class_names, max_classes=max_classes, ax=ax
        )

    @classmethod
    def from_matrix(
        cls,
        margin_matrix: np.ndarray,
        *,
        class_names: Sequence[str] | None = None,
        max_classes: int = 30,
        ax: Axes | None = None,
    ) -> MarginDisplay:
        """Draw a margin matrix.

        Parameters
        ----------
        margin_matrix : ndarray of shape (n_classes, n_classes)
        class_names : sequence of str or None, default=None
            None numbers the classes.
        max_classes : int, default=30
            Draw only the classes with the largest margins, if there are more than this.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        MarginDisplay

        Raises
        ------
        ValueError
            If the number of names is not that of the classes.
        """
        if class_names is None:
            class_names = [str(index) for index in range(len(margin_matrix))]
        if len(class_names) != len(margin_matrix):
            raise ValueError(
                f"expected {len(margin_matrix)} class_names, one a row of the margin matrix, "
                f"got {len(class_names)}"
            )
        display = cls(margin_matrix=margin_matrix, class_names=class_names)
        return display.plot(max_classes=max_classes, ax=ax)

    def plot(self, *, max_classes: int = 30, ax: Axes | None = None) -> MarginDisplay:
        """Draw.

        Parameters
        ----------
        max_classes : int, default=30
            Draw only the classes with the largest margins, if there are more than this.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        MarginDisplay
        """
        check_matplotlib_support("MarginDisplay.plot")
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        largest = np.argsort(-np.diagonal(self.margin_matrix), kind="stable")[:max_classes]
        self.shown_ = np.sort(largest)
        shown = self.margin_matrix[np.ix_(self.shown_, self.shown_)].copy()
        np.fill_diagonal(shown, np.nan)  # the loss does not use it
        self.image_ = ax.imshow(shown, cmap="magma_r", vmin=0)
        names = [self.class_names[index] for index in self.shown_]
        ax.set_xticks(range(len(names)), names, rotation=90)
        ax.set_yticks(range(len(names)), names)
        ax.set_xlabel("other class")
        ax.set_ylabel("class of the sample")
        ax.figure.colorbar(self.image_, ax=ax, label="margin added to the other class's logit")
        self.ax_, self.figure_ = ax, ax.figure
        return self
