"""The peer ZLaP."""

import dataclasses
import pickle

import numpy as np
import pytest
from sklearn.utils._param_validation import InvalidParameterError

from capkit import CLIPEncoder, ConceptSpace
from capkit.baselines import ZeroShotClassifier, ZLaPClassifier
from capkit.baselines import _neighbors as neighbors_module
from capkit.datasets import load_digits, make_concept_space
from capkit.exceptions import BackboneMismatchError


@pytest.fixture(scope="module")
def problem():
    return make_concept_space(400, 8, 32, n_mismatched=0, text_noise=0.8, random_state=0)


def literal(space, n_neighbors=5, gamma=5.0, alpha=0.3):
    """Scores of texts and images by the inverse of the whole matrix, and the degrees."""
    images, texts = (
        part.astype(np.float64) for part in (space.image_features, space.text_features)
    )
    n_texts, n = len(texts), len(texts) + len(images)
    edges = np.zeros((n, n))
    for i, image in enumerate(images):
        to_texts, to_images = texts @ image, images @ image
        to_images[i] = -np.inf
        for j in np.argsort(-to_texts)[:n_neighbors]:
            edges[n_texts + i, j] = max(0.0, to_texts[j]) ** gamma
        for j in np.argsort(-to_images)[:n_neighbors]:
            if j != i:
                edges[n_texts + i, n_texts + j] = max(0.0, to_images[j]) ** gamma
    weights = edges + edges.T
    degrees = weights.sum(axis=1)
    scaled = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if weights[i, j] > 0:
                scaled[i, j] = weights[i, j] / np.sqrt(degrees[i] * degrees[j])
    return np.linalg.inv(np.eye(n) - alpha * scaled)[:, :n_texts], degrees


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"n_neighbors": 1, "gamma": 1.0},
        {"n_neighbors": 3, "gamma": 10.0, "alpha": 0.95},
        {"n_neighbors": 100},
    ],
)
def test_agrees_with_the_inverse_of_the_whole_matrix(parameters):
    space = make_concept_space(60, 7, 16, n_mismatched=0, text_noise=0.8, random_state=0).space
    classifier = ZLaPClassifier(**parameters).fit(space)
    scores, degrees = literal(space, **parameters)
    np.testing.assert_allclose(classifier.text_scores_, scores[:7], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(classifier.image_scores_, scores[7:], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(classifier.text_degrees_, degrees[:7], rtol=1e-4)
    np.testing.assert_allclose(classifier.image_degrees_, degrees[7:], rtol=1e-4)
    share = scores[7:] / scores[7:].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.predict_proba(space), share, atol=1e-5)


def test_new_images_are_scored_by_the_equation_of_a_node(problem):
    old, new = problem.space[:300], problem.space[300:]
    classifier = ZLaPClassifier().fit(old)
    scores, degrees = literal(old)
    expected = np.empty((100, 8))
    for i, image in enumerate(new.image_features.astype(np.float64)):
        to_texts, to_images = new.text_features @ image, old.image_features @ image
        nodes = [*np.argsort(-to_texts)[:5], *(8 + np.argsort(-to_images)[:5])]
        similarity = np.r_[to_texts, to_images]
        weights = {j: max(0.0, similarity[j]) ** 5 for j in nodes}
        total = sum(weights.values())
        expected[i] = sum(w / np.sqrt(total * degrees[j]) * scores[j] for j, w in weights.items())
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.predict_proba(new), expected, atol=1e-5)


def test_scores_of_images_that_were_fitted_to_solve_the_same_equation(problem):
    classifier = ZLaPClassifier(n_neighbors=400).fit(problem.space)  # every edge found twice
    space, rows = problem.space, np.arange(20)
    similarity = np.c_[
        space.image_features[rows] @ space.text_features.T,
        space.image_features[rows] @ space.image_features.T,
    ].astype(np.float64)
    weights = np.maximum(similarity, 0) ** 5
    weights[:, 8:] *= 2  # images find each other, texts find none
    weights[rows, 8 + rows] = 0
    degrees = np.r_[classifier.text_degrees_, classifier.image_degrees_]
    weights /= np.sqrt(weights.sum(axis=1, keepdims=True) * degrees)
    scores = np.vstack([classifier.text_scores_, classifier.image_scores_])
    np.testing.assert_allclose(0.3 * weights @ scores, classifier.image_scores_[rows], rtol=1e-3)


def test_images_that_were_fitted_to_keep_their_scores(problem):
    classifier = ZLaPClassifier().fit(problem.space)
    rows = np.random.default_rng(0).permutation(400)[:50]
    scores = classifier.image_scores_[rows]
    expected = scores / scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.predict_proba(problem.space[rows]), expected, atol=1e-5)
    # as encoded in another batch: other in the last digit
    images = np.nextafter(problem.space.image_features[rows], np.float32(2))
    again = dataclasses.replace(problem.space[rows], image_features=images)
    np.testing.assert_allclose(classifier.predict_proba(again), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_gains_on_old_and_new_images_where_texts_are_vague(seed):
    problem = make_concept_space(
        800, 8, 64, n_mismatched=0, text_noise=1.2, logit_scale=30.0, random_state=seed
    )
    old, new = problem.space[:400], problem.space[400:]
    classifier, plain = ZLaPClassifier().fit(old), ZeroShotClassifier().fit(old)
    for space, target in ((old, problem.target[:400]), (new, problem.target[400:])):
        assert classifier.score(space, target) > plain.score(space, target) + 0.02


def test_order_of_images_and_of_classes_does_not_matter(problem):
    space, rng = problem.space, np.random.default_rng(0)
    images, classes = rng.permutation(400), rng.permutation(8)
    classifier = ZLaPClassifier().fit(space)
    permuted = ConceptSpace(
        space.image_features[images],
        space.text_features[classes],
        [space.class_names[index] for index in classes],
        space.logit_scale,
    )
    np.testing.assert_allclose(
        ZLaPClassifier().fit(permuted).image_scores_,
        classifier.image_scores_[images][:, classes],
        atol=1e-6,
    )


def test_the_scale_of_logits_does_not_matter(problem):
    scaled = dataclasses.replace(problem.space, logit_scale=1.0)
    np.testing.assert_array_equal(
        ZLaPClassifier().fit(scaled).image_scores_,
        ZLaPClassifier().fit(problem.space).image_scores_,
    )


def test_blocks_of_similarities_do_not_change_the_result(problem, monkeypatch):
    whole = ZLaPClassifier().fit(problem.space)
    monkeypatch.setattr(neighbors_module, "_BLOCK", 1000)
    np.testing.assert_allclose(
        ZLaPClassifier().fit(problem.space).image_scores_, whole.image_scores_, atol=1e-6
    )


def test_one_image_and_images_unlike_any_text_are_no_error(problem):
    one = problem.space[:1]
    assert np.isfinite(ZLaPClassifier().fit(one).predict_proba(one)).all()
    opposite = ConceptSpace(-np.eye(4)[:3], np.eye(4)[:2], ["a", "b"])
    np.testing.assert_allclose(ZLaPClassifier().fit(opposite).predict_proba(opposite), 0.5)


def test_images_and_a_space_of_them_give_the_same():
    digits = load_digits(split="test")
    encoder = CLIPEncoder("glyph", class_names=digits.class_names)
    space = encoder.fit_transform(digits.images)
    by_images = ZLaPClassifier(backbone="glyph", class_names=digits.class_names)
    by_images.fit(digits.images)
    np.testing.assert_array_equal(
        by_images.predict(digits.images), ZLaPClassifier().fit(space).predict(space)
    )
    again = pickle.loads(pickle.dumps(by_images))
    np.testing.assert_array_equal(
        again.predict_proba(digits.images), by_images.predict_proba(digits.images)
    )


def test_labels_are_not_learned_from(problem):
    wrong = (problem.target + 1) % 8
    np.testing.assert_array_equal(
        ZLaPClassifier().fit(problem.space, wrong).image_scores_,
        ZLaPClassifier().fit(problem.space).image_scores_,
    )


@pytest.mark.parametrize(
    "parameters",
    [{"n_neighbors": 0}, {"gamma": 0.0}, {"alpha": 0.0}, {"alpha": 1.0}],
)
def test_parameters_out_of_range_are_refused(problem, parameters):
    with pytest.raises(InvalidParameterError, match=f"The '{next(iter(parameters))}' parameter"):
        ZLaPClassifier(**parameters).fit(problem.space)


def test_unknown_parameters_are_refused():
    with pytest.raises(TypeError, match="beta"):
        ZLaPClassifier(beta=1.0)
    with pytest.raises(ValueError, match="Invalid parameter 'beta'"):
        ZLaPClassifier().set_params(beta=1.0)


def test_features_that_are_no_numbers_or_of_another_backbone_are_refused(problem):
    images = problem.space.image_features.copy()
    images[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        ZLaPClassifier().fit(dataclasses.replace(problem.space, image_features=images))
    space = dataclasses.replace(problem.space, backbone="a", backbone_id="0" * 64)
    classifier = ZLaPClassifier().fit(space)
    with pytest.raises(BackboneMismatchError, match="fingerprint 000000000000"):
        classifier.predict(dataclasses.replace(space, backbone_id="1" * 64))
