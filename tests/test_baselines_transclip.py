"""The peer TransCLIP."""

import dataclasses
import pickle

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.utils._param_validation import InvalidParameterError

from capkit import CLIPEncoder, ConceptSpace
from capkit.baselines import TransCLIPClassifier, ZeroShotClassifier
from capkit.baselines import _neighbors as neighbors_module
from capkit.datasets import load_digits, make_concept_space
from capkit.exceptions import BackboneMismatchError


@pytest.fixture(scope="module")
def problem():
    return make_concept_space(400, 8, 32, n_mismatched=0, text_noise=0.8, random_state=0)


def normal_density(feature, mean, variance):
    """Logarithm, with its constants."""
    distance = sum((f - m) ** 2 / v for f, m, v in zip(feature, mean, variance, strict=True))
    return -0.5 * distance - 0.5 * np.log(2 * np.pi * variance).sum()


def affinities(images, n_neighbors):
    """All of ``w``."""
    a = np.zeros((len(images), len(images)))
    for i, image in enumerate(images):
        similarity = images @ image
        similarity[i] = -np.inf
        for j in np.argsort(-similarity)[:n_neighbors]:
            a[i, j] = max(0.0, similarity[j])
    return (a + a.T) / (2 * max(1, min(n_neighbors, len(images) - 1)))


def unit_mean(features, weights):
    mean = sum(w * f for w, f in zip(weights, features, strict=True)) / sum(weights)
    return mean / np.sqrt((mean**2).sum())


def literal(space, lam=1.0, n_neighbors=3, n_confident=8, n_outer=10, n_inner=5):
    """The method as its formulas say, a number at a time."""
    images, n_classes = space.image_features.astype(np.float64), space.n_classes
    n, d = images.shape
    y, w = softmax(space.logits().astype(np.float64), axis=1), affinities(images, n_neighbors)
    confident = [np.argsort(-y[:, k])[:n_confident] for k in range(n_classes)]
    means = np.array([unit_mean(images[rows], y[rows, k]) for k, rows in enumerate(confident)])
    variance, z = np.full(d, 1 / d), y
    for _ in range(n_outer):
        log_p = [
            [normal_density(images[i], means[k], variance) for k in range(n_classes)]
            for i in range(n)
        ]
        for _ in range(n_inner):
            alone = [lam * np.log(y[i]) + np.array(log_p[i]) / 50 for i in range(n)]
            z = np.array([softmax(alone[i] + w[i] @ z) for i in range(n)])
        means = np.array([unit_mean(images, z[:, k]) for k in range(n_classes)])
        variance = (
            sum(z[i, k] * (images[i] - means[k]) ** 2 for i in range(n) for k in range(n_classes))
            / n
        )
    return z, means, variance


@pytest.mark.parametrize(
    "parameters",
    [
        {"n_outer": 3, "n_inner": 2},
        {"n_outer": 2, "n_inner": 1, "lam": 0.3, "n_neighbors": 5, "n_confident": 3},
        {"n_outer": 1, "n_inner": 3, "lam": 0.0, "n_neighbors": 0},
        {"n_outer": 1, "n_inner": 1, "n_neighbors": 500, "n_confident": 500},
    ],
)
def test_agrees_with_the_formulas_written_out(parameters):
    space = make_concept_space(
        60, 4, 12, n_mismatched=0, text_noise=0.8, logit_scale=20.0, random_state=0
    ).space
    classifier = TransCLIPClassifier(**parameters).fit(space)
    shares, means, variances = literal(space, **parameters)
    np.testing.assert_allclose(classifier.shares_, shares, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(classifier.means_, means, atol=1e-5)
    np.testing.assert_allclose(classifier.variances_, variances, rtol=1e-4)


def test_new_images_are_given_one_update_by_the_formula(problem):
    old, new = problem.space[:300], problem.space[300:]
    classifier = TransCLIPClassifier().fit(old)
    y = softmax(new.logits().astype(np.float64), axis=1)
    expected = np.empty_like(y)
    for i, image in enumerate(new.image_features.astype(np.float64)):
        similarity = old.image_features @ image
        vote = sum(similarity[j] * classifier.shares_[j] for j in np.argsort(-similarity)[:3]) / 3
        log_p = [normal_density(image, m, classifier.variances_) for m in classifier.means_]
        expected[i] = softmax(np.log(y[i]) + np.array(log_p) / 50 + vote)
    np.testing.assert_allclose(classifier.predict_proba(new), expected, atol=1e-4)


def test_images_that_were_fitted_to_keep_their_shares(problem):
    classifier = TransCLIPClassifier().fit(problem.space)
    rows = np.random.default_rng(0).permutation(400)[:50]
    expected = classifier.shares_[rows]
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
    classifier, plain = TransCLIPClassifier().fit(old), ZeroShotClassifier().fit(old)
    for space, target in ((old, problem.target[:400]), (new, problem.target[400:])):
        assert classifier.score(space, target) > plain.score(space, target) + 0.02


def test_order_of_images_does_not_matter(problem):
    order = np.random.default_rng(0).permutation(400)
    classifier = TransCLIPClassifier().fit(problem.space)
    permuted = TransCLIPClassifier().fit(problem.space[order])
    np.testing.assert_allclose(permuted.shares_, classifier.shares_[order], atol=1e-5)
    np.testing.assert_allclose(permuted.means_, classifier.means_, atol=1e-6)


def test_order_of_classes_does_not_matter(problem):
    space, order = problem.space, np.random.default_rng(0).permutation(8)
    permuted = ConceptSpace(
        space.image_features,
        space.text_features[order],
        [space.class_names[index] for index in order],
        space.logit_scale,
    )
    np.testing.assert_array_equal(
        TransCLIPClassifier().fit(permuted).predict(space),
        TransCLIPClassifier().fit(space).predict(space),
    )


def test_blocks_of_similarities_do_not_change_the_result(problem, monkeypatch):
    whole = TransCLIPClassifier().fit(problem.space)
    monkeypatch.setattr(neighbors_module, "_BLOCK", 1000)
    np.testing.assert_allclose(
        TransCLIPClassifier().fit(problem.space).shares_, whole.shares_, atol=1e-5
    )


def test_one_image_and_equal_images_are_no_error(problem):
    one = problem.space[:1]
    probabilities = TransCLIPClassifier().fit(one).predict_proba(one)
    assert np.isfinite(probabilities).all()
    equal = problem.space[np.zeros(20, dtype=int)]
    probabilities = TransCLIPClassifier().fit(equal).predict_proba(equal)
    np.testing.assert_allclose(probabilities, probabilities[:1].repeat(20, axis=0), atol=1e-6)


def test_images_and_a_space_of_them_give_the_same():
    digits = load_digits(split="test")
    encoder = CLIPEncoder("glyph", class_names=digits.class_names)
    space = encoder.fit_transform(digits.images)
    by_images = TransCLIPClassifier(backbone="glyph", class_names=digits.class_names)
    by_images.fit(digits.images)
    np.testing.assert_array_equal(
        by_images.predict(digits.images), TransCLIPClassifier().fit(space).predict(space)
    )
    again = pickle.loads(pickle.dumps(by_images))
    np.testing.assert_array_equal(
        again.predict_proba(digits.images), by_images.predict_proba(digits.images)
    )


def test_labels_are_not_learned_from(problem):
    wrong = (problem.target + 1) % 8
    np.testing.assert_array_equal(
        TransCLIPClassifier().fit(problem.space, wrong).shares_,
        TransCLIPClassifier().fit(problem.space).shares_,
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {"lam": -0.1},
        {"n_neighbors": -1},
        {"n_neighbors": 2.5},
        {"n_confident": 0},
        {"n_outer": 0},
        {"n_inner": 0},
    ],
)
def test_parameters_out_of_range_are_refused(problem, parameters):
    with pytest.raises(InvalidParameterError, match=f"The '{next(iter(parameters))}' parameter"):
        TransCLIPClassifier(**parameters).fit(problem.space)


def test_unknown_parameters_are_refused():
    with pytest.raises(TypeError, match="gamma"):
        TransCLIPClassifier(gamma=1.0)
    with pytest.raises(ValueError, match="Invalid parameter 'gamma'"):
        TransCLIPClassifier().set_params(gamma=1.0)


def test_features_that_are_no_numbers_or_of_another_backbone_are_refused(problem):
    images = problem.space.image_features.copy()
    images[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        TransCLIPClassifier().fit(dataclasses.replace(problem.space, image_features=images))
    space = dataclasses.replace(problem.space, backbone="a", backbone_id="0" * 64)
    classifier = TransCLIPClassifier().fit(space)
    with pytest.raises(BackboneMismatchError, match="fingerprint 000000000000"):
        classifier.predict(dataclasses.replace(space, backbone_id="1" * 64))
