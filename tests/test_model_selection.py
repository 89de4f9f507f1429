"""LabeledKFold: unlabeled images always train and are never scored."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.semi_supervised import LabelPropagation

from capkit.exceptions import LabelError
from capkit.model_selection import LabeledKFold


@given(
    st.lists(st.sampled_from([-1, None, "a", "b", "c"]), min_size=1, max_size=60),
    st.integers(2, 4),
    st.booleans(),
)
def test_folds_partition_the_labeled_and_keep_the_unlabeled(y, n_splits, shuffle):
    labeled = [row for row, label in enumerate(y) if isinstance(label, str)]
    counts = [y.count(name) for name in "abc"]
    if max(counts) < n_splits:
        with pytest.raises(ValueError, match="n_splits"):
            list(LabeledKFold(n_splits).split(y, y))
        return
    seed = 0 if shuffle else None
    splitter = LabeledKFold(n_splits, shuffle=shuffle, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are smaller than n_splits
        folds = list(splitter.split(y, y))
    assert len(folds) == splitter.get_n_splits() == n_splits
    assert sorted(np.concatenate([test for _, test in folds])) == labeled
    for train, test in folds:
        assert sorted([*train, *test]) == list(range(len(y)))
        assert set(test) <= set(labeled)


def test_classes_are_dealt_out_as_scikit_learn_does():
    labels = np.array(["a"] * 6 + ["b"] * 3)
    y = [-1, *labels, -1]
    for (train, test), (expected_train, expected_test) in zip(
        LabeledKFold(3, shuffle=True, random_state=4).split(y, y),
        StratifiedKFold(3, shuffle=True, random_state=4).split(labels, labels),
        strict=True,
    ):
        np.testing.assert_array_equal(test, expected_test + 1)
        np.testing.assert_array_equal(train, [0, *(expected_train + 1), 10])


def test_labels_of_unseen_classes_never_train():
    y = ["a", "b", "c", -1] * 4
    splitter = LabeledKFold(2, unseen_classes=["c"])
    tested = []
    for train, test in splitter.split(y, y):
        assert {y[row] for row in train} == {"a", "b", -1}
        assert sum(y[row] == -1 for row in train) == 4
        assert {y[row] for row in test} == {"a", "b", "c"}
        tested += list(test)
    assert sorted(tested) == [row for row, label in enumerate(y) if label != -1]


def test_indices_work_as_names_do():
    y = [0, 1, -1, 0, 1, -1]
    expected = [([2, 3, 4, 5], [0, 1]), ([0, 1, 2, 5], [3, 4])]
    for given_y in (y, np.array(y), np.array([float(label) for label in y])):
        folds = [(list(train), list(test)) for train, test in LabeledKFold(2).split(y, given_y)]
        assert folds == expected


@pytest.mark.parametrize(
    ("splitter", "y", "error", "message"),
    [
        (LabeledKFold(3), None, LabelError, "label or -1 for each of 4 images in y, got none"),
        (LabeledKFold(3), [0, 1], LabelError, "each of 4 images in y, got 2"),
        (LabeledKFold(3), [0, 1, -1, -1], LabelError, "n_splits=3 labeled images, got 2 among 4"),
        (LabeledKFold(3), [-1] * 4, LabelError, "n_splits=3 labeled images, got 0 among 4"),
        (LabeledKFold(3), [0, 0, 1, 1], ValueError, "n_splits=3 cannot be greater than"),
        (LabeledKFold(2), [0, 0, "a", 1], LabelError, "mixes"),
        (
            LabeledKFold(2, unseen_classes=[7]),
            [0, 0, 1, 1],
            LabelError,
            r"each of unseen_classes, got none of \[7\]",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(splitter, y, error, message):
    with pytest.raises(error, match=message):
        list(splitter.split(range(4), y))


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_splits": 1}, ValueError, "n_splits=2 or more, got n_splits=1"),
        ({"n_splits": 2.5}, ValueError, "must be of Integral type"),
        ({"shuffle": 1}, TypeError, "shuffle must be True or False"),
        ({"random_state": 0}, ValueError, "random_state has no effect since shuffle is False"),
    ],
)
def test_parameters_are_refused_as_by_scikit_learn(parameters, error, message):
    with pytest.raises(error, match=message):
        LabeledKFold(**parameters)


def test_it_is_a_splitter_to_scikit_learn():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2)) + 4 * np.repeat([[0, 0], [1, 1]], 20, axis=0)
    y = np.repeat([0, 1], 20)
    y[::3] = -1
    cv = LabeledKFold(4, shuffle=True, random_state=0)
    assert repr(cv) == (
        "LabeledKFold(n_splits=4, random_state=0, shuffle=True, unseen_classes=None)"
    )
    for routing in (False, True):
        with config_context(enable_metadata_routing=routing):
            scores = cross_val_score(LabelPropagation(), X, y, cv=cv, error_score="raise")
            assert len(scores) == 4 and scores.mean() > 0.9
    search = GridSearchCV(LabelPropagation(), {"gamma": [1, 20]}, cv=cv).fit(X, y)
    assert search.n_splits_ == 4
    assert clone(search).cv.unseen_classes is None
