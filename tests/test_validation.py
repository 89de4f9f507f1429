"""Class names and labels: what is taken, what is refused and why."""

import numpy as np
import pytest

from capkit._validation import LabelCodec, is_unlabeled, resolve_class_names
from capkit.exceptions import ClassNamesError, LabelError

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
    ],
)
def test_labels_that_cannot_be_right_are_refused(y, message):
    with pytest.raises(LabelError, match=message):
        LabelCodec.from_labels(y, NAMES, 2)


def test_classes_are_sorted_and_column_order_leads_back():
    codec = LabelCodec(NAMES, "name")
    assert codec.classes.tolist() == ["forest", "lake", "river"]
    assert [NAMES[i] for i in codec.column_order] == codec.classes.tolist()
    assert LabelCodec(NAMES, "index").classes.tolist() == [0, 1, 2]


def test_decode_answers_in_the_kind_of_y():
    assert LabelCodec(NAMES, "name").decode([2, 0]).tolist() == ["lake", "river"]
    assert LabelCodec(NAMES, "index").decode([2, 0]).tolist() == [2, 0]


def test_unlabeled_marks():
    assert all(is_unlabeled(mark) for mark in (-1, None, float("nan"), np.int64(-1), "-1"))
    assert not any(is_unlabeled(label) for label in (0, "", "lake", 1.0))
