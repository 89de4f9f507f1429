"""What the displays share: colours, figures that grow with their rows, dumbbells, panels."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.collections import LineCollection, PathCollection

__all__ = [
    "AFTER",
    "BEFORE",
    "COLOURS",
    "MARKERS",
    "Dumbbells",
    "axes_for_rows",
    "draw_dumbbells",
    "height_of",
    "label_rows",
    "label_size",
    "largest",
    "legend_above_rows",
    "split_axes",
    "whole_numbers",
    "width_of",
    "with_note",
]

# Okabe and Ito's, which the colour-blind tell apart; each has a shape as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("D", "o", "^", "s", "v", "P", "X")
AFTER, BEFORE = COLOURS[:2]

# Inches.
_ROW = 0.21
_LETTER = 0.085
_LEGEND = 0.35


def largest(values: np.ndarray, limit: int | None, name: str) -> np.ndarray:
    """Positions of the largest values, the largest first; NaN is never among them.

    Parameters
    ----------
    values : ndarray of shape (n,)
    limit : int or None
        How many at most; None means all.
    name : str
        The user's parameter that `limit` is.

    Returns
    -------
    ndarray of shape (n_chosen,), dtype int64

    Raises
    ------
    ValueError
        If `limit` is no whole number above 0.
    """
    if limit is not None and (not isinstance(limit, Integral) or limit < 1):
        raise ValueError(f"expected {name} as a whole number above 0 or None, got {limit!r}.")
    order = np.argsort(-np.asarray(values, dtype=np.float64), kind="stable")
    return order[~np.isnan(values[order])][:limit]


def with_note(label: str, n_shown: int, n_all: int, which: str) -> str:
    """Label of an axis, and below it what is drawn where it is not all.

    Parameters
    ----------
    label : str
    n_shown, n_all : int
    which : str
        What they are, as the note ends.

    Returns
    -------
    str
    """
    return f"{label}\n{n_shown} of {n_all} {which}" if n_shown < n_all else label


# -- axes


def axes_for_rows(names: Sequence[str]) -> Axes:
    """Axes of a new figure in which each row has room for its name.

    Parameters
    ----------
    names : sequence of str

    Returns
    -------
    matplotlib Axes
    """
    import matplotlib.pyplot as plt

    size = (max(6.4, 4.5 + width_of(names)), max(2.0, 1.3 + _ROW * len(names)))
    return plt.subplots(figsize=size, layout="constrained")[1]


def label_rows(ax: Axes, names: Sequence[str]) -> None:
    """Name the rows 0, 1, ... from top to bottom.

    Parameters
    ----------
    ax : matplotlib Axes
    names : sequence of str
    """
    size = label_size(ax, len(names))
    ax.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    ax.set_ylim(max(len(names), 1) - 0.5, -0.5)


def label_size(ax: Axes, n_rows: int) -> float:
    """Size in points of the text of one of several rows that share the height of the axes.

    Parameters
    ----------
    ax : matplotlib Axes
    n_rows : int

    Returns
    -------
    float
        At most that of a tick label, and at least 3.
    """
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    usual = FontProperties(size=rcParams["ytick.labelsize"]).get_size_in_points()
    room = height_of(ax) * 72 / max(n_rows, 1)
    return float(np.clip(0.8 * room, 3, usual))


def legend_above_rows(ax: Axes, n_rows: int) -> None:
    """Draw the legend in a strip of its own above the rows, where it hides nothing.

    Parameters
    ----------
    ax : matplotlib Axes
    n_rows : int
    """
    strip = _LEGEND * n_rows / max(height_of(ax) - _LEGEND, _LEGEND)
    ax.set_ylim(n_rows - 0.5, -0.5 - strip)
    ax.legend(loc="upper center", ncols=4, frameon=False, borderaxespad=0.2)


def whole_numbers(axis: Axis) -> None:
    """Let an axis have ticks at whole numbers alone.

    Parameters
    ----------
    axis : matplotlib Axis
    """
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def split_axes(ax: Axes | None, heights: Sequence[float], width: float = 6.4) -> np.ndarray:
    """Panels below each other, which share the horizontal axis, in the place of axes.

    Parameters
    ----------
    ax : matplotlib Axes or None
        Becomes empty; None makes a new figure.
    heights : sequence of float
        Of each panel, in inches where the figure is new, else relative to each other.
    width : float, default=6.4
        Of a new figure, in inches.

    Returns
    -------
    ndarray of shape (n_panels,), dtype object
        Axes from top to bottom.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(width, 0.8 + sum(heights)), layout="constrained")
    ax.set_axis_off()
    gap = 0.07 * min(heights)
    shares = np.asarray(heights) / (sum(heights) + gap * (len(heights) - 1))
    tops = 1 - np.cumsum(shares) - gap / sum(heights) * np.arange(len(heights))
    tops -= tops[-1]
    panels = np.empty(len(heights), dtype=object)
    for number, (bottom, share) in enumerate(zip(tops, shares, strict=True)):
        panels[number] = ax.inset_axes(
            (0, bottom, 1, share), sharex=None if number == 0 else panels[0]
        )
        panels[number].tick_params(labelbottom=number == len(heights) - 1)
    return panels


def width_of(names: Sequence[str]) -> float:
    """About how wide a column of names is.

    Parameters
    ----------
    names : sequence of str

    Returns
    -------
    float
        In inches.
    """
    return _LETTER * max(map(len, names), default=0)


def height_of(ax: Axes) -> float:
    """Height of axes.

    Parameters
    ----------
    ax : matplotlib Axes

    Returns
    -------
    float
        In inches.
    """
    return ax.get_window_extent().height / ax.figure.dpi


# -- dumbbells


class Dumbbells(NamedTuple):
    """What was drawn, a row each.

    Attributes
    ----------
    lines : matplotlib LineCollection
    before : matplotlib PathCollection or None
    after : matplotlib PathCollection
    """

    lines: LineCollection
    before: PathCollection | None
    after: PathCollection


def draw_dumbbells(
    ax: Axes,
    before: np.ndarray | None,
    after: np.ndarray,
    names: Sequence[str],
    labels: Sequence[str],
) -> Dumbbells:
    """Draw two values a row with a line between them, or one with a line from 0.

    Parameters
    ----------
    ax : matplotlib Axes
    before : ndarray of shape (n_rows,) or None
    after : ndarray of shape (n_rows,)
    names : sequence of str of length n_rows
    labels : sequence of two str
        What the legend calls the two.

    Returns
    -------
    Dumbbells
    """
    rows = np.arange(len(names))
    label_rows(ax, names)
    start = np.zeros_like(after) if before is None else before
    lines = ax.hlines(rows, start, after, color="0.8", lw=3, zorder=1)
    size = 3.0 * label_size(ax, len(names))
    earlier = None
    if before is not None:  # larger, so that it is seen behind the other one
        earlier = ax.scatter(
            before, rows, s=2 * size, marker=MARKERS[1], color=BEFORE, label=labels[0], zorder=2
        )
    later = ax.scatter(
        after, rows, s=size, marker=MARKERS[0], color=AFTER, label=labels[1], zorder=3
    )
    ax.grid(axis="x", color="0.93")
    ax.set_axisbelow(True)
    return Dumbbells(lines, earlier, later)
