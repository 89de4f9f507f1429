"""How the main samples of a training are renewed."""

from __future__ import annotations

from numbers import Integral, Real

from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval

__all__ = ["MainSampleRenewal"]


class MainSampleRenewal(BaseEstimator):
    """How often the main samples are renewed, and how many a class may have.

    A training starts with ``k`` main samples per class. At a renewal each class takes its most
    confident pseudolabeled images of the epoch, then its previous main samples, up to a number
    that grows with the epochs; see :func:`capkit.pseudolabels.main_sample_target` (method, section
    3).

    Parameters
    ----------
    every : int or None, default=5
        Number of epochs between renewals. None means no renewal.
    ramp_fraction : float, default=0.7
        Fraction of the epochs after which the number of main samples per class reaches its
        maximum.
    max_share : float, default=0.8
        This maximum, as a fraction of the unlabeled images of an average class ... The official
        code uses 0.6 for FGVCAircraft.
    max_per_class : int, default=1000
        ... but at most this number.

    Examples
    --------
    >>> from capkit import CAPClassifier, MainSampleRenewal
    >>> CAPClassifier(renewal=MainSampleRenewal(every=None)).renewal
    MainSampleRenewal(every=None)
    """

    _parameter_constraints: dict = {
        "every": [Interval(Integral, 1, None, closed="left"), None],
        "ramp_fraction": [Interval(Real, 0, 1, closed="right")],
        "max_share": [Interval(Real, 0, 1, closed="both")],
        "max_per_class": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        every: int | None = 5,
        ramp_fraction: float = 0.7,
        max_share: float = 0.8,
        max_per_class: int = 1000,
    ) -> None:
        self.every = every
        self.ramp_fraction = ramp_fraction
        self.max_share = max_share
        self.max_per_class = max_per_class
