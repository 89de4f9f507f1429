"""Baselines: the zero-shot classifier against the model's own formula."""

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


def test_answers_in_the_kind_of_y_whose_values_are_not_looked_at(space):
    by_index = ZeroShotClassifier().fit(space, [2, -1, 0, None])
    assert by_index.predict(space).tolist() == [0, 1, 2, 1]
    assert by_index.classes_.tolist() == [0, 1, 2]
    shuffled = ZeroShotClassifier().fit(space, [0, 0, 2, 1])
    np.testing.assert_array_equal(shuffled.predict_proba(space), by_index.predict_proba(space))
    np.testing.assert_allclose(by_index.predict_proba(space)[3], softmax([6, 8, 0]), rtol=1e-6)


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
    fitted = ZeroShotClassifier(
        backbone=random_backbone, class_names=NAMES, template="a drawing of a {}"
    ).fit(images)
    assert fitted.encoder_.prompts_[0] == "a drawing of a ring"


def test_class_names_as_parameter_and_as_fit_argument_in_a_search(images, random_backbone):
    y = ["ring", "bar", "cross", -1] * 3
    names = [*NAMES, "square"]  # a class that no fold has
    templates = {"template": ["a photo of a {}", "{}"]}
    cv = LabeledKFold(3)
    by_parameter = GridSearchCV(
        ZeroShotClassifier(backbone=random_backbone, class_names=names), templates, cv=cv
    ).fit(images, y)
    for routing in (False, True):
        with config_context(enable_metadata_routing=routing):
            by_argument = GridSearchCV(
                ZeroShotClassifier(backbone=random_backbone), templates, cv=cv
            ).fit(images, y, class_names=names)
        assert by_argument.best_estimator_.class_names_ == tuple(names)
        np.testing.assert_array_equal(
            by_argument.cv_results_["mean_test_score"], by_parameter.cv_results_["mean_test_score"]
        )
    assert by_parameter.predict_proba(images).shape == (12, 4)


def test_cross_val_predict_of_any_image_input(images, random_backbone):
    classifier = ZeroShotClassifier(backbone=random_backbone, class_names=NAMES)
    y = [0, 1, 2] * 4
    predicted = cross_val_predict(classifier, list(images), y, cv=2)
    np.testing.assert_array_equal(predicted, classifier.fit(images, y).predict(images))


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
    with pytest.raises(TypeError, match="ZeroShotClassifier expected a ConceptSpace"):
        classifier.predict(images)
    narrow = ConceptSpace(np.eye(2), np.eye(3)[:, :2], NAMES)
    with pytest.raises(ValueError, match="X has 2 features, but ZeroShotClassifier is expect"):
        classifier.predict(narrow)
    other = ConceptSpace(np.eye(3), np.eye(3), NAMES, backbone_id="two")
    with pytest.raises(BackboneMismatchError, match="another backbone"):
        classifier.predict(other)


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
    with pytest.raises(ValueError, match="'batch_size' parameter of ZeroShotClassifier must be"):
        ZeroShotClassifier(batch_size=0).fit(images, class_names=NAMES)


def test_tags_are_honest():
    tags = ZeroShotClassifier().__sklearn_tags__()
    assert tags.estimator_type == "classifier"
    assert not tags.input_tags.two_d_array
    assert not tags.target_tags.required
