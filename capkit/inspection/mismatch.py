"""The picture of mismatch detection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from capkit.inspection._plotting import height_of, label_size, width_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

    from capkit.mismatch import MismatchDetector

__all__ = ["MismatchDisplay"]

_NAME = 0.2  # inches that the name of a mismatched class takes
_NAMED_SHARE = 0.9  # of the height of the axes, which the names may take


class MismatchDisplay:
    """Why classes were called mismatched: matched late and seldom predicted.

    Each class is a point: from left to right in the order of the matches, upwards by the number of
    its predictions, coloured by the probability of its match. Classes right of the dashed line
    remained unmatched; those below the dotted line are the `t` least predicted. Classes in the
    shaded corner are both, and therefore mismatched.

    Create it with :meth:`from_estimator`.

    Parameters
    ----------
    position : ndarray of shape (n_classes,)
        Position of each class in the order of the matches; unmatched classes come last.
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
        One point per class, in the order of the classes.
    labels_ : list of matplotlib Annotation
        Names of the mismatched classes, right of the axes, each with a line to its point.

    See Also
    --------
    capkit.MismatchDetector : Finds the mismatched classes.

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
            height = max(4.8, 1.5 + _NAME * len(self.mismatched) / _NAMED_SHARE)
            width = 6.4 + width_of([self.class_names[index] for index in self.mismatched])
            _, ax = plt.subplots(figsize=(width, height), layout="constrained")
        n_classes = len(self.class_names)
        self.points_ = ax.scatter(
            self.position, self.prediction_counts, c=self.match_confidence, vmin=0, vmax=1
        )
        if len(self.fewest_predicted):
            highest = self.prediction_counts[self.fewest_predicted].max() + 0.5
            ax.axhline(highest, ls=":", color="gray", label=f"{len(self.fewest_predicted)} least")
            ax.axvline(self.n_matched - 0.5, ls="--", color="gray")
            ax.fill_between([self.n_matched - 0.5, n_classes - 0.5], highest, alpha=0.15)
        ax.set_xlim(-0.5, n_classes - 0.5)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("order of the matches (right of the dashed line: left over)")
        ax.set_ylabel("images predicted as the class")
        ax.figure.colorbar(
            self.points_, ax=ax, label="probability of the match", location="top", aspect=40
        )
        self.labels_ = self._name_mismatched(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _name_mismatched(self, ax: Axes) -> list[Annotation]:
        """Write names below each other beside the axes, in an order in which no lines cross."""
        n_names = len(self.mismatched)
        size = label_size(ax, round(n_names / _NAMED_SHARE))
        step = min(_NAMED_SHARE / max(n_names, 1), _NAME / height_of(ax))
        from_below = np.lexsort(
            (self.prediction_counts[self.mismatched], -self.position[self.mismatched])
        )
        return [
            ax.annotate(
                self.class_names[index],
                (self.position[index], self.prediction_counts[index]),
                xytext=(1.05, step * (rank + 0.5)),
                textcoords=ax.transAxes,
                va="center",
                fontsize=size,
                parse_math=False,
                zorder=0.5,  # lines are not to hide points
                arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.7, "relpos": (0, 0.5)},
            )
            for index, rank in zip(self.mismatched, np.argsort(from_below), strict=True)
        ]
