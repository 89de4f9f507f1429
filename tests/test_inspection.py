"""What holds for all displays."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from capkit import inspection

ROOT = Path(__file__).parents[1]
DISPLAYS = {
    "ConfusionPairsDisplay": {"confusions": np.array([[0, 3], [3, 0]]), "class_names": "ab"},
    "LabelDistributionDisplay": {"after": np.array([2, 1]), "class_names": "ab"},
    "MarginDisplay": {"margin_matrix": np.eye(2), "class_names": "ab"},
    "MismatchDisplay": {
        "position": np.arange(2),
        "prediction_counts": np.array([3, 0]),
        "match_confidence": np.array([0.9, 0.2]),
        "n_matched": 1,
        "fewest_predicted": np.array([1]),
        "mismatched": np.array([1]),
        "class_names": "ab",
    },
    "RecallDisplay": {"before": np.zeros(2), "after": np.ones(2), "class_names": "ab"},
    "ReliabilityDisplay": {
        "edges": np.array([0, 0.5, 1]),
        "counts": np.array([2, 0]),
        "confidence": np.array([0.4, np.nan]),
        "accuracy": np.array([0.5, np.nan]),
    },
    "TrainingHistoryDisplay": {"history": [{"epoch": 1, "loss": 1.0, "learning_rate": 0.1}]},
}


def test_every_display_is_tested_here():
    assert set(DISPLAYS) == set(inspection.__all__)


@pytest.mark.parametrize("name", DISPLAYS)
def test_plot_draws_into_given_axes_and_gives_the_display(name):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2)
    display = getattr(inspection, name)(**DISPLAYS[name])
    assert display.plot(ax=right) is display
    assert display.figure_ is figure
    assert not left.has_data()
    if hasattr(display, "ax_"):
        assert display.ax_ is right
    else:
        assert all(panel in right.child_axes for panel in display.axes_)
    plt.close(figure)


def test_displays_can_be_imported_without_matplotlib_and_say_what_is_missing():
    code = """
import sys
sys.modules["matplotlib"] = None
from capkit.inspection import RecallDisplay
try:
    RecallDisplay.from_predictions([0, 1], [0, 1], [0, 1])
except ImportError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "RecallDisplay.plot requires matplotlib" in result.stdout
