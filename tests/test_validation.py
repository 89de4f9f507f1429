"""Class names, labels and nested parameters: what is taken, what is refused and why."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder
from sklearn.utils._param_validation import InvalidParameterError

from capkit import CAPClassifier, CLIPEncoder, MainSampleRenewal, MarginCalibrator
from capkit._validation import (
    LabelCodec,
    is_unlabeled,
    resolve_class_names,
    seeded_copy,
    validate_nested,
)
from capkit.exceptions import ClassNamesError, LabelError
from capkit.tuning import AdapterTuning

NAMES = ("river", "forest", "lake")


def test_names_come_from_either_place():
    assert resolve_class_names(list(NAMES), None) == NAMES
    assert resolve_class_names(None, np.array(NAMES), n_images=10) == NAMES
    assert resolve_class_names(NAMES, list(NAMES), n_images=3) == NAMES


@pytest.mark.parametrize(
    ("parameter", "argument", "message"),
    [
        (None, None, "got none"),
        (["a", "b", "a"], None, r"got twice: \['a'\]"),
        (["a"], None, "at least 2 class_names, got 1"),
        ("river", None, "sequence of str, got str"),
        ({"a": 1, "b": 2}, None, "sequence of str, got dict"),
        (["a", 3], None, r"got 3 \(int\)"),
        (["a", " "], None, "empty"),
        ({"a", "b"}, None, r"expected class_names as a sequence.*got set: a set has no order"),
        (frozenset("ab"), None, "got frozenset: a set has no order"),
        ({"a": 1, "b": 2}.keys(), None, "got dict_keys: a set has no order"),
        (None, {"a", "b"}, "got set: a set has no order"),
        (["a", "b"], {"a", "b"}, "got set: a set has no order"),
        (["a", "b\ud800"], None, r"UTF-8 can write, got 'b\\ud800' as class name 1"),
        (["a", "-1"], None, "class name 1 is '-1', which marks unlabeled images"),
        (np.array("a"), None, "sequence of str, got ndarray of 0 dimensions: array.*Pass a list"),
        (None, np.array("a"), "sequence of str, got ndarray of 0 dimensions"),
        (np.array([["a"], ["b"]]), None, "sequence of str, got ndarray of 2 dimensions"),
        (list, None, "sequence of str, got type"),
        (["a", "b"], ["a", "c"], "differ"),
        (["a", "b"], ["b", "a"], "differ"),
    ],
)
def test_names_that_cannot_be_right_are_refused(parameter, argument, message):
    with pytest.raises(ClassNamesError, match=message):
        resolve_class_names(parameter, argument, n_images=10)


def test_names_as_long_as_the_images_may_have_been_cut():
    with pytest.raises(ClassNamesError, match="Pass class_names to the constructor"):
        resolve_class_names(None, NAMES, n_images=3)


@pytest.mark.parametrize(
    ("y", "kind", "expected"),
    [
        ([0, 2, -1], "index", [0, 2, -1]),
        (np.array([1.0, np.nan, 2.0]), "index", [1, -1, 2]),
        (["lake", None, "river"], "name", [2, -1, 0]),
        (np.array(["lake", -1, "river"]), "name", [2, -1, 0]),
        (np.array(["lake", -1], dtype=object), "name", [2, -1]),
        ([-1, None], "name", [-1, -1]),
        (np.array([[1], [0]]), "index", [1, 0]),
    ],
)
def test_kind_of_labels_and_unlabeled_marks(y, kind, expected):
    codec, indices = LabelCodec.from_labels(y, NAMES, len(y))
    assert codec.kind == kind
    assert indices.tolist() == expected


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 3], "label 3 of image 1 is no class: expected an index from 0 to 2"),
        ([0, -2], "label -2 of image 1"),
        (["lake", "sea"], "label 'sea' of image 1 is no class: expected one of 3: 'river'"),
        ([0, "lake"], "mixes"),
        ([0], "expected a label for each of 2 images, got 1"),
        ([0.5, 1], "neither a class name nor an index"),
        ([True, False], "neither a class name nor an index"),
        (np.zeros((2, 2)), "one dimension"),
        ({0, 1}, "as a sequence of labels in the order of the images, got {0, 1}"),
        ({0: 1, 1: 0}, "as a sequence of labels in the order of the images"),
        (list, "as a sequence of labels in the order of the images, got <class 'list'>"),
    ],
)
def test_labels_that_cannot_be_right_are_refused(y, message):
    with pytest.raises(LabelError, match=message):
        LabelCodec.from_labels(y, NAMES, 2)


def test_a_label_that_is_a_list_is_no_class():
    with pytest.raises(LabelError, match=r"label \['lake'\] of image 1 is no class"):
        LabelCodec(NAMES).encode(["lake", ["lake"]])


def test_number_that_is_a_class_name_is_to_be_passed_as_one():
    with pytest.raises(LabelError, match=r"label 5 of image 0 .*pass it as a str: '5'"):
        LabelCodec.from_labels([5, 3], ("3", "5", "7"), 2)
    with pytest.raises(LabelError, match=r"label 9 of image 0 .*number them anew"):
        LabelCodec.from_labels([9, 3], ("3", "5", "7"), 2)


def test_classes_are_sorted_and_column_order_leads_back():
    codec = LabelCodec(NAMES, "name")
    assert codec.classes.tolist() == ["forest", "lake", "river"]
    assert [NAMES[i] for i in codec.column_order] == codec.classes.tolist()
    assert LabelCodec(NAMES, "index").classes.tolist() == [0, 1, 2]


# -- labels that are not learned from, but say what predictions are to be

IN_ORDER = ("forest", "lake", "river")


@pytest.mark.parametrize(
    ("y", "names", "kind"),
    [
        (None, NAMES, "name"),
        (["lake", "river", "lake"], NAMES, "name"),
        (["lake", None, -1], NAMES, "name"),
        ([-1, -1, None], NAMES, "name"),
        # Where one image is marked as unlabeled, scikit-learn has not put positions in place.
        ([2, -1, 0], NAMES, "index"),
        ([2, None, 0], NAMES, "index"),
        (np.array([2.0, np.nan, 0.0]), NAMES, "index"),
        # Positions among the sorted labels are the indices.
        ([2, 0, 1], IN_ORDER, "index"),
        (np.array([2.0, 0.0, 1.0]), IN_ORDER, "index"),
    ],
)
def test_kind_of_labels_that_are_not_learned_from(y, names, kind):
    assert LabelCodec.kind_only(y, names, 3) == LabelCodec(names, kind)


@pytest.mark.parametrize(
    ("y", "names"),
    [
        ([2, 0, 1], NAMES),  # every class, but not in alphabetical order
        ([2, 0, 2], IN_ORDER),  # alphabetical, but a class is missing
        ([0, 1, 1], IN_ORDER),
        ([0, 0, 0], NAMES),
        (np.array([2.0, 0.0, 1.0]), NAMES),
    ],
)
def test_integers_of_all_images_that_may_be_positions_are_refused(y, names):
    with pytest.raises(LabelError, match="y holds an integer for each image") as caught:
        LabelCodec.kind_only(y, names, 3)
    assert "Pass names, numpy.asarray(class_names)[y]" in str(caught.value)
    # Where they are learned from, they are what they say: no position could be among them.
    assert LabelCodec.from_labels(y, names, 3)[1].tolist() == list(y)


@pytest.mark.parametrize("labels", [["lake", "river", "forest"], ["lake", "river", "lake"]])
@pytest.mark.parametrize("names", [NAMES, IN_ORDER])
def test_positions_are_refused_wherever_they_would_be_read_as_other_classes(labels, names):
    positions = LabelEncoder().fit_transform(labels)
    as_indices = [names[position] for position in positions]
    if as_indices == labels:
        assert LabelCodec.kind_only(positions, names, 3).kind == "index"
    else:
        with pytest.raises(LabelError, match="in place of labels"):
            LabelCodec.kind_only(positions, names, 3)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 3, -1], "label 3 of image 1 is no class: expected an index from 0 to 2"),
        (["lake", "sea", -1], "label 'sea' of image 1 is no class: expected one of 3: 'forest'"),
        (["lake", None, "River"], "label 'River' of image 2 is no class"),
        ([0, "lake", -1], "mixes"),
        ([0, 1], "expected a label for each of 3 images, got 2"),
        ([0.5, 1, -1], "neither a class name nor an index"),
    ],
)
def test_labels_that_cannot_be_right_are_refused_even_if_not_learned_from(y, message):
    with pytest.raises(LabelError, match=message):
        LabelCodec.kind_only(y, IN_ORDER, 3)


def test_unlabeled_marks():
    assert all(is_unlabeled(mark) for mark in (-1, None, float("nan"), np.int64(-1), "-1"))
    assert not any(is_unlabeled(label) for label in (0, "", "lake", 1.0))


# -- nested parameters


class Holder(BaseEstimator):
    """An estimator of any parameters."""

    _parameter_constraints = {"first": "no_validation", "second": "no_validation"}

    def __init__(self, first=None, second=None):
        self.first = first
        self.second = second


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            CAPClassifier(tuning=AdapterTuning(epochs=0)),
            "'epochs' parameter of AdapterTuning must be",
        ),
        (
            CAPClassifier(renewal=MainSampleRenewal(max_share=2.0)),
            "'max_share' parameter of MainSampleRenewal must be",
        ),
        (Holder(None, Holder(3, CLIPEncoder(batch_size=0))), "'batch_size' parameter of CLIP"),
    ],
)
def test_nested_parameters_out_of_range_are_refused(estimator, message):
    with pytest.raises(InvalidParameterError, match=message):
        validate_nested(estimator)


def test_nested_parameters_in_range_pass_and_the_outer_ones_are_not_looked_at():
    validate_nested(CAPClassifier(tau=7, encoder=CLIPEncoder(), calibrator=MarginCalibrator()))


# -- seeds


def test_a_seeded_copy_has_a_seed_wherever_there_was_none():
    given = Holder(np.random.RandomState(0), make_pipeline(CAPClassifier()))
    copied = seeded_copy(given, 7)
    assert copied.second[0].random_state == 7
    assert given.second[0].random_state is None
    assert seeded_copy(CAPClassifier(random_state=3), 7).random_state == 3


def test_nested_estimators_without_constraints_are_left_alone():
    class Anything(BaseEstimator):
        def __init__(self, inner=None):
            self.inner = inner

    validate_nested(Anything(inner=Anything()))
    with pytest.raises(InvalidParameterError, match="The 'm' parameter of MarginCalibrator"):
        validate_nested(Anything(inner=Anything(inner=MarginCalibrator(m=-1))))
