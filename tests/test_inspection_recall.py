"""The picture of recalls shows scikit-learn's recalls, for the classes that matter."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import recall_score

from capkit.baselines import GaussianTransductionClassifier, ZeroShotClassifier
from capkit.datasets import make_concept_space
from capkit.exceptions import LabelError
from capkit.inspection import RecallDisplay

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


TRUTH = ["cat", "cat", "dog", "dog", "fox"]
BEFORE = ["cat", "dog", "dog", "dog", "dog"]
AFTER = ["cat", "cat", "dog", "fox", "fox"]


def row_names(display):
    return [label.get_text() for label in display.ax_.get_yticklabels()]


def test_recalls_are_scikit_learns():
    display = RecallDisplay.from_predictions(TRUTH, BEFORE, AFTER)
    np.testing.assert_array_equal(display.before, recall_score(TRUTH, BEFORE, average=None))
    np.testing.assert_array_equal(display.after, recall_score(TRUTH, AFTER, average=None))
    assert display.class_names == ("cat", "dog", "fox")


def test_points_stand_in_rows_from_the_highest_recall_before_to_the_lowest():
    display = RecallDisplay.from_predictions(TRUTH, BEFORE, AFTER)
    assert row_names(display) == ["dog", "cat", "fox"]
    before, after = display.before_points_.get_offsets(), display.after_points_.get_offsets()
    np.testing.assert_array_equal(before, [[1, 0], [0.5, 1], [0, 2]])
    np.testing.assert_array_equal(after, [[0.5, 0], [1, 1], [1, 2]])
    bottom, top = display.ax_.get_ylim()
    assert bottom > top, "row 0 is at the top"


@pytest.mark.parametrize("unlabeled", [-1, None])
def test_unlabeled_images_do_not_count(unlabeled):
    display = RecallDisplay.from_predictions(
        [0, unlabeled, 1, unlabeled], [0, 1, 0, 0], [0, 1, 1, 0], class_names=["a", "b", "c"]
    )
    np.testing.assert_array_equal(display.before, [1, 0, np.nan])
    assert row_names(display) == ["a", "b"], "of c no image is labeled"


def test_an_image_that_was_given_no_class_is_not_right():
    display = RecallDisplay.from_predictions(["a", "a", "b"], ["a", None, "b"], ["a", "a", -1])
    np.testing.assert_array_equal(display.before, [0.5, 1])
    np.testing.assert_array_equal(display.after, [1, 0])


def test_many_classes_show_those_that_changed_most():
    names = [f"class {index}" for index in range(200)]
    before, after = np.full(200, 0.5), np.full(200, 0.5)
    after[[7, 3, 150]] = 0.6, 0.1, 1.0
    display = RecallDisplay(before=before, after=after, class_names=names).plot(max_classes=2)
    assert sorted(display.shown_) == [3, 150]
    assert "2 of 200 classes" in display.ax_.get_xlabel()
    assert len(display.plot(max_classes=None).shown_) == 200
    assert display.ax_.get_xlabel() == "recall"


@pytest.mark.parametrize(("n_classes", "max_classes"), [(10, 40), (200, 40), (200, None)])
def test_names_do_not_overlap(n_classes, max_classes):
    names = [f"a class with a long name {index}" for index in range(n_classes)]
    recall = np.linspace(0, 1, n_classes)
    display = RecallDisplay(before=recall, after=recall[::-1], class_names=names)
    display.plot(max_classes=max_classes).figure_.canvas.draw()
    boxes = [label.get_window_extent() for label in display.ax_.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0, "no name is cut"
    legend = display.ax_.get_legend().get_window_extent()
    row_0 = display.ax_.transData.transform([0, 0])[1]
    assert legend.y0 > row_0, "the legend hides no row"


def test_the_two_differ_in_shape_and_not_in_colour_alone():
    display = RecallDisplay.from_predictions(TRUTH, BEFORE, AFTER, labels=("old", "new"))
    shapes = [p.get_paths()[0].vertices for p in (display.before_points_, display.after_points_)]
    assert shapes[0].shape != shapes[1].shape
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["old", "new"]


# -- classifiers


@pytest.fixture(scope="module")
def fitted(planted_problem):
    return (
        ZeroShotClassifier().fit(planted_problem.space),
        GaussianTransductionClassifier().fit(planted_problem.space),
    )


def test_classifiers_give_what_their_predictions_give(planted_problem, fitted):
    space, target = planted_problem.space, planted_problem.target
    display = RecallDisplay.from_estimator(*fitted, space, target)
    names = np.array(space.class_names)
    for values, classifier in zip((display.before, display.after), fitted, strict=True):
        expected = recall_score(
            names[target], classifier.predict(space), labels=names, average=None
        )
        np.testing.assert_array_equal(values, expected)


def test_without_a_classifier_before_stands_zero_shot(planted_problem, fitted):
    space, target = planted_problem.space, planted_problem.target
    display = RecallDisplay.from_estimator(None, fitted[1], space, target)
    expected = recall_score(target, space.predict(), average=None)
    np.testing.assert_array_equal(display.before, expected)


def test_classes_in_another_order_are_told_apart_by_name(planted_problem, fitted):
    import dataclasses

    space, target = planted_problem.space, planted_problem.target
    backwards = dataclasses.replace(
        space,
        class_names=space.class_names[::-1],
        text_features=space.text_features[::-1],
    )
    before = ZeroShotClassifier().fit(backwards, class_names=backwards.class_names)
    one = RecallDisplay.from_estimator(before, fitted[1], space, target)
    other = RecallDisplay.from_estimator(None, fitted[1], space, target)
    np.testing.assert_array_equal(one.before, other.before)


def test_images_without_a_classifier_before_are_an_error_that_says_what_to_do(fitted):
    images = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"expected a fitted classifier as before.*ZeroShot"):
        RecallDisplay.from_estimator(None, fitted[1], images, [0, 1])


def test_no_label_at_all_is_an_error():
    with pytest.raises(LabelError, match="at least one image in y_true"):
        RecallDisplay.from_predictions([-1, None], ["a", "b"], ["a", "b"])
