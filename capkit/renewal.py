"""How the main samples of a training are renewed."""

from __future__ import annotations

from numbers import Integral, Real

from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval

__all__ = ["MainSampleRenewal"]


class MainSampleRenewal(BaseEstimator):
    """How often, and up to which number, the main samples of a class are chosen anew.

    A training starts with ``k`` main samples a class. At a renewal each class takes its most
    confident pseudolabeled images of the epoch, then the ones that it had, up to a number that
    grows with the epochs; see :func:`capkit.pseudolabels.main_sample_target` (method, section 3).

    Parameters
    ----------
    every : int or None, default=5
        Epochs between two renewals. None never renews.
    ramp_fraction : float, default=0.7
        Share of the epochs after which a class may have its largest number of main samples.
    max_share : float, default=0.8
        That largest number, as a share of the unlabeled images of an average class ...
        The official code has 0.6 for FGVCAircraft.
    max_per_class : int, default=1000
        ... and at most this.

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
