"""What was published for the paper's experiment."""

from __future__ import annotations

import csv
from importlib import resources
from typing import NamedTuple

__all__ = ["NOTES", "Reported", "read_reported"]

#: What is to be known of some of the figures.
NOTES = {
    "zero_shot": "The authors of GRIP publish this figure for trzsl, and another one for ul.",
    "resisc45": "The paradigm of this column could not be checked. It is taken to be ssl, for "
    "which the authors of GRIP publish 74.1; in ul they have 70.6.",
}


class Reported(NamedTuple):
    """A published figure.

    Attributes
    ----------
    accuracy : str
        In percent, with the decimals that it was published with.
    note : str
        What is to be known of it; may be empty.
    """

    accuracy: str
    note: str


def read_reported(data_set: str, paradigm: str) -> dict[str, Reported]:
    """Figures that were published for a data set and paradigm with ViT-B/32, by the method.

    Parameters
    ----------
    data_set : str
    paradigm : {"ul", "ssl", "trzsl"}

    Returns
    -------
    dict of str to Reported
        Empty where there are none.
    """
    table = resources.files("capkit.reproduction").joinpath("reported.csv")
    rows = csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    return {
        row["method"]: Reported(row["accuracy"], NOTES.get(row["note"], ""))
        for row in rows
        if (row["data_set"], row["paradigm"]) == (data_set, paradigm)
    }
