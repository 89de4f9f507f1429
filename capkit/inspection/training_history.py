"""Display of a training, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from capkit.inspection._labels import final_estimator
from capkit.inspection._plotting import COLOURS, MARKERS, split_axes, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["TrainingHistoryDisplay"]

# What stands in a panel, from top to bottom, and what its legend calls it; beside these, the
# parts of the loss, whose names depend on the training.
_PANELS: dict[str, dict[str, str]] = {
    "loss": {"loss": "sum"},
    "share": {"kept": "strong views kept", "class_balance": "evenness of pseudolabels"},
    "main samples": {"n_main": "main samples"},
    "margin": {"margin_max": "largest", "margin_mean": "mean"},
    "learning rate": {"learning_rate": "learning rate"},
}
_PART = "_loss"
_WIDTH, _HEIGHT = 8.0, 1.25  # inches of a panel with its legend
_MANY_EPOCHS = 20  # more have no marker each


class TrainingHistoryDisplay:
    """Course of a training: losses, pseudolabels, margin and learning rate of each epoch.

    Panels below each other, over the same epochs: the loss and its parts; the share of strong
    views that were kept and the evenness of the pseudolabels, both in [0, 1]; the number of main
    samples; the margin; the learning rate. Panels without data are left out.

    Create it with :meth:`from_estimator` or :meth:`from_history`.

    Parameters
    ----------
    history : sequence of mapping of str to number
        One mapping per epoch, as in ``history_`` of :class:`~capkit.CAPClassifier`.

    Attributes
    ----------
    panels_ : list of str
        Names of the panels, from top to bottom.
    lines_ : dict of str to matplotlib Line2D
        Lines by their name in the history.
    axes_ : ndarray of shape (n_panels,), dtype object
        Their axes.
    figure_ : matplotlib Figure

    See Also
    --------
    capkit.CAPClassifier : Records such a history.

    Examples
    --------
    >>> from capkit.inspection import TrainingHistoryDisplay
    >>> display = TrainingHistoryDisplay.from_history(
    ...     [{"epoch": 1, "loss": 2.0, "kept": 0.5}, {"epoch": 2, "loss": 1.5, "kept": 0.6}]
    ... )
    >>> display.panels_
    ['loss', 'share']
    """

    def __init__(self, *, history: Sequence[Mapping[str, Any]]):
        self.history = history

    @classmethod
    def from_estimator(cls, classifier: Any, *, ax: Axes | None = None) -> TrainingHistoryDisplay:
        """Draw the training of a fitted classifier.

        Parameters
        ----------
        classifier : estimator
            Fitted classifier with a ``history_``: a CAPClassifier or another one that trains; also
            a pipeline that ends in one, or a search over one.
        ax : matplotlib Axes or None, default=None
            Whose place the panels take; None makes a new figure.

        Returns
        -------
        TrainingHistoryDisplay

        Raises
        ------
        ValueError
            If nothing was trained.
        TypeError
            If it is not a classifier that trains.
        """
        check_is_fitted(classifier)
        final = final_estimator(classifier)
        if not hasattr(final, "history_"):
            raise TypeError(
                "expected a fitted classifier that trains, with a history_ of its epochs, got "
                f"{type(final).__name__}."
            )
        return cls.from_history(final.history_, ax=ax)

    @classmethod
    def from_history(
        cls, history: Sequence[Mapping[str, Any]], *, ax: Axes | None = None
    ) -> TrainingHistoryDisplay:
        """Draw a training history.

        Parameters
        ----------
        history : sequence of mapping of str to number
            One mapping per epoch, with its number as ``"epoch"``.
        ax : matplotlib Axes or None, default=None
            Whose place the panels take; None makes a new figure.

        Returns
        -------
        TrainingHistoryDisplay

        Raises
        ------
        ValueError
            If there is no epoch.
        """
        return cls(history=history).plot(ax)

    def plot(self, ax: Axes | None = None) -> TrainingHistoryDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Whose place the panels take; None makes a new figure.

        Returns
        -------
        TrainingHistoryDisplay

        Raises
        ------
        ValueError
            If there is no epoch.
        """
        check_matplotlib_support("TrainingHistoryDisplay.plot")
        if not len(self.history):
            raise ValueError(
                "expected the history of a training, got one without an epoch: nothing was "
                "trained. CAPClassifier leaves training out where there are too few images a "
                "class; print its adaptation_report_."
            )
        panels = _panels_of(self.history[0])
        self.panels_ = list(panels)
        self.axes_ = split_axes(ax, [_HEIGHT] * len(panels), _WIDTH)
        self.lines_: dict[str, Line2D] = {}
        for panel, (title, names) in zip(self.axes_, panels.items(), strict=True):
            self.lines_ |= self._draw_panel(panel, title, names)
        self.axes_[-1].set_xlabel("epoch")
        whole_numbers(self.axes_[-1].xaxis)
        self.figure_ = self.axes_[0].figure
        return self

    def _draw_panel(self, panel: Axes, title: str, names: Mapping[str, str]) -> dict[str, Line2D]:
        epochs = [row["epoch"] for row in self.history]
        lines: dict[str, Line2D] = {}
        for number, (name, label) in enumerate(names.items()):
            look = number % len(COLOURS)
            (lines[name],) = panel.plot(
                epochs,
                [row[name] for row in self.history],
                color=COLOURS[look],
                marker=MARKERS[look],
                markersize=4,
                markevery=max(1, len(epochs) // _MANY_EPOCHS),
                label=label,
            )
        panel.set_ylabel(title)
        panel.grid(color="0.93")
        if list(names.values()) != [title]:
            panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        if title == "share":
            panel.set_ylim(-0.05, 1.05)
        return lines


def _panels_of(row: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What there is to draw of an epoch: panels, names in the history and in the legend."""
    parts = {name: name.removesuffix(_PART) for name in row if name.endswith(_PART)}
    wanted = _PANELS | {"loss": _PANELS["loss"] | parts}
    found = {
        title: {name: label for name, label in names.items() if name in row}
        for title, names in wanted.items()
    }
    return {title: names for title, names in found.items() if names}
