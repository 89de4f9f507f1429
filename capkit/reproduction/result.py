"""What an experiment found, beside what was published."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from capkit.comparison import Comparison
from capkit.reproduction.reported import Reported, read_reported
from capkit.tuning import PromptTuning, Tuning

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Reproduction", "changed_parameters", "departures_of"]

# open_clip has OpenAI's weights under both names.
_PAPER_BACKBONES = ("ViT-B-32/openai", "ViT-B-32-quickgelu/openai")
_MARKS = "*†‡"


def changed_parameters(tuning: Tuning) -> dict[str, object]:
    """Parameters of a training that are not the paper's.

    Parameters
    ----------
    tuning : Tuning

    Returns
    -------
    dict of str to object
        In the order of their names.
    """
    defaults = type(tuning)().get_params()
    return {name: value for name, value in tuning.get_params().items() if value != defaults[name]}


def departures_of(backbone: str | None, tuning: Tuning) -> tuple[str, ...]:
    """What makes an experiment another one than the paper's, so that figures cannot be compared.

    Parameters
    ----------
    backbone : str or None
        Its name.
    tuning : Tuning

    Returns
    -------
    tuple of str
        Empty where it is the paper's.
    """
    found = [] if backbone in _PAPER_BACKBONES else [f"the backbone is {backbone}"]
    if not isinstance(tuning, PromptTuning):
        found.append(f"tuning is {tuning.name}, not prompt")
    defaults = type(tuning)().get_params()
    found += [
        f"{name} is {value}, not {defaults[name]}"
        for name, value in changed_parameters(tuning).items()
    ]
    return tuple(found)


class Reproduction:
    """Accuracies of each data set and paradigm; what a reproduction of the paper gives.

    Parameters
    ----------
    comparisons : mapping of (str, str) to Comparison
        By data set and paradigm.
    departures : mapping of str to tuple of str, default={}
        By data set what makes it another experiment than the paper's; published figures are
        left out then.
    written : tuple of Path, default=()
        Files with all numbers.

    Attributes
    ----------
    comparisons : mapping of (str, str) to Comparison
    departures : mapping of str to tuple of str
    written : tuple of Path

    Examples
    --------
    >>> from capkit import compare
    >>> from capkit.baselines import ZeroShotClassifier
    >>> from capkit.datasets import make_concept_space
    >>> from capkit.reproduction import Reproduction
    >>> problem = make_concept_space(random_state=0)
    >>> methods = {"zero-shot": ZeroShotClassifier()}
    >>> comparison = compare(methods, problem.space, problem.target, seeds=[0])
    >>> Reproduction({("dtd", "ul"): comparison}).comparisons["dtd", "ul"].methods
    ['zero-shot']
    """

    def __init__(
        self,
        comparisons: Mapping[tuple[str, str], Comparison],
        departures: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        written: tuple[Path, ...] = (),
    ) -> None:
        self.comparisons = comparisons
        self.departures = departures
        self.written = written

    def __repr__(self) -> str:
        places = ", ".join(f"{data_set} {paradigm}" for data_set, paradigm in self.comparisons)
        return f"Reproduction({places})"

    @property
    def table(self) -> pd.DataFrame:
        """All rows of all comparisons, with a column ``data``."""
        import pandas as pd

        tables = []
        for (data_set, _), comparison in self.comparisons.items():
            table = comparison.table.copy()
            table.insert(0, "data", data_set)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def to_markdown(self) -> str:
        """A table for each data set and paradigm: method, ours, and what was published.

        Returns
        -------
        str
            Percent on the test images, mean and standard deviation over the seeds.
        """
        return "\n\n".join(
            "\n".join(self._section(*place, comparison))
            for place, comparison in self.comparisons.items()
        )

    def _section(self, data_set: str, paradigm: str, comparison: Comparison) -> Iterator[str]:
        departures = self.departures.get(data_set, ())
        reported = read_reported(data_set, paradigm)
        notes = list(dict.fromkeys(figure.note for figure in reported.values() if figure.note))
        marks = dict(zip(notes, _MARKS, strict=False)) | {"": ""}
        yield f"{data_set}, {paradigm}\n"
        rows = [("method", "ours", "reported"), (":--", "--:", "--:")]
        means = comparison.summary().xs("new", level="on").droplevel("paradigm")
        for method, row in means.iterrows():
            score = _cell(row["score", "mean"], row["score", "std"], row["error", "count"])
            figure = reported.get(str(method), Reported("", ""))
            rows.append((str(method), score, figure.accuracy + marks[figure.note]))
        # Figures of another experiment have nothing to be held against.
        yield from (f"| {' | '.join(row[:2] if departures else row)} |" for row in rows)
        yield f"\n{_caption(paradigm, comparison.table['seed'].nunique())}"
        if departures:
            yield f"This is not the paper's experiment: {'; '.join(departures)}."
        else:
            yield from (f"{marks[note]} {note}" for note in notes)


def _caption(paradigm: str, n_seeds: int) -> str:
    measure = "Accuracy"
    if paradigm == "trzsl":
        measure = "Harmonic mean of the accuracies of seen and unseen classes"
    seeds = "one seed" if n_seeds == 1 else f"mean ± standard deviation of {n_seeds} seeds"
    return f"{measure} in percent on test images, {seeds}."


def _cell(mean: float, deviation: float, n_failed: int) -> str:
    words = "-" if math.isnan(mean) else f"{100 * mean:.1f}"
    if not math.isnan(deviation):
        words += f" ± {100 * deviation:.1f}"
    return f"{words} ({n_failed:.0f} failed)" if n_failed else words
