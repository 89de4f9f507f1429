"""Scores that leave unlabeled images out, and their scorers in scikit-learn's searches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate

from capkit.exceptions import LabelError
from capkit.metrics import (
    expected_confusions,
    get_scorer,
    get_scorer_names,
    harmonic_mean_score,
    infomax_score,
    labeled_accuracy_score,
    labeled_balanced_accuracy_score,
)
from capkit.model_selection import LabeledKFold


@pytest.mark.parametrize("unlabeled", [-1, None, float("nan")])
def test_unlabeled_images_do_not_count(unlabeled):
    truth = [0, unlabeled, 1, unlabeled, 1, 1]
    predicted = [0, 1, 1, 0, 1, 0]
    assert labeled_accuracy_score(truth, predicted) == 3 / 4
    assert labeled_balanced_accuracy_score(truth, predicted) == pytest.approx((1 + 2 / 3) / 2)
    of_seen, of_unseen = 1, 2 / 3
    expected = 2 * of_seen * of_unseen / (of_seen + of_unseen)
    assert harmonic_mean_score(truth, predicted, seen_classes=[0]) == pytest.approx(expected)


@pytest.mark.parametrize("container", [list, tuple, np.array, lambda y: np.array(y, dtype=object)])
def test_names_in_any_container(container):
    truth = container(["cat", "dog", "-1", "dog"])
    assert labeled_accuracy_score(truth, container(["cat", "cat", "cat", "dog"])) == 2 / 3


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=40)
)
def test_with_every_label_known_they_are_scikit_learns(pairs):
    truth, predicted = map(list, zip(*pairs, strict=True))
    assert labeled_accuracy_score(truth, predicted) == pytest.approx(
        accuracy_score(truth, predicted)
    )
    known = [p if p in truth else "a" for p in predicted]  # scikit-learn warns of others
    if "a" in truth and len(set(truth)) > 1:
        assert labeled_balanced_accuracy_score(truth, known) == pytest.approx(
            balanced_accuracy_score(truth, known)
        )


def test_harmonic_mean_is_zero_where_one_side_is():
    assert harmonic_mean_score([0, 0, 1], [0, 0, 0], seen_classes=[0]) == 0.0
    assert harmonic_mean_score([0, 1], [1, 0], seen_classes=[0]) == 0.0


def test_harmonic_mean_of_equal_accuracies_is_that_accuracy():
    truth, predicted = list("aabb"), list("axbx")
    assert harmonic_mean_score(truth, predicted, seen_classes=["a"]) == 0.5


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([0, 1], [0], "as many predictions as labels, got 1 and 2"),
        ([-1, None], [0, 1], "at least one labeled image to score on, got 2 unlabeled"),
        (["cat", 1], ["cat", "cat"], "mixes"),
        (["cat"], [0], "of one kind, names or indices, got 'cat' and 0"),
        ([1], ["cat"], "of one kind"),
    ],
)
@pytest.mark.parametrize("score", [labeled_accuracy_score, labeled_balanced_accuracy_score])
def test_labels_that_cannot_be_compared_are_refused(score, truth, predicted, message):
    with pytest.raises(LabelError, match=message):
        score(truth, predicted)


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        ([0, 1], r"got 2 of seen_classes=\[0, 1\] and 0 of others"),
        ([], "got 0 of seen_classes"),
        (["cat"], "expected labels like 0, got 'cat'"),
    ],
)
def test_harmonic_mean_needs_both_sides(seen, message):
    with pytest.raises(LabelError, match=message):
        harmonic_mean_score([0, 1], [0, 1], seen_classes=seen)


# -- without labels


def test_infomax_by_hand():
    assert infomax_score(np.full((5, 3), 1 / 3)) == 0.0
    assert infomax_score([[1, 0, 0]] * 5) == 0.0
    assert infomax_score(np.eye(3)) == pytest.approx(1.0)
    # H(mean) = log 2, mean H = H(3/4) on both rows
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    expected = 1 - entropy / np.log(2)
    assert infomax_score([[0.75, 0.25], [0.25, 0.75]]) == pytest.approx(expected)


def test_a_starved_class_lowers_infomax():
    even = np.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3]]
    starved = np.eye(4)[[0, 1, 2, 2, 0, 1, 2, 2]]
    assert infomax_score(starved) < infomax_score(even)


@pytest.mark.parametrize("shape", [(3,), (0, 3), (3, 1)])
def test_infomax_refuses_what_are_no_probabilities(shape):
    with pytest.raises(ValueError, match="expected probabilities of shape"):
        infomax_score(np.ones(shape))


# -- scorers in searches


class NearestMean(ClassifierMixin, BaseEstimator):
    """Classifies by the nearest labeled mean; takes unlabeled rows as capkit's estimators do."""

    def __init__(self, shrink=0.0):
        self.shrink = shrink

    def fit(self, X, y):
        y = np.asarray(y, dtype=object)
        self.classes_ = np.array(sorted({label for label in y if label != -1}))
        means = [np.mean(X[y == label], axis=0) for label in self.classes_]
        self.means_ = (1 - self.shrink) * np.array(means)
        return self

    def predict_proba(self, X):
        distances = ((X[:, None] - self.means_) ** 2).sum(axis=2)
        weights = np.exp(-distances)
        return weights / weights.sum(axis=1, keepdims=True)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


@pytest.fixture(scope="module")
def partly_labeled():
    rng = np.random.default_rng(0)
    truth = np.repeat(["bar", "cross", "ring"], 20)
    X = rng.normal(size=(60, 2)) + np.repeat([[0, 0], [3, 0], [0, 3]], 20, axis=0)
    y = truth.astype(object)
    y[rng.permutation(60)[:30]] = -1
    return X, y


@pytest.mark.parametrize("name", ["labeled_accuracy", "labeled_balanced_accuracy", "infomax"])
def test_scorers_work_in_a_search(partly_labeled, name):
    X, y = partly_labeled
    search = GridSearchCV(
        NearestMean(), {"shrink": [0.0, 0.9]}, scoring=get_scorer(name), cv=LabeledKFold(3)
    )
    search.fit(X, y)
    assert search.best_params_ == {"shrink": 0.0}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_several_scorers_at_once_agree_with_the_functions(partly_labeled):
    X, y = partly_labeled
    scoring = {name: get_scorer(name) for name in ("labeled_accuracy", "infomax")}
    cv = LabeledKFold(2)
    results = cross_validate(NearestMean(), X, y, cv=cv, scoring=scoring)
    for fold, (train, test) in enumerate(cv.split(X, y)):
        fitted = NearestMean().fit(X[train], y[train])
        accuracy = labeled_accuracy_score(y[test], fitted.predict(X[test]))
        assert results["test_labeled_accuracy"][fold] == accuracy
        assert results["test_infomax"][fold] == infomax_score(fitted.predict_proba(X[test]))


def test_scikit_learns_names_are_right_on_labeled_folds(partly_labeled):
    X, y = partly_labeled
    for name in ("accuracy", "balanced_accuracy"):
        ours = cross_val_score(
            NearestMean(), X, y, cv=LabeledKFold(3), scoring=get_scorer(f"labeled_{name}")
        )
        theirs = cross_val_score(NearestMean(), X, y, cv=LabeledKFold(3), scoring=name)
        np.testing.assert_allclose(ours, theirs)


def test_harmonic_mean_in_a_cross_validation_with_unseen_classes(partly_labeled):
    X, y = partly_labeled

    class Oracle(NearestMean):
        def fit(self, X, y):
            assert "ring" not in y
            return super().fit(X, y)

        def predict(self, X):
            seen = super().predict(X)
            return np.where(X[:, 1] > 1.5, "ring", seen)

    scorer = get_scorer("harmonic_mean", seen_classes=["bar", "cross"])
    cv = LabeledKFold(3, unseen_classes=["ring"])
    scores = cross_val_score(Oracle(), X, y, cv=cv, scoring=scorer, error_score="raise")
    assert (scores > 0.7).all()


def test_infomax_needs_no_y():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 2)), np.repeat([0, 1], 20)

    class Fixed(LogisticRegression):
        def fit(self, X, y_=None):
            return super().fit(np.array([[-1.0, 0], [1.0, 0]]), [0, 1])

    scores = cross_val_score(Fixed(), X, cv=KFold(2), scoring=get_scorer("infomax"))
    np.testing.assert_allclose(
        scores, cross_val_score(Fixed(), X, y, cv=KFold(2), scoring=get_scorer("infomax"))
    )


def test_unknown_names_and_parameters_are_refused():
    with pytest.raises(ValueError, match=r"'f1' is not a scorer of capkit.*'harmonic_mean'"):
        get_scorer("f1")
    with pytest.raises(TypeError, match=r"expected the parameters \['seen_classes'\].*got \[\]"):
        get_scorer("harmonic_mean")
    with pytest.raises(TypeError, match=r"expected the parameters \[\] .*got \['seen_classes'\]"):
        get_scorer("infomax", seen_classes=[0])


def test_every_name_gives_a_scorer():
    for name in get_scorer_names():
        parameters = {"seen_classes": [0]} if name == "harmonic_mean" else {}
        assert callable(get_scorer(name, **parameters))


def test_expected_confusions_by_hand():
    probabilities = np.array([[0.5, 0.5, 0.0], [0.2, 0.6, 0.2]])
    expected = [[0, 0.37, 0.04], [0.37, 0, 0.12], [0.04, 0.12, 0]]
    np.testing.assert_allclose(expected_confusions(probabilities), expected)


def test_sure_predictions_expect_no_confusion():
    assert not expected_confusions(np.eye(4)[[0, 1, 3, 3]]).any()
