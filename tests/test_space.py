"""ConceptSpace: an array of image features that knows its classes."""

import dataclasses
import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.utils import _safe_indexing

from capkit import ConceptSpace
from capkit.exceptions import ClassNamesError
from capkit.space import (
    AlignmentResult,
    GaussianClasses,
    MismatchResult,
    TransductionResult,
    feature_keys,
)


@pytest.fixture
def space():
    images = np.array([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]])
    return ConceptSpace(images, np.eye(2), ["cat", "dog"], logit_scale=10.0, images=list("abcd"))


class Handle(list):
    """The two methods of an ImageSource that the space needs."""

    def take(self, positions):
        return Handle(self[i] for i in positions)


def test_arrays_are_read_only_and_the_callers_stay_writable():
    features = np.eye(2, dtype=np.float32)
    space = ConceptSpace(features, np.eye(2), ["cat", "dog"])
    with pytest.raises(ValueError, match="read-only"):
        space.image_features[0, 0] = 5
    features[0, 0] = 5


def test_array_protocol_gives_the_image_features(space):
    assert space.shape == (4, 2) and len(space) == 4 and space.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(space), space.image_features)
    copied = np.array(space)
    copied[0] = 7
    assert space.image_features[0, 0] == 1
    assert np.asarray(space, dtype=np.float64).dtype == np.float64


@pytest.mark.parametrize(
    "key",
    [slice(1, 3), [2, 0], np.array([2, 0]), np.array([True, False, False, True]), [], slice(0, 0)],
    ids=str,
)
def test_rows_index_like_an_array(key):
    images = np.arange(8.0).reshape(4, 2)
    space = ConceptSpace(images, np.eye(2), ["cat", "dog"], images=Handle("abcd"))
    part = space[key]
    expected = images[key] if len(np.shape(key)) == 0 or len(key) else images[:0]
    np.testing.assert_array_equal(part.image_features, expected)
    np.testing.assert_array_equal(part.sample_indices, np.arange(4)[key] if len(expected) else [])
    assert [ord(item) - ord("a") for item in part.images] == part.sample_indices.tolist()
    assert part.class_names == space.class_names


def test_sample_indices_survive_a_second_selection(space):
    bare = ConceptSpace(space.image_features, space.text_features, space.class_names)
    np.testing.assert_array_equal(bare[[3, 1, 0]][1:].sample_indices, [1, 0])


def test_sample_indices_are_those_of_the_input_where_images_were_skipped():
    space = ConceptSpace(np.eye(3), np.eye(3), ["cat", "dog", "emu"], sample_indices=[1, 4, 6])
    assert space.sample_indices.dtype == np.int64
    assert space[[2, 0]].sample_indices.tolist() == [6, 1]
    with pytest.raises(ValueError, match="read-only"):
        space.sample_indices[0] = 5


def test_an_integer_and_columns_give_values_of_the_array(space):
    np.testing.assert_array_equal(space[1], [0, 1])
    np.testing.assert_array_equal(space[:, 0], space.image_features[:, 0])
    np.testing.assert_array_equal(list(space)[2], space.image_features[2])


def test_scikit_learn_takes_rows_of_it():
    space = ConceptSpace(np.eye(3, 2), np.eye(2), ["cat", "dog"])
    part = _safe_indexing(space, np.array([2, 0]))
    assert isinstance(part, ConceptSpace)
    np.testing.assert_array_equal(part.sample_indices, [2, 0])


def test_prediction_is_the_softmax_of_scaled_cosines(space):
    np.testing.assert_allclose(space.logits()[2], [6, 8], rtol=1e-6)
    np.testing.assert_allclose(
        space.predict_proba()[2], [1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))], rtol=1e-5
    )
    assert space.predict().tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_features": np.eye(3)}, "same width, got 2 and 3"),
        ({"class_names": ["cat"]}, "class_names of length 2, got 1"),
        ({"prompts": ["a", "b", "c"]}, "prompts of length 2, got 3"),
        ({"image_features": np.ones(2)}, "two dimensions"),
        ({"sample_indices": [1]}, "sample_indices of length 4, got 1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message):
    arguments = {
        "image_features": np.ones((4, 2)),
        "text_features": np.eye(2),
        "class_names": ["cat", "dog"],
    }
    with pytest.raises(ValueError, match=message):
        ConceptSpace(**(arguments | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logit_scale": np.nan}, "logit_scale as a number above 0, got nan"),
        ({"logit_scale": np.inf}, "logit_scale as a number above 0, got inf"),
        ({"logit_scale": 0}, "logit_scale as a number above 0, got 0"),
        ({"logit_scale": -100.0}, "logit_scale as a number above 0, got -100"),
        ({"image_features": [[1, 0], [0, np.nan], [np.nan, 0]]}, "2 of 3 rows of image_features"),
        ({"image_features": [[1, 0], [np.inf, 0], [-np.inf, 0]]}, "the first of them row 1"),
        ({"text_features": [[1, 0], [0, -np.inf]]}, "1 of 2 rows of text_features.*row 1"),
        ({"class_names": {"cat", "dog"}}, "got set: a set has no order"),
        ({"class_names": np.array("cat")}, "as a sequence of str, got ndarray of 0 dimensions"),
        ({"class_names": np.array([["cat", "dog"]])}, "got ndarray of 2 dimensions"),
        ({"class_names": "ab"}, "as a sequence of str, got str: 'ab'"),
        ({"class_names": 2}, "as a sequence of str, got int: 2"),
        ({"sample_indices": [0, 1, -1]}, "sample_indices as a row of integers of at least 0"),
        ({"sample_indices": [0, 1, 1.5]}, "sample_indices as a row of integers of at least 0"),
        ({"sample_indices": 3}, "sample_indices as a row of integers of at least 0, got 3"),
    ],
)
def test_values_that_cannot_be_right_are_refused(change, message):
    arguments = {
        "image_features": np.ones((3, 2)),
        "text_features": np.eye(2),
        "class_names": ["cat", "dog"],
    }
    error = ClassNamesError if "class_names" in change else ValueError
    with pytest.raises(error, match=message):
        ConceptSpace(**(arguments | change))


@pytest.mark.parametrize("field", ["image_features", "text_features"])
@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.eye(2) + 1j, "as real numbers, got ndarray of dtype complex128"),
        ([[1, 0], [0, 1 + 0j]], "as real numbers, got list of dtype complex128"),
        ([["1", "0"], ["0", "1"]], "as real numbers, got list of dtype <U1"),
        (np.full((2, 2), object()), "as real numbers, got ndarray of dtype object"),
        (np.full((2, 2), np.datetime64("2026")), "as real numbers, got ndarray of dtype datetime"),
        (None, "as real numbers, got NoneType of dtype object"),
        ([[1, 0], [1]], "as rows of numbers of one length, got list, .*inhomogeneous"),
        (torch.ones(2, 2, requires_grad=True), "as rows of numbers .*got Tensor, .*requires grad"),
    ],
)
def test_features_that_are_no_real_numbers_are_refused(field, features, message):
    right = {"image_features": np.eye(2), "text_features": np.eye(2)}
    with pytest.raises(ValueError, match=f"expected {field} {message}.*Pass an array of shape"):
        ConceptSpace(**{**right, field: features}, class_names=["cat", "dog"])


@pytest.mark.parametrize(
    "features", [[[1, 0], [0, 1]], np.eye(2, dtype=bool), np.eye(2, dtype=np.int8), torch.eye(2)]
)
def test_features_may_be_any_real_numbers(features):
    space = ConceptSpace(features, features, ["cat", "dog"])
    assert space.image_features.dtype == space.text_features.dtype == np.float32
    np.testing.assert_array_equal(space.image_features, np.eye(2))


@pytest.mark.parametrize(
    "scale",
    [
        *(None, "100", b"100", [100.0], 100j, np.complex128(100), np.array(100j), np.ones(1)),
        *(float, 10**400, 1e300, 1e-300),
    ],
    ids=repr,
)
def test_a_logit_scale_that_is_no_number_or_beyond_float32_is_refused(scale):
    with pytest.raises(ValueError, match=r"logit_scale as a number above 0, got .*float32"):
        ConceptSpace(np.eye(2), np.eye(2), ["cat", "dog"], scale)


@pytest.mark.parametrize("scale", [50, np.float32(50), np.array(50.0), torch.tensor(50.0)])
def test_a_logit_scale_may_be_any_number(scale):
    space = ConceptSpace(np.eye(2), np.eye(2), ["cat", "dog"], scale)
    assert type(space.logit_scale) is float and space.logit_scale == 50.0


def test_large_finite_features_are_not_taken_for_infinite():
    largest = np.finfo(np.float32).max  # a sum of two of them is infinite in float32
    space = ConceptSpace(np.full((3, 2), largest), np.eye(2), ["cat", "dog"])
    assert (space.image_features == largest).all()


def test_pickle_round_trip(space):
    again = pickle.loads(pickle.dumps(space))
    np.testing.assert_array_equal(again.image_features, space.image_features)
    assert again.class_names == space.class_names and again.logit_scale == space.logit_scale


# -- images that are known again


def fitted_on(features, own_classes, own_share):
    """Gaussians that know these images again."""
    keys = feature_keys(features)
    order = np.argsort(keys)
    return GaussianClasses(
        whitening=np.eye(2, dtype=np.float32),
        whitened_means=np.eye(2, dtype=np.float32),
        mean_variance=np.ones(2),
        dimension=2.0,
        log_prior=np.zeros(2),
        trust=1.0,
        keys=keys[order],
        own_classes=np.asarray(own_classes, dtype=np.int32)[order],
        own_share=np.asarray(own_share, dtype=np.float32)[order],
    )


def test_feature_keys_are_equal_where_the_features_are():
    rows = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    keys = feature_keys(rows)
    assert keys.dtype == np.uint64 and len(np.unique(keys)) == 500
    np.testing.assert_array_equal(feature_keys(rows.copy()[::-1]), keys[::-1])
    np.testing.assert_array_equal(feature_keys(np.asfortranarray(rows)[3:9]), keys[3:9])
    np.testing.assert_array_equal(feature_keys(rows.astype(np.float64)), keys)
    assert (feature_keys(np.nextafter(rows, np.float32(9))) != keys).all()
    assert feature_keys(rows[:0]).shape == (0,)


def test_feature_keys_stay_the_same_from_one_process_to_the_next():
    # A pickled classifier knows its images by them.
    assert feature_keys(np.array([[1.0, 0.5]])).tolist() == [11742460949729344499]


def test_own_shares_are_those_of_the_images_that_were_fitted_on():
    features = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    classes = fitted_on(features, [[0, 1], [1, 0], [1, 0]], [[0.9, 0.1], [1, 0], [0.7, 0.3]])
    new = np.array([[0.8, 0.6]], dtype=np.float32)
    asked = np.concatenate([new, features[[2, 0]], new, features[[2]]])
    rows, own_classes, own_share = classes.own_shares(asked)
    assert rows.tolist() == [1, 2, 4]
    assert own_classes.tolist() == [[1, 0], [0, 1], [1, 0]]
    np.testing.assert_allclose(own_share, [[0.7, 0.3], [0.9, 0.1], [0.7, 0.3]], rtol=1e-6)


@pytest.mark.parametrize("n_new", [0, 1, 200])
def test_new_images_have_no_shares(n_new):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3, 2)).astype(np.float32)
    classes = fitted_on(features, [[0], [1], [1]], np.ones((3, 1)))
    rows, own_classes, own_share = classes.own_shares(rng.standard_normal((n_new, 2)))
    assert rows.shape == (0,) and own_classes.shape == own_share.shape == (0, 1)


def test_gaussians_that_remember_no_image_know_none_again():
    classes = fitted_on(np.empty((0, 2)), np.empty((0, 1)), np.empty((0, 1)))
    rows, own_classes, own_share = classes.own_shares(np.eye(2))
    assert rows.shape == (0,) and own_classes.shape == own_share.shape == (0, 1)


def by_pickle(value, path):
    return pickle.loads(pickle.dumps(value))


def by_joblib(value, path):
    joblib.dump(value, path)
    return joblib.load(path)


@pytest.mark.parametrize("way", [by_pickle, by_joblib])
@pytest.mark.parametrize(
    "empty", [np.empty(0, dtype=np.int64), np.arange(3)[:0]], ids=["array", "slice"]
)
def test_what_a_stage_found_is_the_same_after_a_way_through_a_file(way, empty, tmp_path):
    for result in (
        MismatchResult(mismatched=empty, class_centers=np.eye(2, dtype=np.float32)),
        AlignmentResult(shift=np.eye(2, dtype=np.float32), aligned=empty, descriptions={}),
        TransductionResult(classes=None, mismatched=empty, report=None),
    ):
        again = way(result, tmp_path / "result")
        assert joblib.hash(again) == joblib.hash(result)
        assert joblib.hash(again) != joblib.hash(dataclasses.replace(result, **changed(result)))


def changed(result):
    """A field that is empty, with something in it."""
    name = "aligned" if isinstance(result, AlignmentResult) else "mismatched"
    return {name: np.array([1])}
