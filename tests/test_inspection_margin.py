"""The picture of a margin matrix shows its numbers."""

from itertools import pairwise

import numpy as np
import pytest

from capkit import CAPClassifier, MarginCalibrator
from capkit.inspection import MarginDisplay
from capkit.tuning import AdapterTuning

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_margin_display_shows_the_matrix_without_its_diagonal(planted_space):
    calibrator = MarginCalibrator().fit(planted_space)
    display = MarginDisplay.from_estimator(calibrator)
    shown = display.image_.get_array().filled(np.nan)
    off_diagonal = ~np.eye(20, dtype=bool)
    np.testing.assert_array_equal(shown[off_diagonal], calibrator.margin_matrix_[off_diagonal])
    assert np.isnan(np.diagonal(shown)).all()


def tick_labels(display):
    return [
        [label.get_text() for label in labels]
        for labels in (display.ax_.get_xticklabels(), display.ax_.get_yticklabels())
    ]


def test_margin_display_takes_the_names_of_the_estimator(planted_space):
    calibrator = MarginCalibrator().fit(planted_space)
    names = list(planted_space.class_names)
    assert tick_labels(MarginDisplay.from_estimator(calibrator)) == [names, names]


def test_margin_display_takes_given_names_before_those_of_the_estimator(planted_space):
    calibrator = MarginCalibrator().fit(planted_space)
    names = [f"no. {index}" for index in range(20)]
    display = MarginDisplay.from_estimator(calibrator, class_names=names)
    assert tick_labels(display) == [names, names]


def test_margin_display_numbers_the_classes_of_an_estimator_without_names():
    calibrator = MarginCalibrator().fit_from_predictions(np.eye(2), np.eye(2), [0, 1], [0.9, 0.9])
    assert calibrator.class_names_ is None
    assert tick_labels(MarginDisplay.from_estimator(calibrator)) == [["0", "1"], ["0", "1"]]


def test_margin_display_of_a_classifier_has_its_names(planted_space):
    classifier = CAPClassifier(
        tuning=AdapterTuning(epochs=2, steps_per_epoch=2), random_state=0
    ).fit(planted_space)
    display = MarginDisplay.from_estimator(classifier)
    names = list(planted_space.class_names)
    assert tick_labels(display) == [names, names]
    off_diagonal = ~np.eye(20, dtype=bool)
    np.testing.assert_array_equal(
        display.image_.get_array().filled(np.nan)[off_diagonal],
        classifier.margin_matrix_[off_diagonal],
    )


def test_margin_display_of_many_classes_shows_those_with_the_largest_margins():
    scale = np.array([0.0, 5.0, 1.0, 7.0])
    display = MarginDisplay.from_matrix(np.ones((4, 4)) * scale[:, None], max_classes=2)
    assert display.shown_.tolist() == [1, 3]
    assert [label.get_text() for label in display.ax_.get_xticklabels()] == ["1", "3"]
    np.testing.assert_array_equal(display.image_.get_array().filled(0), [[0, 5], [7, 0]])


def test_margin_display_refuses_names_of_the_wrong_number():
    with pytest.raises(ValueError, match=r"expected 3 class_names, one a row.*got 1"):
        MarginDisplay.from_matrix(np.eye(3), class_names=["a"])


def test_margin_display_draws_into_given_axes():
    _, ax = plt.subplots()
    assert MarginDisplay.from_matrix(np.eye(3), ax=ax).ax_ is ax


@pytest.mark.parametrize("max_classes", [0, 2.5, "all"])
def test_margin_display_refuses_a_number_of_classes_that_is_none(max_classes):
    with pytest.raises(ValueError, match="expected max_classes as a whole number above 0"):
        MarginDisplay.from_matrix(np.eye(3), max_classes=max_classes)


def test_margin_display_says_how_many_classes_it_shows():
    assert MarginDisplay.from_matrix(np.eye(3)).ax_.get_xlabel() == "other class"
    display = MarginDisplay.from_matrix(np.eye(50), max_classes=20)
    assert "20 of 50 classes" in display.ax_.get_xlabel()
    everything = MarginDisplay.from_matrix(np.eye(50), max_classes=None)
    assert len(everything.shown_) == 50


@pytest.mark.parametrize(("n_classes", "max_classes"), [(10, 30), (200, 30), (60, None)])
def test_margin_display_keeps_its_names_apart(n_classes, max_classes):
    names = [f"a class with a long name {index}" for index in range(n_classes)]
    display = MarginDisplay.from_matrix(
        np.eye(n_classes), class_names=names, max_classes=max_classes
    )
    display.figure_.canvas.draw()
    for labels in (display.ax_.get_xticklabels(), display.ax_.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))
