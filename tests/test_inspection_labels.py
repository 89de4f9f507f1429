"""Labels of every kind become indices of named classes."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from capkit.baselines import ZeroShotClassifier
from capkit.exceptions import LabelError
from capkit.inspection._labels import (
    class_names_of,
    final_estimator,
    in_names,
    index_labels,
    predict_names,
)

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_each_labelling_may_be_of_its_own_kind_where_names_are_given():
    names, (one, other) = index_labels(["cat", "dog"], ["dog", None, "cat"], [1, -1, 0])
    assert names == ("cat", "dog")
    assert one.tolist() == other.tolist() == [1, -1, 0]


def test_without_names_the_labels_that_occur_are_the_classes():
    names, (one, other) = index_labels(None, [10, -1, 2], np.array([2.0, np.nan, 30.0]))
    assert names == ("2", "10", "30"), "sorted as numbers"
    assert one.tolist() == [1, -1, 0] and other.tolist() == [0, -1, 2]


def test_names_that_occur_are_sorted():
    names, (labels,) = index_labels(None, np.array(["b", "a", "-1"]))
    assert names == ("a", "b") and labels.tolist() == [1, 0, -1]


def test_kinds_differ_only_where_names_are_given():
    with pytest.raises(LabelError, match="expected labels of one kind"):
        index_labels(None, ["cat", "dog"], [0, 1])


def test_no_label_at_all_is_an_error():
    with pytest.raises(LabelError, match="expected a label of at least one image"):
        index_labels(None, [None, -1], [-1, -1])


def test_labels_by_name():
    assert in_names(["cat", "dog"], [1, -1, 0]) == ["dog", None, "cat"]


def test_final_estimator_of_searches_and_pipelines():
    X, y = np.random.default_rng(0).normal(size=(20, 3)), [0, 1] * 10
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": [1.0]}, cv=2).fit(X, y)
    assert final_estimator(search) is search.best_estimator_[-1]


def test_names_come_from_the_classifier_then_the_space_then_the_labels(planted_space):
    classifier = ZeroShotClassifier().fit(planted_space)
    assert class_names_of(classifier, None) == planted_space.class_names
    probe = LogisticRegression().fit(np.eye(2), [0, 1])
    assert class_names_of(probe, planted_space) == planted_space.class_names
    assert class_names_of(probe, np.eye(2)) is None
    named = LogisticRegression().fit(np.eye(2), ["dog", "cat"])
    assert class_names_of(named, np.eye(2)) == ["cat", "dog"]


def test_indices_that_a_classifier_predicts_become_its_names(planted_space):
    y = [-1] + [0] * (len(planted_space) - 1)
    classifier = ZeroShotClassifier().fit(planted_space, y)
    assert classifier.predict(planted_space).dtype.kind == "i"
    expected = [planted_space.class_names[index] for index in planted_space.predict()]
    assert predict_names(classifier, planted_space) == expected
