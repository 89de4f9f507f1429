"""The picture of reliability shows scikit-learn's curve of being right."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from capkit.baselines import ZeroShotClassifier
from capkit.datasets import make_concept_space
from capkit.exceptions import LabelError
from capkit.inspection import ReliabilityDisplay

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


def drawn_problem(n_images=400, n_classes=6):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(n_classes, 0.3), n_images)
    return probabilities, rng.integers(0, n_classes, n_images)


def test_the_curve_by_hand():
    probabilities = [[0.9, 0.1], [0.8, 0.2], [0.45, 0.55], [0.42, 0.58]]
    display = ReliabilityDisplay.from_predictions(
        ["a", "b", "b", "b"], probabilities, classes=["a", "b"], n_bins=2
    )
    assert display.counts.tolist() == [0, 4]
    np.testing.assert_allclose(display.line_.get_xydata(), [[0.7075, 0.75]])
    assert display.calibration_error_ == pytest.approx(0.0425)


def test_calibration_error_weighs_bins_by_their_images():
    probabilities = [[0.9, 0.1]] * 3 + [[0.4, 0.6]]
    display = ReliabilityDisplay.from_predictions(
        [0, 0, 1, 0], probabilities, classes=[0, 1], n_bins=10
    )
    expected = 3 / 4 * (0.9 - 2 / 3) + 1 / 4 * 0.6
    assert display.calibration_error_ == pytest.approx(expected)
    text = display.axes_[0].get_legend().get_texts()[1].get_text()
    assert text == f"expected calibration error {expected:.1%}"


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_the_curve_is_scikit_learns_of_being_right(strategy):
    probabilities, truth = drawn_problem()
    display = ReliabilityDisplay.from_predictions(
        truth, probabilities, classes=range(6), n_bins=8, strategy=strategy
    )
    right = probabilities.argmax(axis=1) == truth
    accuracy, confidence = calibration_curve(
        right, probabilities.max(axis=1), n_bins=8, strategy=strategy
    )
    np.testing.assert_allclose(display.line_.get_xydata(), np.column_stack([confidence, accuracy]))


def test_the_histogram_holds_every_labeled_image_once():
    probabilities, truth = drawn_problem()
    labels = np.where(np.arange(400) < 100, -1, truth)
    display = ReliabilityDisplay.from_predictions(labels, probabilities, classes=range(6))
    assert display.counts.sum() == 300
    expected, _ = np.histogram(probabilities[100:].max(axis=1), display.edges)
    assert [bar.get_height() for bar in display.bars_] == expected.tolist()


def test_quantiles_of_equal_confidences_are_fewer_bins():
    display = ReliabilityDisplay.from_predictions(
        [0, 1, 0, 1], [[1.0, 0.0]] * 4, classes=[0, 1], strategy="quantile"
    )
    assert display.edges.tolist() == [0, 1]
    assert display.calibration_error_ == 0.5


def test_columns_have_the_labels_that_are_given():
    display = ReliabilityDisplay.from_predictions(
        ["b", "a"], [[0.2, 0.8], [0.8, 0.2]], classes=["a", "b"]
    )
    assert display.accuracy[~np.isnan(display.accuracy)].tolist() == [1.0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_bins": 0}, ValueError, "expected n_bins as a whole number above 0, got 0"),
        ({"strategy": "even"}, ValueError, "'uniform' or 'quantile', got 'even'"),
        ({"y_true": ["a", "b"]}, LabelError, "label 'a' is none of the 2 classes"),
        ({"y_true": [-1, None]}, LabelError, "at least one image in y_true"),
        ({"y_true": [0]}, LabelError, "got 1 and 2 of them"),
        ({"classes": [0, 1, 2]}, ValueError, r"shape \(n_images, 3\)"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(changes, error, message):
    arguments = {"y_true": [0, 1], "probabilities": np.eye(2), "classes": [0, 1]}
    with pytest.raises(error, match=message):
        ReliabilityDisplay.from_predictions(**{**arguments, **changes})


def test_a_classifier_takes_names_and_indices(planted_problem):
    space, target = planted_problem.space, planted_problem.target
    classifier = ZeroShotClassifier().fit(space)
    by_index = ReliabilityDisplay.from_estimator(classifier, space, target)
    names = np.array(space.class_names)[target]
    by_name = ReliabilityDisplay.from_estimator(classifier, space, names)
    by_hand = ReliabilityDisplay.from_predictions(
        names, classifier.predict_proba(space), classes=classifier.classes_
    )
    np.testing.assert_array_equal(by_index.accuracy, by_hand.accuracy)
    np.testing.assert_array_equal(by_name.accuracy, by_hand.accuracy)
    assert by_index.name == "ZeroShotClassifier"


def test_the_panels_take_the_place_of_given_axes():
    figure, (_, right) = plt.subplots(1, 2, layout="constrained")
    probabilities, truth = drawn_problem()
    display = ReliabilityDisplay.from_predictions(truth, probabilities, classes=range(6), ax=right)
    assert display.figure_ is figure
    figure.canvas.draw()
    place = right.get_window_extent().padded(1)
    for panel in display.axes_:
        box = panel.get_window_extent()
        assert place.contains(box.x0, box.y0) and place.contains(box.x1, box.y1)
    above, below = (panel.get_window_extent() for panel in display.axes_)
    assert below.y1 < above.y0
