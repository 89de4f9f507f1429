"""The commands of the command line as Python functions."""

from capkit.commands.compare import compare_folder
from capkit.commands.demo import Demo, run_demo
from capkit.commands.info import describe_installation
from capkit.commands.inspect import Inspection, inspect_folder
from capkit.commands.label import Labeling, label_folder
from capkit.commands.predict import Prediction, predict_folder
from capkit.commands.reproduce import estimate_reproduction, reproduce_paper

__all__ = [
    "Demo",
    "Inspection",
    "Labeling",
    "Prediction",
    "compare_folder",
    "describe_installation",
    "estimate_reproduction",
    "inspect_folder",
    "label_folder",
    "predict_folder",
    "reproduce_paper",
    "run_demo",
]
