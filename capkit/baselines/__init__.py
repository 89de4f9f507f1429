"""Baselines for CAP: other ways to classify with the same model and images."""

from capkit.baselines.cpl import CPLClassifier
from capkit.baselines.fixmatch import FixMatchClassifier
from capkit.baselines.fpl import FPLClassifier
from capkit.baselines.gaussian import GaussianTransductionClassifier
from capkit.baselines.grip import GRIPClassifier
from capkit.baselines.probe import LabelProbe
from capkit.baselines.transclip import TransCLIPClassifier
from capkit.baselines.upl import UPLClassifier
from capkit.baselines.zero_shot import ZeroShotClassifier
from capkit.baselines.zlap import ZLaPClassifier

__all__ = [
    "CPLClassifier",
    "FPLClassifier",
    "FixMatchClassifier",
    "GRIPClassifier",
    "GaussianTransductionClassifier",
    "LabelProbe",
    "TransCLIPClassifier",
    "UPLClassifier",
    "ZLaPClassifier",
    "ZeroShotClassifier",
]
