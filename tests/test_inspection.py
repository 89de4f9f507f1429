"""The pictures show the numbers that the stages found."""

import numpy as np
import pytest

from capkit import CAPClassifier, MarginCalibrator, MismatchDetector
from capkit.inspection import MarginDisplay, MismatchDisplay
from capkit.tuning import AdapterTuning

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def detector(planted_space):
    return MismatchDetector(random_state=0).fit(planted_space)


def test_mismatch_display_places_every_class(detector):
    display = MismatchDisplay.from_estimator(detector)
    points = np.asarray(display.points_.get_offsets())
    np.testing.assert_array_equal(points[:, 1], detector.prediction_counts_)
    np.testing.assert_array_equal(points[detector.match_order_, 0], np.arange(18))
    np.testing.assert_array_equal(np.sort(points[detector.unmatched_, 0]), [18, 19])
    np.testing.assert_array_equal(display.points_.get_array(), detector.match_confidence_)
    names = [label.get_text() for label in display.labels_]
    assert names == [detector.class_names_[index] for index in detector.mismatched_]


def test_mismatched_classes_are_in_the_corner(detector):
    display = MismatchDisplay.from_estimator(detector)
    below, left_over = (line.get_xydata()[0] for line in display.ax_.get_lines())
    points = np.asarray(display.points_.get_offsets())
    in_corner = (points[:, 0] > left_over[0]) & (points[:, 1] < below[1])
    np.testing.assert_array_equal(np.flatnonzero(in_corner), detector.mismatched_)


def test_mismatch_display_where_nothing_was_looked_for(planted_space):
    detector = MismatchDetector(t=0, n_init=1, random_state=0).fit(planted_space)
    display = MismatchDisplay.from_estimator(detector)
    assert display.labels_ == [] and len(display.ax_.get_lines()) == 0


def test_mismatch_display_draws_into_given_axes(detector):
    _, ax = plt.subplots()
    display = MismatchDisplay.from_estimator(detector, ax=ax)
    assert display.ax_ is ax and display.figure_ is ax.figure


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
