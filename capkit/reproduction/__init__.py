"""The paper's experiment: settings, protocol, published figures, and how long it takes."""

from capkit.reproduction.estimate import Estimate, SetEstimate, StepCost
from capkit.reproduction.result import Reproduction
from capkit.reproduction.settings import SETTINGS, PaperSettings

__all__ = [
    "SETTINGS",
    "Estimate",
    "PaperSettings",
    "Reproduction",
    "SetEstimate",
    "StepCost",
]
