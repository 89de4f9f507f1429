"""The picture of label numbers shows how many images have which label."""

import numpy as np
import pytest

from capkit.baselines import GaussianTransductionClassifier, ZeroShotClassifier
from capkit.datasets import make_concept_space
from capkit.exceptions import LabelError
from capkit.inspection import LabelDistributionDisplay

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def planted_problem():
    return make_concept_space(random_state=0)


def row_names(display):
    return [label.get_text() for label in display.ax_.get_yticklabels()]


def test_counts_by_hand():
    display = LabelDistributionDisplay.from_predictions(
        ["a", "b", "b", None], [0, 0, 0, 2], class_names=["a", "b", "c", "d"]
    )
    np.testing.assert_array_equal(display.after, [1, 2, 0, 0])
    np.testing.assert_array_equal(display.before, [3, 0, 1, 0])
    assert row_names(display) == ["a", "c", "b", "d"], "a class without an image is seen"
    np.testing.assert_array_equal(
        display.after_points_.get_offsets(), [[1, 0], [0, 1], [2, 2], [0, 3]]
    )
    (mean,) = (line for line in display.ax_.get_lines() if line.get_label() == "mean")
    assert mean.get_xdata()[0] == 3 / 4


def test_one_labelling_is_drawn_from_zero_and_sorted_by_itself():
    display = LabelDistributionDisplay.from_predictions([1, 1, 0, 2, 2, 2])
    assert display.before is None and display.before_points_ is None
    assert row_names(display) == ["2", "1", "0"]
    ends = [segment[:, 0].tolist() for segment in display.lines_.get_segments()]
    assert ends == [[0, 3], [0, 2], [0, 1]]


def test_many_classes_show_those_that_changed_most():
    before, after = np.full(200, 40), np.full(200, 40)
    before[[5, 9]] = 0, 45
    names = [f"class {index}" for index in range(200)]
    display = LabelDistributionDisplay(after=after, before=before, class_names=names)
    assert display.plot(max_classes=2).shown_.tolist() == [9, 5]
    assert "2 of 200 classes, those that changed most" in display.ax_.get_xlabel()


def test_many_classes_of_one_labelling_show_those_furthest_from_the_mean():
    after = np.full(200, 40)
    after[[5, 9]] = 0, 80
    names = [f"class {index}" for index in range(200)]
    display = LabelDistributionDisplay(after=after, class_names=names).plot(max_classes=2)
    assert display.shown_.tolist() == [9, 5]
    assert "furthest from the mean" in display.ax_.get_xlabel()


def test_a_space_is_compared_with_zero_shot(planted_problem):
    space = planted_problem.space
    classifier = GaussianTransductionClassifier().fit(space)
    display = LabelDistributionDisplay.from_estimator(classifier, space)
    np.testing.assert_array_equal(display.before, np.bincount(space.predict(), minlength=20))
    predicted = classifier.predict(space)
    expected = [np.sum(predicted == name) for name in space.class_names]
    np.testing.assert_array_equal(display.after, expected)
    given = LabelDistributionDisplay.from_estimator(
        classifier, space, before=ZeroShotClassifier().fit(space)
    )
    np.testing.assert_array_equal(given.before, display.before)


def test_labellings_of_different_images_are_an_error():
    with pytest.raises(LabelError, match="expected a label for each of 3 images, got 2"):
        LabelDistributionDisplay.from_predictions([0, 1, 2], [0, 1])


def test_numbers_are_compared_from_zero():
    names = [f"class {index}" for index in range(10)]
    display = LabelDistributionDisplay(after=np.arange(90, 100), class_names=names)
    for before in (None, np.full(10, 95)):
        display.before = before
        left, right = display.plot().ax_.get_xlim()
        assert -0.05 * right < left < 0
