"""What the paper sets for each of its data sets, and the methods that follow from it."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils import Bunch

import capkit.datasets
from capkit.classifier import CAPClassifier
from capkit.comparison import all_methods
from capkit.renewal import MainSampleRenewal
from capkit.tuning import Tuning

__all__ = ["SETTINGS", "PaperSettings", "methods_of"]


@dataclasses.dataclass(frozen=True)
class PaperSettings:
    """Numbers that the paper sets for a data set, and how large that is.

    Attributes
    ----------
    data_set : str
        The set's name; ``capkit.datasets.fetch_NAME`` reads it.
    n_classes, n_train, n_test : int
        Classes, images to adapt to, and test images that the set is expected to have.
    k : int
        Pseudolabels that a class starts with.
    tau : float
        Confidence above which a pseudolabel trains.
    m : float
        Scale of the margin.
    growth : float
        Largest number of main samples of a class, as a share of the images of an average one.
    """

    data_set: str
    n_classes: int
    n_train: int
    n_test: int
    k: int
    tau: float
    m: float
    growth: float

    def fetch(self, data_home: Path | None, split: str) -> Bunch:
        """Read a part of the data set, which is downloaded where it is missing.

        Parameters
        ----------
        data_home : path or None
            Folder of the data sets; None is capkit's own.
        split : {"train", "test"}

        Returns
        -------
        Bunch
            With ``paths``, ``target``, ``class_names`` and ``template``.
        """
        fetch: Callable[..., Bunch] = getattr(capkit.datasets, f"fetch_{self.data_set}")
        return fetch(data_home, split=split)


def _read_settings() -> dict[str, PaperSettings]:
    table = resources.files("capkit.reproduction").joinpath("settings.csv")
    types = {"data_set": str, "tau": float, "m": float, "growth": float}
    rows = csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    values: list[dict[str, Any]] = [
        {name: types.get(name, int)(value) for name, value in row.items()} for row in rows
    ]
    return {row["data_set"]: PaperSettings(**row) for row in values}


#: Settings of each data set by its name, in the order of the paper's table.
SETTINGS = _read_settings()


def methods_of(
    settings: PaperSettings,
    names: Sequence[str] | None = None,
    *,
    tuning: Tuning | str = "prompt",
    describer: Any = None,
) -> dict[str, BaseEstimator]:
    """Methods with what the paper sets for a data set; the peers have their own defaults.

    Parameters
    ----------
    settings : PaperSettings
    names : sequence of str or None, default=None
        Of :func:`capkit.comparison.all_methods`; None are all.
    tuning : {"prompt", "adapter"} or Tuning, default="prompt"
        Of all methods that train.
    describer : callable or None, default=None
        What describes mismatched classes.

    Returns
    -------
    dict of str to estimator

    Raises
    ------
    ValueError
        If there is no such method.
    """
    methods = all_methods(tuning)
    if unknown := [name for name in names or () if name not in methods]:
        raise ValueError(f"expected methods of {', '.join(methods)}, got {unknown[0]!r}.")
    for method in methods.values():
        if isinstance(method, CAPClassifier):
            method.set_params(
                top_k=settings.k,
                tau=settings.tau,
                m=settings.m,
                renewal=MainSampleRenewal(max_share=settings.growth),
                describer=describer,
            )
    return {name: methods[name] for name in names or methods}
