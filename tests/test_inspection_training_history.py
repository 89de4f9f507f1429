"""The picture of a training shows the numbers of its history."""

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from capkit import CAPClassifier, MismatchDetector
from capkit.baselines import FPLClassifier, ZeroShotClassifier
from capkit.inspection import TrainingHistoryDisplay
from capkit.tuning import AdapterTuning

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


QUICK = AdapterTuning(epochs=3, steps_per_epoch=2)


@pytest.fixture(scope="module")
def trained(planted_space):
    return CAPClassifier(tuning=QUICK, pseudo_labels="zero_shot", random_state=0).fit(
        planted_space
    )


def test_every_number_of_the_history_is_drawn(trained):
    display = TrainingHistoryDisplay.from_estimator(trained)
    not_drawn = {"epoch", "class_counts"}  # a list of numbers an epoch
    assert set(display.lines_) == set(trained.history_[0]) - not_drawn
    for name, line in display.lines_.items():
        expected = [(row["epoch"], row[name]) for row in trained.history_]
        np.testing.assert_array_equal(line.get_xydata(), expected)


def test_panels_of_a_training_of_cap(trained):
    display = TrainingHistoryDisplay.from_estimator(trained)
    assert display.panels_ == ["loss", "share", "main samples", "margin", "learning rate"]
    assert [panel.get_ylabel() for panel in display.axes_] == display.panels_
    assert display.lines_["pseudo_loss"].axes is display.axes_[0]


def test_panels_share_the_epochs(trained):
    display = TrainingHistoryDisplay.from_estimator(trained)
    display.axes_[2].set_xlim(1, 2)
    assert all(panel.get_xlim() == (1, 2) for panel in display.axes_)
    assert [panel.get_xlabel() for panel in display.axes_] == [""] * 4 + ["epoch"]


def test_a_training_without_a_margin_has_no_panel_of_it(planted_space):
    peer = FPLClassifier(tuning=QUICK, random_state=0).fit(planted_space)
    display = TrainingHistoryDisplay.from_estimator(peer)
    assert "margin" not in display.panels_ and "kept" not in display.lines_
    assert "main_loss" in display.lines_


def test_a_pipeline_shows_the_training_of_its_last_step(planted_space):
    pipeline = make_pipeline(
        MismatchDetector(random_state=0, n_init=1),
        CAPClassifier(tuning=QUICK, pseudo_labels="zero_shot", random_state=0),
    ).fit(planted_space)
    display = TrainingHistoryDisplay.from_estimator(pipeline)
    assert display.history is pipeline[-1].history_


def test_no_training_is_an_error_that_says_why():
    with pytest.raises(ValueError, match=r"nothing was trained.*adaptation_report_"):
        TrainingHistoryDisplay.from_history([])


def test_a_classifier_that_never_trains_is_an_error(planted_space):
    classifier = ZeroShotClassifier().fit(planted_space)
    with pytest.raises(TypeError, match="a history_ of its epochs, got ZeroShotClassifier"):
        TrainingHistoryDisplay.from_estimator(classifier)


def test_lines_of_a_panel_differ_in_colour_and_shape():
    names = [f"{name}_loss" for name in ("labeled", "main", "pseudo")]
    row = {"epoch": 1, "loss": 3.0, **dict.fromkeys(names, 1.0)}
    display = TrainingHistoryDisplay.from_history([row])
    looks = [(line.get_color(), line.get_marker()) for line in display.lines_.values()]
    assert len(looks) == 4
    assert all(len(set(part)) == 4 for part in zip(*looks, strict=True))
