"""The picture of confused pairs counts them, with labels and without."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix

from capkit.baselines import ZeroShotClassifier
from capkit.datasets import make_concept_space
from capkit.exceptions import LabelError
from capkit.inspection import ConfusionPairsDisplay
from capkit.metrics import expected_confusions

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


def test_confusions_count_both_ways():
    display = ConfusionPairsDisplay.from_predictions(
        ["cat", "dog", "dog", "fox", "fox"], ["dog", "cat", "cat", "cat", "fox"]
    )
    assert row_names(display) == ["cat / dog", "cat / fox"]
    assert display.counts_.tolist() == [3, 1]
    assert display.pairs_.tolist() == [[0, 1], [0, 2]]
    assert [bar.get_width() for bar in display.bars_] == [3, 1]


def test_images_without_a_label_or_a_prediction_do_not_count():
    display = ConfusionPairsDisplay.from_predictions([0, -1, 1, None], [1, 0, -1, 1])
    assert display.counts_.tolist() == [1]


def test_where_nothing_is_confused_nothing_is_drawn():
    display = ConfusionPairsDisplay.from_predictions([0, 1], [0, 1])
    assert len(display.pairs_) == 0 and len(display.bars_) == 0
    display.figure_.canvas.draw()


def test_expected_confusions_are_those_of_the_metric():
    probabilities = np.array([[0.5, 0.5, 0.0], [0.25, 0.0, 0.75]])
    display = ConfusionPairsDisplay.from_probabilities(probabilities, ["a", "b", "c"])
    assert row_names(display) == ["a / b", "a / c"]
    np.testing.assert_allclose(display.counts_, [0.25, 0.1875])


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([[0.5, 0.5]], r"shape \(n_images, 3\).*got shape \(1, 2\)"),
        ([[1.0, 0.0, 0.0], [3.0, -1.0, -1.0]], "in row 1"),
        ([[np.nan, 0.5, 0.5]], "in row 0"),
    ],
)
def test_what_is_no_probability_is_an_error(probabilities, message):
    with pytest.raises(ValueError, match=message):
        ConfusionPairsDisplay.from_probabilities(probabilities, ["a", "b", "c"])


def test_many_pairs_show_the_largest():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 50, (2, 5000))
    display = ConfusionPairsDisplay.from_predictions(truth, predicted, max_pairs=7)
    both = confusion_matrix(truth, predicted)
    both = both + both.T
    largest = np.sort(both[np.triu_indices(50, 1)])[::-1][:7]
    np.testing.assert_array_equal(display.counts_, largest)
    n_confused = np.count_nonzero(np.triu(both, 1))
    assert f"7 of {n_confused} pairs" in display.ax_.get_xlabel()


@pytest.fixture(scope="module")
def classifier(planted_problem):
    return ZeroShotClassifier().fit(planted_problem.space)


def test_a_classifier_with_labels_counts(planted_problem, classifier):
    space, target = planted_problem.space, planted_problem.target
    display = ConfusionPairsDisplay.from_estimator(classifier, space, target)
    by_index = ConfusionPairsDisplay.from_predictions(target, space.predict())
    np.testing.assert_array_equal(display.counts_, by_index.counts_)
    assert row_names(display)[0].startswith("class ")


def test_a_classifier_without_labels_expects(planted_problem, classifier):
    space = planted_problem.space
    display = ConfusionPairsDisplay.from_estimator(classifier, space)
    expected = expected_confusions(space.predict_proba())
    i, j = np.unravel_index(expected.argmax(), expected.shape)
    assert set(row_names(display)[0].split(" / ")) == {f"class {i}", f"class {j}"}
    assert display.counts_[0] == pytest.approx(expected.max(), rel=1e-4)


def test_scikit_learns_classifier_takes_the_names_of_the_space(planted_problem):
    space, target = planted_problem.space, planted_problem.target
    probe = LogisticRegression(max_iter=20).fit(space, target)
    display = ConfusionPairsDisplay.from_estimator(probe, space)
    expected = expected_confusions(probe.predict_proba(space))
    i, j = sorted(np.unravel_index(expected.argmax(), expected.shape))
    assert row_names(display)[0] == f"class {i} / class {j}"


def test_no_label_at_all_is_an_error():
    with pytest.raises(LabelError, match="at least one image in y_true"):
        ConfusionPairsDisplay.from_predictions([-1, None], [0, 1])
