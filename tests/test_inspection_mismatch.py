"""The picture of mismatch detection shows what was found."""

import numpy as np
import pytest

from capkit import MismatchDetector
from capkit.inspection import MismatchDisplay

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


def many_mismatched(n_mismatched, **changes):
    """200 classes of which the last in the order of the matches are mismatched, with no images."""
    n_classes = 200
    mismatched = np.arange(n_classes - n_mismatched, n_classes)
    counts = np.full(n_classes, 40)
    counts[mismatched] = 0
    values = {
        "position": np.arange(n_classes),
        "prediction_counts": counts,
        "match_confidence": np.linspace(1, 0, n_classes),
        "n_matched": n_classes - n_mismatched,
        "fewest_predicted": mismatched,
        "mismatched": mismatched,
        "class_names": [f"class {index}" for index in range(n_classes)],
    }
    return MismatchDisplay(**{**values, **changes})


def extents(texts, figure):
    figure.canvas.draw()
    # The box of an annotation holds its line too.
    return [plt.Text.get_window_extent(text) for text in texts]


@pytest.mark.parametrize("n_mismatched", [1, 2, 40])
def test_names_of_mismatched_classes_do_not_overlap(n_mismatched):
    display = many_mismatched(n_mismatched).plot()
    boxes = extents(display.labels_, display.figure_)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    right_edge = display.ax_.get_window_extent().x1
    assert all(box.x0 > right_edge for box in boxes)
    assert all(box.x1 <= display.figure_.bbox.x1 for box in boxes)


def test_lines_to_the_names_do_not_cross():
    display = many_mismatched(5).plot()
    heights = [box.y0 for box in extents(display.labels_, display.figure_)]
    assert heights == sorted(heights, reverse=True)  # the rightmost point has the lowest name


def test_names_are_not_read_as_formulas():
    names = ["plain"] * 199 + ["a $5 note or a $10 note"]
    display = many_mismatched(1, class_names=names).plot()
    assert display.labels_[0].get_parse_math() is False
