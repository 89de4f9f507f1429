"""capkit: adapt CLIP-like vision-language models to your own classes with few or no labels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Where each public name lives; loaded when first asked for, so that `import capkit` stays quick.
_NAMES = {
    "CAPClassifier": "capkit.classifier",
    "CLIPEncoder": "capkit.encoder",
    "Comparison": "capkit.comparison",
    "ConceptAligner": "capkit.alignment",
    "ConceptSpace": "capkit.space",
    "GaussianTransduction": "capkit.transduction",
    "MainSampleRenewal": "capkit.renewal",
    "MarginCalibrator": "capkit.margins",
    "MismatchDetector": "capkit.mismatch",
    "compare": "capkit.comparison",
}
_MODULES = (
    "backbones",
    "baselines",
    "commands",
    "comparison",
    "datasets",
    "describers",
    "exceptions",
    "export",
    "image_files",
    "inspection",
    "labels",
    "metrics",
    "model_selection",
    "report",
    "tuning",
)

__all__ = [
    "CAPClassifier",
    "CLIPEncoder",
    "Comparison",
    "ConceptAligner",
    "ConceptSpace",
    "GaussianTransduction",
    "MainSampleRenewal",
    "MarginCalibrator",
    "MismatchDetector",
    "__version__",
    "backbones",
    "baselines",
    "commands",
    "compare",
    "comparison",
    "datasets",
    "describers",
    "exceptions",
    "export",
    "image_files",
    "inspection",
    "labels",
    "metrics",
    "model_selection",
    "report",
    "tuning",
]

if TYPE_CHECKING:
    import capkit.backbones as backbones
    import capkit.baselines as baselines
    import capkit.commands as commands
    import capkit.comparison as comparison
    import capkit.datasets as datasets
    import capkit.describers as describers
    import capkit.exceptions as exceptions
    import capkit.export as export
    import capkit.image_files as image_files
    import capkit.inspection as inspection
    import capkit.labels as labels
    import capkit.metrics as metrics
    import capkit.model_selection as model_selection
    import capkit.report as report
    import capkit.tuning as tuning
    from capkit.alignment import ConceptAligner
    from capkit.classifier import CAPClassifier
    from capkit.comparison import Comparison, compare
    from capkit.encoder import CLIPEncoder
    from capkit.margins import MarginCalibrator
    from capkit.mismatch import MismatchDetector
    from capkit.renewal import MainSampleRenewal
    from capkit.space import ConceptSpace
    from capkit.transduction import GaussianTransduction


def __getattr__(name: str):
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"capkit.{name}")
    raise AttributeError(f"module 'capkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
