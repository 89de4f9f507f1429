"""The plot of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_PANELS = {
    "score": "accuracy (%)",
    "worst_recall": "worst recall of a class (%)",
    "pseudolabel_accuracy": "accuracy of pseudolabels (%)",
    "pseudolabel_evenness": "evenness of pseudolabels (%)",
    "seconds": "seconds",
    "memory": "memory (MiB)",
}
_COSTS = ("seconds", "memory")
# Okabe and Ito's colours, which are safe for the colour-blind; each has a shape as well.
_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#999999",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_ROW_SHARE = 0.7  # of the height of a method's row that its groups share


def draw(table: pd.DataFrame, zero_shot: str | None) -> Figure:
    """Draw one panel per measure.

    Parameters
    ----------
    table : pandas.DataFrame
        Table for one kind of images.
    zero_shot : str or None
        Method whose means are drawn as lines.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are more pairs of data set and paradigm than colours.
    """
    import matplotlib.pyplot as plt

    keys = [name for name in ("data", "paradigm") if name in table.columns]
    groups = list(table.groupby(keys, sort=False))
    if len(groups) > len(_COLOURS):
        raise ValueError(
            f"expected at most {len(_COLOURS)} pairs of data set and paradigm, got "
            f"{len(groups)}. Draw a part: Comparison(table[table['paradigm'] == 'ul']).plot()."
        )
    methods = list(dict.fromkeys(table["method"]))
    height = 2.2 + 2 * max(1.2, len(methods) * (0.16 + 0.1 * len(groups)))
    figure, axes = plt.subplots(2, 3, figsize=(11, height), sharey=True, layout="constrained")
    for ax, measure in zip(axes.flat, _PANELS, strict=True):
        for number, (_, part) in enumerate(groups):
            _draw_group(ax, part, measure, methods, zero_shot, number, len(groups))
        _finish(ax, measure, table)
    axes[0, 0].set_yticks(range(len(methods)), methods)
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    figure.suptitle({"adapted": "Images adapted to", "new": "New images"}[table["on"].iloc[0]])
    if len(groups) > 1:
        handles = axes[0, 0].collections[: len(groups)]
        labels = [", ".join(group) for group, _ in groups]
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _draw_group(
    ax: Axes,
    part: pd.DataFrame,
    measure: str,
    methods: list[str],
    zero_shot: str | None,
    number: int,
    n_groups: int,
) -> None:
    """One dot per seed and a bar at each method's mean, for one data set and paradigm."""
    values = part[measure] * (1 if measure in _COSTS else 100)
    places = part["method"].map(methods.index) + _ROW_SHARE * ((number + 0.5) / n_groups - 0.5)
    colour, marker = _COLOURS[number], _MARKERS[number]
    ax.scatter(values, places, s=18, color=colour, marker=marker, alpha=0.5, linewidths=0)
    means = values.groupby(places).mean()
    size = 18 / np.sqrt(n_groups)
    ax.plot(means, means.index, ls="", marker="|", markersize=size, mew=2.5, color=colour)
    if measure not in _COSTS and zero_shot in methods:
        line = values[part["method"] == zero_shot].mean()
        ax.axvline(line, ls="--", lw=1, color=colour, zorder=0)


def _finish(ax: Axes, measure: str, table: pd.DataFrame) -> None:
    label = _PANELS[measure]
    if measure == "score" and (table["paradigm"] == "trzsl").any():
        label = "accuracy (%; trzsl: harmonic mean)"
    ax.set_xlabel(label)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    if measure == "seconds":
        ax.set_xscale("log")
