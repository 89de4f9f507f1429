"""The methods that a comparison includes by default."""

from __future__ import annotations

from sklearn.base import BaseEstimator, clone

from capkit.baselines import (
    CPLClassifier,
    FixMatchClassifier,
    FPLClassifier,
    GaussianTransductionClassifier,
    GRIPClassifier,
    LabelProbe,
    TransCLIPClassifier,
    UPLClassifier,
    ZeroShotClassifier,
    ZLaPClassifier,
)
from capkit.classifier import CAPClassifier
from capkit.tuning import Tuning

__all__ = ["all_methods"]


def all_methods(tuning: Tuning | str = "auto") -> dict[str, BaseEstimator]:
    """Every method of capkit by name: baselines, CAP as in the paper, and CAP with its defaults.

    Parameters
    ----------
    tuning : {"auto", "prompt", "adapter"} or Tuning, default="auto"
        Tuning of all methods that train.

    Returns
    -------
    dict of str to estimator
        Methods for :func:`capkit.compare`; those that train come last.

    Examples
    --------
    >>> from capkit.comparison import all_methods
    >>> list(all_methods("adapter"))[:3]
    ['zero-shot', 'labels alone', 'TransCLIP']
    """
    trained = {
        "UPL": UPLClassifier(),
        "FPL": FPLClassifier(),
        "GRIP": GRIPClassifier(),
        "CPL": CPLClassifier(),
        "FixMatch": FixMatchClassifier(),
        "CAP (paper)": CAPClassifier(pseudo_labels="zero_shot"),
        "CAP": CAPClassifier(),
    }
    return {
        "zero-shot": ZeroShotClassifier(),
        "labels alone": LabelProbe(),
        "TransCLIP": TransCLIPClassifier(),
        "ZLaP": ZLaPClassifier(),
        "Gaussian transduction": GaussianTransductionClassifier(),
        **{
            name: method.set_params(tuning=clone(tuning, safe=False))
            for name, method in trained.items()
        },
    }
