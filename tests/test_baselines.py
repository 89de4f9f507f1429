"""Baselines: the zero-shot classifier against the model's own formula."""

import dataclasses
import pickle

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline

from capkit import CLIPEncoder, ConceptSpace
from capkit.baselines import ZeroShotClassifier
from capkit.exceptions import BackboneMismatchError, ClassNamesError, LabelError
from capkit.model_selection import LabeledKFold

NAMES = ["ring", "bar", "cross"]  # not in alphabetical order


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def space():
    features = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0]])
    return ConceptSpace(features, np.eye(3), NAMES, logit_scale=10.0, backbone_id="one")


def test_predicts_the_most_similar_text(space):
    classifier = ZeroShotClassifier().fit(space)
    assert classifier.predict(space).tolist() == ["ring", "bar", "cross", "bar"]
    assert classifier.class_names_ == tuple(NAMES)


def test_columns_are_in_the_order_of_classes(space):
    classifier = ZeroShotClassifier().fit(space)
    assert classifier.classes_.tolist() == ["bar", "cross", "ring"]
    np.testing.assert_allclose(classifier.decision_function(space)[3], [8, 0, 6], rtol=1e-6)
    np.testing.assert_allclose(classifier.predict_proba(space)[3], softmax([8, 0, 6]), rtol=1e-6)


def test_answers_in_the_kind_of_y_from_which_nothing_is_learned(space):
    by_index = ZeroShotClassifier().fit(space, [2, -1, 0, None])
    assert by_index.predict(space).tolist() == [0, 1, 2, 1]
    assert by_index.classes_.tolist() == [0, 1, 2]
    shuffled = ZeroShotClassifier().fit(space, [0, 0, 2, -1])
    np.testing.assert_array_equal(shuffled.predict_proba(space), by_index.predict_proba(space))
    np.testing.assert_allclose(by_index.predict_proba(space)[3], softmax([6, 8, 0]), rtol=1e-6)
    with pytest.raises(LabelError, match="'square' of image 0 is no class"):
        ZeroShotClassifier().fit(space, ["square", "bar", None, -1])


def test_indices_of_all_images_are_refused_where_they_may_be_positions(space):
    # scikit-learn would pass these for bar, bar, ring, cross; as indices they are ring, ring, ...
    with pytest.raises(LabelError, match="y holds an integer for each image"):
        ZeroShotClassifier().fit(space, [0, 0, 2, 1])
    in_order = dataclasses.replace(space, class_names=sorted(NAMES))
    with pytest.raises(LabelError, match="y holds an integer for each image"):
        ZeroShotClassifier().fit(in_order, [0, 0, 2, 2])  # no image of class 1
    assert ZeroShotClassifier().fit(in_order, [0, 0, 2, 1]).predict(space).tolist() == [0, 1, 2, 1]


def test_score_leaves_unlabeled_images_out_and_takes_both_kinds(space):
    classifier = ZeroShotClassifier().fit(space)
    assert classifier.score(space, ["ring", "ring", -1, "bar"]) == pytest.approx(2 / 3)
    assert classifier.score(space, [0, 0, None, 1]) == pytest.approx(2 / 3)
    assert classifier.score(space, [0, 0, -1, 1], sample_weight=[1, 2, 5, 1]) == 0.5
    with pytest.raises(ValueError, match="at least one labeled image"):
        classifier.score(space, [-1] * 4)
    with pytest.raises(LabelError, match="'square' of image 0 is no class"):
        classifier.score(space, ["square", -1, -1, -1])


def test_two_classes_have_one_decision_value():
    space = ConceptSpace(np.eye(2), np.eye(2), ["dog", "cat"], logit_scale=5.0)
    classifier = ZeroShotClassifier().fit(space)
    np.testing.assert_allclose(classifier.decision_function(space), [5, -5])  # dog minus cat


def test_images_and_a_space_of_them_give_the_same(images, random_backbone):
    alone = ZeroShotClassifier(backbone=random_backbone).fit(images, class_names=NAMES)
    steps = make_pipeline(
        CLIPEncoder(random_backbone, class_names=NAMES), ZeroShotClassifier()
    ).fit(images)
    np.testing.assert_array_equal(alone.predict_proba(images), steps.predict_proba(images))
    space = CLIPEncoder(random_backbone, class_names=NAMES).fit_transform(images)
    order = np.argsort(NAMES)
    np.testing.assert_allclose(alone.predict_proba(space), space.predict_proba()[:, order], 1e-5)


def test_the_template_reaches_the_encoder(images, random_backbone):
    encoder = CLIPEncoder(template="a drawing of a {}")
    fitted = ZeroShotClassifier(backbone=random_backbone, class_names=NAMES, encoder=encoder).fit(
        images
    )
    alone = CLIPEncoder(random_backbone, class_names=NAMES, template="a drawing of a {}")
    np.testing.assert_array_equal(fitted.text_features_, alone.fit(images).text_features_)
    assert (fitted.backbone_name_, fitted.backbone_id_) == (
        alone.backbone_name_,
        alone.backbone_id_,
    )
    assert encoder.get_params() == CLIPEncoder(template="a drawing of a {}").get_params()
    assert not hasattr(encoder, "text_features_")  # a clone was fitted


def test_class_names_of_the_encoder_are_those_of_the_classifier(images, random_backbone):
    encoder = CLIPEncoder(random_backbone, class_names=NAMES)
    fitted = ZeroShotClassifier(encoder=encoder).fit(images)
    assert fitted.class_names_ == tuple(NAMES)
    assert fitted.backbone_name_ == random_backbone


def test_fit_encodes_no_image_and_prediction_each_once(images, random_backbone, encoded_images):
    classifier = ZeroShotClassifier(
        backbone=random_backbone, class_names=NAMES, encoder=CLIPEncoder(batch_size=5)
    ).fit(images)
    assert encoded_images == []
    first = classifier.predict_proba(images)
    assert encoded_images == [5, 5, 2]
    np.testing.assert_array_equal(classifier.predict_proba(images), first)
    assert encoded_images == [5, 5, 2]


@pytest.mark.parametrize("name", ["backbone", "device"])
def test_encoder_that_contradicts_the_classifier_is_refused(images, name):
    classifier = ZeroShotClassifier(
        class_names=NAMES, encoder=CLIPEncoder(**{name: "one"}), **{name: "two"}
    )
    with pytest.raises(
        ValueError, match=f"{name}='two' and the encoder's {name}='one' differ. Name it in one"
    ):
        classifier.fit(images)


def test_parameters_of_an_encoder_that_is_not_there_are_refused():
    classifier = ZeroShotClassifier()
    with pytest.raises(
        ValueError, match="encoder__template cannot be set, as encoder=None is no object with"
    ):
        classifier.set_params(encoder__template="{}")
    classifier.set_params(encoder=CLIPEncoder(), encoder__template="{}")
    assert classifier.encoder.template == "{}"


def test_class_names_as_parameter_and_as_fit_argument_in_a_search(images, random_backbone):
    y = ["ring", "bar", "cross", -1] * 3
    names = [*NAMES, "square"]  # a class that no fold has
    templates = {"encoder__template": ["a photo of a {}", "{}"]}
    cv = LabeledKFold(3)
    unnamed = ZeroShotClassifier(backbone=random_backbone, encoder=CLIPEncoder())
    named = clone(unnamed).set_params(class_names=names)
    by_parameter = GridSearchCV(named, templates, cv=cv).fit(images, y)
    for routing in (False, True):
        with config_context(enable_metadata_routing=routing):
            by_argument = GridSearchCV(unnamed, templates, cv=cv).fit(images, y, class_names=names)
        assert by_argument.best_estimator_.class_names_ == tuple(names)
        np.testing.assert_array_equal(
            by_argument.cv_results_["mean_test_score"], by_parameter.cv_results_["mean_test_score"]
        )
    assert by_parameter.predict_proba(images).shape == (12, 4)


def test_cross_val_predict_of_any_image_input(images, random_backbone):
    classifier = ZeroShotClassifier(backbone=random_backbone, class_names=NAMES)
    y = NAMES * 4
    predicted = cross_val_predict(classifier, list(images), y, cv=2)
    np.testing.assert_array_equal(predicted, classifier.fit(images, y).predict(images))
    classifier.set_params(class_names=sorted(NAMES))  # in alphabetical order, so indices do too
    y = [0, 1, 2] * 4
    predicted = cross_val_predict(classifier, list(images), y, cv=2)
    assert set(predicted) <= {0, 1, 2}
    np.testing.assert_array_equal(predicted, classifier.fit(images, y).predict(images))


def test_columns_of_cross_val_predict_are_the_classes(images, random_backbone):
    # scikit-learn passes positions of sorted labels here: they are indices into sorted names.
    names = sorted(NAMES)
    classifier = ZeroShotClassifier(backbone=random_backbone, class_names=names)
    expected = clone(classifier).fit(images).predict_proba(images)
    for y in (NAMES * 4, [2, 0, 1] * 4):
        found = cross_val_predict(classifier, images, y, cv=2, method="predict_proba")
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    classifier.set_params(class_names=NAMES)
    with pytest.raises(LabelError, match="class_names in alphabetical order"):
        cross_val_predict(classifier, images, NAMES * 4, cv=2, method="predict_proba")


@pytest.mark.parametrize("duplicate", [clone, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_predict_the_same(images, random_backbone, duplicate):
    classifier = ZeroShotClassifier(backbone=random_backbone, class_names=NAMES).fit(images)
    again = duplicate(classifier)
    if not hasattr(again, "classes_"):
        again.fit(images)
    np.testing.assert_array_equal(again.predict_proba(images), classifier.predict_proba(images))


def test_what_it_was_not_fitted_to_is_refused(space, images):
    with pytest.raises(NotFittedError):
        ZeroShotClassifier().predict(space)
    classifier = ZeroShotClassifier().fit(space)
    with pytest.raises(ValueError, match=r"ZeroShotClassifier .* names no backbone"):
        classifier.predict(images)
    narrow = ConceptSpace(np.eye(2), np.eye(3)[:, :2], NAMES)
    with pytest.raises(ValueError, match="X has 2 features, but ZeroShotClassifier is expect"):
        classifier.predict(narrow)
    other = ConceptSpace(np.eye(3), np.eye(3), NAMES, backbone_id="two")
    with pytest.raises(
        BackboneMismatchError, match=r"ZeroShotClassifier expected .* one\.\.\., got .* two\.\.\."
    ):
        classifier.predict(other)


def test_fitted_to_a_space_that_names_its_backbone_it_predicts_images(images, random_backbone):
    space = CLIPEncoder(random_backbone, class_names=NAMES).fit_transform(images)
    classifier = ZeroShotClassifier().fit(space)
    np.testing.assert_array_equal(classifier.predict(images), classifier.predict(space))
    assert classifier.backbone_.identity == space.backbone_id


def test_bad_class_names_are_found_before_the_model_is_loaded(space, images):
    missing = ZeroShotClassifier(backbone="there is no such backbone")
    with pytest.raises(ClassNamesError, match="got none"):
        missing.fit(images)
    with pytest.raises(ClassNamesError, match="constructor instead"):
        missing.fit(images, class_names=[f"class {i}" for i in range(12)])
    with pytest.raises(ClassNamesError, match="differ from those of the ConceptSpace"):
        ZeroShotClassifier(class_names=["cat", "dog"]).fit(space)
    with pytest.raises(ValueError, match="0 sample"):
        missing.fit([], class_names=NAMES)


def test_parameters_are_checked_with_scikit_learns_words(images):
    with pytest.raises(ValueError, match="'device' parameter of ZeroShotClassifier must be"):
        ZeroShotClassifier(device=0).fit(images, class_names=NAMES)
    # Those of the encoder too, and before the model is loaded.
    missing = ZeroShotClassifier(
        backbone="there is no such backbone", encoder=CLIPEncoder(batch_size=0)
    )
    with pytest.raises(ValueError, match="'batch_size' parameter of CLIPEncoder must be"):
        missing.fit(images, class_names=NAMES)


def test_tags_are_honest():
    tags = ZeroShotClassifier().__sklearn_tags__()
    assert tags.estimator_type == "classifier"
    assert not tags.input_tags.two_d_array
    assert not tags.target_tags.required
