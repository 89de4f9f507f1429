"""Folds, labels that a paradigm sees, and long tails."""

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
from capkit.model_selection import LabeledKFold, make_paradigm, subsample_long_tail


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


# -- make_paradigm


def test_ul_shows_no_label():
    y, seen = make_paradigm([0, 1, 2, 1], "ul")
    assert y.tolist() == [-1] * 4 and len(seen) == 0
    y, _ = make_paradigm(["a", "b"], "ul")
    assert y.tolist() == [None, None]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(1, 5))
def test_ssl_shows_some_labels_of_each_class(y, n_labeled):
    counts = {name: y.count(name) for name in set(y)}
    if max(counts.values()) <= n_labeled:
        with pytest.raises(LabelError, match=f"n_labeled={n_labeled} a class, but no class has"):
            make_paradigm(y, "ssl", n_labeled=n_labeled)
        return
    shown, seen = make_paradigm(y, "ssl", n_labeled=n_labeled, random_state=0)
    assert len(seen) == 0
    assert all(label in (None, name) for label, name in zip(shown, y, strict=True))
    for name, count in counts.items():
        assert (shown == name).sum() == min(n_labeled, count)


def test_trzsl_shows_all_labels_of_the_seen_classes():
    target = np.repeat(np.arange(10), 3)
    y, seen = make_paradigm(target, "trzsl", random_state=0)
    assert len(seen) == 6  # 0.62 of 10
    assert seen.tolist() == sorted(set(y.tolist()) - {-1})
    np.testing.assert_array_equal(y, np.where(np.isin(target, seen), target, -1))
    assert make_paradigm(target, "trzsl", seen_fraction=0.5, random_state=0)[1].shape == (5,)


def test_the_seed_decides_what_is_shown():
    target = np.arange(100) % 5
    for paradigm in ("ssl", "trzsl"):
        draws = [make_paradigm(target, paradigm, random_state=seed)[0] for seed in (0, 0, 1)]
        np.testing.assert_array_equal(draws[0], draws[1])
        assert (draws[0] != draws[2]).any()
    # The draws that the published numbers of benchmarks/paradigms.py are of.
    shown = np.flatnonzero(make_paradigm(target, "ssl", random_state=0)[0] >= 0)
    assert shown.tolist() == [
        2,
        7,
        26,
        31,
        49,
        60,
        63,
        64,
        78,
        80,
    ]
    assert make_paradigm(target, "trzsl", random_state=0)[1].tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("y", "parameters", "error", "message"),
    [
        (
            [0, 1, -1],
            {},
            LabelError,
            "make_paradigm expected the label of every image, got 2",
        ),
        ([], {}, LabelError, "got 0 labels of 0 images"),
        ([0, "a"], {}, LabelError, "mixes"),
        ([0, 1], {"paradigm": "few"}, ValueError, "paradigm of ul, ssl, trzsl, got 'few'"),
        ([0, 1], {"n_labeled": 0}, ValueError, "n_labeled as an int of at least 1, got 0"),
        ([0, 1], {"n_labeled": 1.5}, ValueError, "n_labeled as an int of at least 1, got 1.5"),
        ([0, 1], {"seen_fraction": 1.0}, ValueError, "seen_fraction between 0 and 1, got 1.0"),
        ([0, 1], {"paradigm": "trzsl", "seen_fraction": 0.2}, LabelError, "got 0 seen ones of 2"),
    ],
)
def test_labels_that_cannot_be_hidden_are_refused(y, parameters, error, message):
    with pytest.raises(error, match=message):
        make_paradigm(y, **({"paradigm": "ssl"} | parameters))


# -- subsample_long_tail


def test_class_sizes_fall_geometrically():
    y = np.repeat(["a", "b", "c", "d", "e"], 16)
    rows = subsample_long_tail(y, 16, random_state=0)
    assert sorted(np.unique(y[rows], return_counts=True)[1]) == [1, 2, 4, 8, 16]
    assert (np.diff(rows) > 0).all()


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=8), st.floats(1, 100), st.integers(0, 1000)
)
def test_a_long_tail_is_as_large_as_the_classes_allow(sizes, ratio, seed):
    y = np.repeat(np.arange(len(sizes)), sizes)
    rows = subsample_long_tail(y, ratio, random_state=seed)
    chosen = np.bincount(y[rows], minlength=len(sizes))
    assert (chosen >= 1).all() and (chosen <= sizes).all()
    assert (chosen == sizes).any()  # one class gives all that it has
    order = np.sort(chosen)[::-1]
    largest = order[0]
    parts = ratio ** -np.linspace(0, 1, len(sizes))
    assert (np.abs(order - np.maximum(1, largest * parts)) <= 1 + 1e-9).all()


def test_a_ratio_of_one_makes_classes_as_large_as_the_smallest():
    y = [0] * 9 + [1] * 4 + [2] * 6
    assert np.bincount(np.array(y)[subsample_long_tail(y, 1)]).tolist() == [4, 4, 4]


def test_the_seed_decides_which_classes_are_rare():
    y = np.arange(300) % 3
    sizes = [
        tuple(np.bincount(y[subsample_long_tail(y, 10, random_state=seed)])) for seed in range(9)
    ]
    assert len(set(sizes)) > 1 and len({tuple(sorted(size)) for size in sizes}) == 1


@pytest.mark.parametrize("ratio", [0.5, np.nan, np.inf])
def test_an_impossible_ratio_is_refused(ratio):
    with pytest.raises(ValueError, match="finite number of at least 1"):
        subsample_long_tail([0, 1], ratio)
    with pytest.raises(LabelError, match="subsample_long_tail expected the label of every image"):
        subsample_long_tail([0, None], 2)
