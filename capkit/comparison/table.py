"""The result of a comparison: a table, and ways to read it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from capkit._optional import require

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "MEASURES", "Comparison"]

# Whether higher is better, for each measure.
MEASURES = {
    "score": True,
    "accuracy": True,
    "mean_recall": True,
    "worst_recall": True,
    "auc": True,
    "calibration_error": False,
    "pseudolabel_accuracy": True,
    "pseudolabel_evenness": True,
    "seconds": False,
    "memory": False,
}
COLUMNS = ("method", "paradigm", "seed", "on", *MEASURES, "n_classes", "n_images", "error")

# Measures that do not depend on which images are scored.
_OF_FIT = ("pseudolabel_accuracy", "pseudolabel_evenness", "seconds", "memory")

# Decimals of measures that are not shares; shares are shown as percentages with one decimal.
_DECIMALS = {"seconds": 2, "memory": 0}


class Comparison:
    """Measures of several methods on the same images, as returned by :func:`~capkit.compare`.

    Parameters
    ----------
    table : pandas.DataFrame
        See the attribute. Some rows of a table, or a table read from a file, will do too.
    zero_shot : str or None, default=None
        The method that is the unadapted model; :meth:`plot` draws it as a line. None means the
        method called zero-shot, in any spelling.

    Attributes
    ----------
    table : pandas.DataFrame
        A row for each ``method``, ``paradigm``, ``seed`` and kind of images: ``on`` is
        ``"adapted"`` (the images that the method adapted to) or ``"new"``. Of the adapted images,
        only unlabeled ones count in ``ssl`` and ``ul``, and all in ``trzsl``. Shares are in [0,
        1]:

        - ``score``: the accuracy; in ``trzsl`` the harmonic mean of the accuracies on seen and
          unseen classes, NaN if there are no images of either;
        - ``accuracy``; ``mean_recall`` and ``worst_recall``: mean and minimum recall over the
          classes that occur;
        - ``auc``: area under the ROC curve for telling right from wrong predictions by their
          confidence; ``calibration_error``: expected calibration error with 15 bins; NaN without
          probabilities;
        - ``pseudolabel_accuracy``: accuracy of the labels that unlabeled images got in the fit
          (``pseudo_labels_``), or of their predictions if a method has no pseudolabels;
          ``pseudolabel_evenness``: how evenly these are spread over the possible classes, see
          :func:`capkit.pseudolabels.class_balance`. These and the next two measures describe the
          fit and are the same for both kinds of images;
        - ``seconds``: time for fitting, and for predicting the adapted images, without encoding;
        - ``memory``: peak memory in the fit minus the memory used before it, in MiB: of the GPU if
          it is used, otherwise of the process. Memory that earlier fits left allocated is not
          counted, but code loaded during the fit is, so only differences of hundreds of MiB mean
          anything;
        - ``n_classes``, and ``n_images``, the number of images that count;
        - ``error``: the error of a failed run, whose measures are NaN; otherwise empty.

        A comparison on several data sets also has a column ``data``.
    zero_shot : str or None

    See Also
    --------
    capkit.compare : Runs a comparison.

    Examples
    --------
    >>> from capkit import compare
    >>> from capkit.baselines import GaussianTransductionClassifier, ZeroShotClassifier
    >>> from capkit.datasets import make_concept_space
    >>> problem = make_concept_space(random_state=0)
    >>> methods = {"zero-shot": ZeroShotClassifier(), "Gauss": GaussianTransductionClassifier()}
    >>> comparison = compare(methods, problem.space, problem.target, seeds=[0])
    >>> comparison.relative_gain("Gauss")["best_peer"].tolist()
    ['zero-shot', 'zero-shot']
    """

    def __init__(self, table: pd.DataFrame, *, zero_shot: str | None = None):
        missing = [name for name in COLUMNS if name not in table.columns]
        if missing or not len(table):
            raise ValueError(
                "expected a table as capkit.compare makes it, got one without "
                f"{missing or 'any row'}."
            )
        self.table = table
        self.zero_shot = zero_shot
        for name in self.methods:
            if zero_shot is None and _letters(name).startswith("zeroshot"):
                self.zero_shot = name
                break

    def __repr__(self) -> str:
        n_failed = int((self.table["error"] != "").sum())
        failed = f", {n_failed} failed" if n_failed else ""
        return f"Comparison(methods={self.methods}, {len(self.table)} rows{failed})"

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order in which they were given."""
        return list(dict.fromkeys(self.table["method"]))

    @property
    def groups(self) -> list[str]:
        """Columns that distinguish the settings in which methods are compared."""
        return [name for name in ("data", "paradigm", "on") if name in self.table.columns]

    # -- numbers

    def summary(self, *, sort_by: str | None = None) -> pd.DataFrame:
        """Mean and standard deviation over the seeds.

        Parameters
        ----------
        sort_by : str or None, default=None
            Measure to sort by, best method first. None keeps the given order.

        Returns
        -------
        pandas.DataFrame
            Rows by data set (if several), ``paradigm``, ``on`` and ``method``; columns
            ``(measure, "mean")`` and ``(measure, "std")``, and ``("error", "count")``, the number
            of failed runs, which the other columns leave out. The standard deviation is the sample
            one (``n - 1``), NaN with one seed.

        Raises
        ------
        ValueError
            If there is no such measure.
        """
        import pandas as pd

        runs = self.table.groupby([*self.groups, "method"], sort=False)
        summary = runs[list(MEASURES)].agg(["mean", "std"])
        summary["error", "count"] = runs["error"].agg(lambda errors: (errors != "").sum())
        if sort_by is None:
            return summary
        _check_measures([sort_by])
        order, ascending = (sort_by, "mean"), not MEASURES[sort_by]
        parts = [
            part.sort_values(order, ascending=ascending, kind="stable")
            for _, part in summary.groupby(level=self.groups, sort=False)
        ]
        return pd.concat(parts)

    def relative_gain(self, method: str) -> pd.DataFrame:
        """Gain of a method over the best other method.

        Parameters
        ----------
        method : str

        Returns
        -------
        pandas.DataFrame
            Rows by data set (if several), ``paradigm`` and ``on``. Columns ``score``, the method's
            mean over the seeds; ``best_peer`` and ``best_peer_score``, the name and mean of the
            best other method; and ``gain``, ``(score - best_peer_score) / best_peer_score``. NaN
            if the method or all others failed.

        Raises
        ------
        ValueError
            If there is no such method, or no other.
        """
        import pandas as pd

        if method not in self.methods or len(self.methods) < 2:
            raise ValueError(
                f"expected one of at least two methods, got {method!r}; there are {self.methods}."
            )
        means = self.summary()["score", "mean"].unstack("method", sort=False)[self.methods]
        peers = means.drop(columns=method)
        best = peers.max(axis=1)
        names = [
            None if row.isna().all() else row.idxmax()  # idxmax warns where all are NaN
            for _, row in peers.iterrows()
        ]
        gain = (means[method] - best) / best
        columns = {"score": means[method], "best_peer": names, "best_peer_score": best}
        return pd.DataFrame({**columns, "gain": gain})

    # -- tables and plots

    def to_markdown(self, measure: str | Sequence[str] = "score") -> str:
        """Table of ``mean ± standard deviation`` over the seeds, the best in bold.

        Parameters
        ----------
        measure : str or sequence of str, default="score"
            One or several, see ``table``. Shares become percentages.

        Returns
        -------
        str
            One row per method, and one column for each combination of data set (if several),
            paradigm, kind of images (if it makes a difference) and measure (if several).

        Raises
        ------
        ValueError
            If there is no such measure.
        ImportError
            If tabulate is missing.
        """
        require("Comparison.to_markdown", "compare", "tabulate")
        import pandas as pd

        measures = [measure] if isinstance(measure, str) else list(measure)
        _check_measures(measures)
        columns = {}
        for group, part in self.summary().groupby(level=self.groups, sort=False):
            part = part.droplevel(self.groups)
            for name in measures:
                where = group[:-1] if name in _OF_FIT else group
                head = ", ".join([*where, name] if len(measures) > 1 else where)
                columns[head] = _cells(part[name], part["error", "count"], name)
        cells = pd.DataFrame(columns, index=self.methods).fillna("-")
        cells.index = [name.replace("|", "\\|") for name in self.methods]
        cells = cells.rename_axis("method").reset_index()
        align = ("left", *["right"] * len(columns))
        return cells.to_markdown(index=False, disable_numparse=True, colalign=align)

    def plot(self, *, on: str | None = None) -> Figure:
        """Draw accuracy, worst recall, pseudolabel quality, and cost.

        One panel per measure, one row per method, one dot per seed, and a bar at the mean. Colours
        stand for data sets and paradigms; the dashed lines are the means of zero-shot.

        Parameters
        ----------
        on : {"adapted", "new"} or None, default=None
            The images for accuracy and worst recall. None means the new images, if there are any.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ValueError
            If there are no such images, or more than eight pairs of data set and paradigm; then
            make a Comparison from some rows of ``table``.
        ImportError
            If matplotlib is missing.
        """
        require("Comparison.plot", "compare", "matplotlib")
        from capkit.comparison.plot import draw

        kinds = list(dict.fromkeys(self.table["on"]))
        if on is not None and on not in kinds:
            raise ValueError(f"expected on as one of {kinds}, got {on!r}.")
        on = on or ("new" if "new" in kinds else "adapted")
        return draw(self.table[self.table["on"] == on], self.zero_shot)

    # -- several comparisons, files

    @classmethod
    def concat(cls, comparisons: Mapping[str, Comparison]) -> Comparison:
        """Combine comparisons on several data sets.

        Parameters
        ----------
        comparisons : mapping of str to Comparison
            Comparisons by the name of the data set, which goes into the column ``data``.

        Returns
        -------
        Comparison
        """
        import pandas as pd

        tables = []
        for name, comparison in comparisons.items():
            table = comparison.table.copy()
            table.insert(0, "data", name)
            tables.append(table)
        zero_shots = [comparison.zero_shot for comparison in comparisons.values()]
        zero_shot = next((name for name in zero_shots if name is not None), None)
        return cls(pd.concat(tables, ignore_index=True), zero_shot=zero_shot)

    def to_csv(self, path: str | os.PathLike) -> None:
        """Write the table to a file.

        Parameters
        ----------
        path : path
        """
        self.table.to_csv(path, index=False)

    @classmethod
    def from_csv(cls, path: str | os.PathLike) -> Comparison:
        """Read a file that :meth:`to_csv` wrote.

        Parameters
        ----------
        path : path

        Returns
        -------
        Comparison
        """
        require("Comparison.from_csv", "compare", "pandas")
        import pandas as pd

        missing = {name: [""] for name in MEASURES}  # elsewhere an empty text is a text
        return cls(pd.read_csv(path, keep_default_na=False, na_values=missing))


def _letters(name: str) -> str:
    return "".join(filter(str.isalpha, name.lower()))


def _check_measures(measures: Sequence[str]) -> None:
    unknown = [name for name in measures if name not in MEASURES]
    if unknown or not measures:
        raise ValueError(f"expected measures of {', '.join(MEASURES)}, got {unknown or 'none'}.")


def _cells(numbers: pd.DataFrame, n_failed: pd.Series, measure: str) -> dict[str, str]:
    """Table cells of each method, the best in bold."""
    factor = 1 if measure in _DECIMALS else 100
    decimals = _DECIMALS.get(measure, 1)
    means = (factor * numbers["mean"]).round(decimals)
    best = means.max() if MEASURES[measure] else means.min()
    cells = {}
    for method, mean in means.items():
        text = "-" if np.isnan(mean) else f"{mean:.{decimals}f}"
        deviation = factor * numbers.loc[method, "std"]
        if not np.isnan(deviation):
            text += f" ± {deviation:.{decimals}f}"
        text = f"**{text}**" if mean == best else text
        cells[method] = f"{text} ({n_failed[method]} failed)" if n_failed[method] else text
    return cells
