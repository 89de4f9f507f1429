"""The picture of a margin matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from capkit.inspection._plotting import label_size, largest, width_of, with_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from capkit.margins import MarginCalibrator

__all__ = ["MarginDisplay"]

_CELL = 0.2  # inches that a class takes in a new figure


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
    capkit.MarginCalibrator : Computes the margin.

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
        max_classes: int | None = 30,
        ax: Axes | None = None,
    ) -> MarginDisplay:
        """Draw the margin of a fitted calibrator or classifier.

        Parameters
        ----------
        calibrator : estimator
            Fitted, with a ``margin_matrix_``: a MarginCalibrator or a CAPClassifier.
        class_names : sequence of str or None, default=None
            None means those of the estimator, or numbers if it has none.
        max_classes : int or None, default=30
            Draw only the classes with the largest margins, if there are more than this; None
            draws all.
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
        max_classes: int | None = 30,
        ax: Axes | None = None,
    ) -> MarginDisplay:
        """Draw a margin matrix.

        Parameters
        ----------
        margin_matrix : ndarray of shape (n_classes, n_classes)
        class_names : sequence of str or None, default=None
            None numbers the classes.
        max_classes : int or None, default=30
            Draw only the classes with the largest margins, if there are more than this; None
            draws all.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        MarginDisplay

        Raises
        ------
        ValueError
            If the number of names is not that of the classes, or `max_classes` is no whole
            number above 0.
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

    def plot(self, *, max_classes: int | None = 30, ax: Axes | None = None) -> MarginDisplay:
        """Draw.

        Parameters
        ----------
        max_classes : int or None, default=30
            Draw only the classes with the largest margins, if there are more than this; None
            draws all.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        MarginDisplay
        """
        check_matplotlib_support("MarginDisplay.plot")
        import matplotlib.pyplot as plt

        chosen = largest(np.diagonal(self.margin_matrix), max_classes, "max_classes")
        self.shown_ = np.sort(chosen)
        names = [self.class_names[index] for index in self.shown_]
        if ax is None:
            side = max(3.4, _CELL * len(chosen)) + width_of(names)
            _, ax = plt.subplots(figsize=(side + 1.6, side + 0.8), layout="constrained")
        shown = self.margin_matrix[np.ix_(self.shown_, self.shown_)].copy()
        np.fill_diagonal(shown, np.nan)  # the loss does not use it
        self.image_ = ax.imshow(shown, cmap="magma_r", vmin=0)
        # Rotated letters are as wide as unrotated ones are high: the same size fits both.
        size = label_size(ax, len(names))
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize=size, parse_math=False)
        ax.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
        which = "classes, those with the largest margins"
        ax.set_xlabel(with_note("other class", len(names), len(self.class_names), which))
        ax.set_ylabel("class of the sample")
        ax.figure.colorbar(self.image_, ax=ax, label="margin added to the other class's logit")
        self.ax_, self.figure_ = ax, ax.figure
        return self
