"""Displays of results and training. Needs matplotlib (``pip install capkit-clip[plot]``)."""

from capkit.inspection.confusion_pairs import ConfusionPairsDisplay
from capkit.inspection.label_distribution import LabelDistributionDisplay
from capkit.inspection.margin import MarginDisplay
from capkit.inspection.mismatch import MismatchDisplay
from capkit.inspection.recall import RecallDisplay
from capkit.inspection.reliability import ReliabilityDisplay
from capkit.inspection.training_history import TrainingHistoryDisplay

__all__ = [
    "ConfusionPairsDisplay",
    "LabelDistributionDisplay",
    "MarginDisplay",
    "MismatchDisplay",
    "RecallDisplay",
    "ReliabilityDisplay",
    "TrainingHistoryDisplay",
]
