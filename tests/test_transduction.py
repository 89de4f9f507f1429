"""Gaussian transduction: the formulas by hand, and the whole against a literal form of itself."""

import dataclasses
import pickle

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone

from capkit import ConceptAligner, ConceptSpace, GaussianTransduction, MismatchDetector
from capkit import transduction as module
from capkit.datasets import make_concept_space
from capkit.space import GaussianClasses, feature_keys
from capkit.transduction import (
    fit_class_means,
    gaussian_log_evidence,
    gaussian_trust,
    log_class_prior,
    shrunk_whitening,
    text_log_probabilities,
)


def planted(**changes):
    options = {"n_images": 300, "n_classes": 8, "n_features": 32, "n_mismatched": 0}
    return make_concept_space(**options | {"text_noise": 0.8, "random_state": 0} | changes)


def accuracy(labels, problem):
    return (labels == problem.target).mean()


# -- the formulas


def test_texts_alone_are_the_zero_shot_probabilities():
    logits = np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    np.testing.assert_allclose(np.exp(text_log_probabilities(logits)), softmax(logits, axis=1))


def test_a_mismatched_class_s_text_counts_as_an_average_one():
    logits = np.log([[0.6, 0.2, 9.0], [0.2, 0.2, 1e-9]])
    probabilities = np.exp(text_log_probabilities(logits, mismatched=[2]))
    np.testing.assert_allclose(probabilities[0], [0.6 / 1.2, 0.2 / 1.2, 0.4 / 1.2])
    np.testing.assert_allclose(probabilities[1], [1 / 3] * 3)


def test_a_class_without_images_lies_where_its_text_says():
    # one class with 4 images at (1, 0): slope = (0.5 * 0.5) / (0.5^2 + 0.5^2) = 0.5
    sums = np.array([[4.0, 0.0], [0.0, 0.0]])
    means = fit_class_means(np.array([4, 0]), sums, np.eye(2), np.array([0.5, 0.0]), kappa=4.0)
    np.testing.assert_allclose(means[1], [0.5 - 0.25, 0.25])
    np.testing.assert_allclose(means[0], ([4.0, 0.0] + 4 * np.array([0.75, -0.25])) / 8)


def test_texts_that_point_the_wrong_way_are_given_no_contrast():
    sums = np.array([[0.0, 4.0], [4.0, 0.0]])
    means = fit_class_means(np.array([4, 4]), sums, np.eye(2), np.array([0.5, 0.5]), kappa=4.0)
    np.testing.assert_allclose(means, [[0.25, 0.75], [0.75, 0.25]])


def test_a_mismatched_class_starts_at_its_cluster():
    centers = np.array([[9.0, 9.0], [0.0, 1.0]])
    means = fit_class_means(
        np.array([4, 0]), np.array([[4.0, 0], [0, 0]]), np.eye(2), np.zeros(2), 4.0, centers, [1]
    )
    np.testing.assert_allclose(means[1], centers[1])


@pytest.mark.parametrize("shrinkage", [0.0, 0.5, 1.0])
def test_whitening_makes_the_shrunk_covariance_the_identity(shrinkage):
    root = np.random.default_rng(0).standard_normal((6, 6))
    covariance = root @ root.T
    whitening, dimension = shrunk_whitening(covariance, shrinkage)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / 6 * np.eye(6)
    np.testing.assert_allclose(whitening.T @ shrunk @ whitening, np.eye(6), atol=1e-9)
    assert dimension == pytest.approx(np.trace(whitening.T @ covariance @ whitening))


def test_class_prior_is_relative_to_equal_classes_and_drawn_towards_them():
    np.testing.assert_allclose(
        np.exp(log_class_prior(np.array([90.0, 30.0]), 120)), [120 / 90, 60 / 90]
    )
    np.testing.assert_allclose(log_class_prior(np.full(4, 7.0), 28), 0, atol=1e-12)


def test_trust_grows_with_the_median_class_and_falls_with_the_number_of_classes():
    counts = np.array([1.0, 14.0, 900.0])
    assert gaussian_trust(counts) == pytest.approx(14 / (14 + 14 * np.log(3)))
    assert gaussian_trust(np.full(600, 14.0)) < gaussian_trust(np.full(3, 14.0))
    assert gaussian_trust(np.zeros(3)) == 0


def make_classes(**changes):
    """Two classes at (1, 0) and (0, 2), identity covariance."""
    fields = {
        "whitening": np.eye(2, dtype=np.float32),
        "whitened_means": np.array([[1.0, 0.0], [0.0, 2.0]], dtype=np.float32),
        "mean_variance": np.array([0.5, 0.25]),
        "dimension": 2.0,
        "log_prior": np.array([0.1, -0.1]),
        "trust": 0.5,
        "keys": np.empty(0, dtype=np.uint64),
        "own_classes": np.empty((0, 1), dtype=np.int32),
        "own_share": np.empty((0, 1), dtype=np.float32),
    }
    return GaussianClasses(**fields | changes)


def test_evidence_is_the_distance_less_what_the_mean_s_uncertainty_adds():
    evidence = gaussian_log_evidence(np.zeros((1, 2), dtype=np.float32), make_classes())
    # -0.25 * (1 - 2 * 0.5) + 0.1 and -0.25 * (4 - 2 * 0.25) - 0.1
    np.testing.assert_allclose(evidence, [[0.1, -0.25 * 3.5 - 0.1]], rtol=1e-6)


def test_an_image_that_the_means_were_fitted_on_is_left_out_of_its_own():
    """The evidence of a mean that the image was really taken out of."""
    image = np.array([[0.8, 0.6]], dtype=np.float32)
    fitted = make_classes(
        keys=feature_keys(image),
        own_classes=np.array([[0, 1]], dtype=np.int32),
        own_share=np.array([[0.75, 0.0]], dtype=np.float32),
    )
    n_images = 1 / fitted.mean_variance[0]  # in units of images, kappa's included
    without = (n_images * fitted.whitened_means[0] - 0.75 * image[0]) / (n_images - 0.75)
    expected = make_classes(
        whitened_means=np.stack([without, fitted.whitened_means[1]]),
        mean_variance=np.array([1 / (n_images - 0.75), 0.25]),
    )
    np.testing.assert_allclose(
        gaussian_log_evidence(image, fitted), gaussian_log_evidence(image, expected), rtol=1e-5
    )


# -- the whole


def literal(space, kappa=3.0, shrinkage=0.75, rounds=15):
    """All images' responsibilities in one matrix, in double precision."""
    Z, W = space.image_features.astype(float), space.text_features.astype(float)
    n, d, C = *Z.shape, len(W)
    text = np.log(softmax(space.logit_scale * Z @ W.T, axis=1))
    share = np.exp(text)
    contrast = W - W.mean(axis=0)
    for _ in range(rounds):
        N, R = share.sum(axis=0), share.T @ Z
        centered = R / N[:, None] - Z.mean(axis=0)
        slope = (N[:, None] * centered * contrast).sum() / (N[:, None] * contrast**2).sum()
        mean = (R + kappa * (Z.mean(axis=0) + max(slope, 0) * contrast)) / (N + kappa)[:, None]
        S = np.zeros((d, d))
        for c in range(C):
            S += (share[:, [c]] * (Z - mean[c])).T @ (Z - mean[c]) / n
        shrunk = (1 - shrinkage) * S + shrinkage * np.trace(S) / d * np.eye(d)
        P = np.linalg.inv(shrunk)
        dimension, trust = np.trace(P @ S), np.median(N) / (np.median(N) + 14 * np.log(C))
        logits = text + np.log((N + 30) / (n + 30 * C) * C)
        for c in range(C):
            v = 1 / (N[c] + kappa)
            factor = 1 / (1 - np.minimum(share[:, c] * v, 0.9))
            distance = np.einsum("id,de,ie->i", Z - mean[c], P, Z - mean[c]) * factor**2
            logits[:, c] -= trust / 2 * (distance - dimension * v * factor)
        share = softmax(logits, axis=1)
    return share, mean


def test_fit_is_the_literal_form():
    problem = planted()
    fitted = GaussianTransduction().fit(problem.space)
    share, mean = literal(problem.space, rounds=fitted.n_iter_)
    np.testing.assert_array_equal(fitted.labels_, share.argmax(axis=1))
    np.testing.assert_allclose(fitted.confidence_, share.max(axis=1), atol=1e-3)
    np.testing.assert_allclose(fitted.counts_, share.sum(axis=0), rtol=1e-3)
    np.testing.assert_allclose(fitted.means_, mean, atol=1e-4)


def test_chunks_change_nothing(monkeypatch):
    problem = planted()
    expected = GaussianTransduction().fit(problem.space)
    monkeypatch.setattr(module, "_CHUNK_SIZE", 37)
    chunked = GaussianTransduction().fit(problem.space)
    np.testing.assert_array_equal(chunked.labels_, expected.labels_)
    np.testing.assert_allclose(chunked.confidence_, expected.confidence_, atol=1e-3)


def test_order_of_the_images_does_not_matter():
    problem = planted()
    order = np.random.default_rng(0).permutation(300)
    fitted = GaussianTransduction().fit(problem.space)
    other = GaussianTransduction().fit(problem.space[order])
    np.testing.assert_array_equal(other.labels_, fitted.labels_[order])
    np.testing.assert_allclose(other.confidence_, fitted.confidence_[order], atol=1e-3)


def test_rounds_end_where_nothing_changes_and_at_the_bound():
    problem = planted(text_noise=0.1)
    assert GaussianTransduction().fit(problem.space).n_iter_ < 15
    assert GaussianTransduction(max_iter=1).fit(problem.space).n_iter_ == 1


# -- what it is worth


@pytest.mark.parametrize("seed", range(3))
def test_gains_where_texts_are_vague(seed):
    problem = planted(random_state=seed, n_images=800)
    labels = GaussianTransduction().fit(problem.space).labels_
    assert accuracy(labels, problem) > accuracy(problem.space.predict(), problem) + 0.03


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_images", [2, 4])
def test_with_few_images_a_class_it_stays_with_zero_shot(seed, n_images):
    problem = planted(n_classes=40, n_images=40 * n_images, n_features=128, random_state=seed)
    labels = GaussianTransduction().fit(problem.space).labels_
    assert accuracy(labels, problem) > accuracy(problem.space.predict(), problem) - 0.015


@pytest.mark.parametrize("seed", range(3))
def test_unequal_classes_do_no_harm(seed):
    problem = planted(n_images=1600, random_state=seed)
    sizes = np.geomspace(200, 4, 8).astype(int)  # imbalance 50
    rows = np.concatenate([np.flatnonzero(problem.target == c)[: sizes[c]] for c in range(8)])
    space, target = problem.space[rows], problem.target[rows]
    zero_shot = (space.predict() == target).mean()
    assert (GaussianTransduction().fit(space).labels_ == target).mean() > zero_shot


def test_one_image_is_answered_as_zero_shot():
    space = planted().space[:1]
    assert GaussianTransduction().fit(space).labels_.tolist() == space.predict().tolist()


# -- mismatched classes


def mismatched_problem(**changes):
    return make_concept_space(**{"n_mismatched": 2, "random_state": 0} | changes)


def test_a_mismatched_class_is_found_again_by_its_cluster():
    problem = mismatched_problem()
    detected = MismatchDetector(random_state=0).fit_transform(problem.space)
    of_them = np.isin(problem.target, problem.mismatched)
    right = GaussianTransduction().fit(detected).labels_ == problem.target
    assert (problem.space.predict() == problem.target)[of_them].mean() < 0.2
    assert right[of_them].mean() > 0.9


def test_with_few_images_or_another_text_it_keeps_its_text():
    few = mismatched_problem(n_images=100)
    detected = MismatchDetector(random_state=0).fit_transform(few.space)
    assert len(detected.mismatch.mismatched)
    assert len(GaussianTransduction().fit(detected).mismatched_) == 0
    detected = MismatchDetector(random_state=0).fit_transform(mismatched_problem().space)
    aligned = ConceptAligner(use_centers=True).fit_transform(detected)
    assert len(GaussianTransduction().fit(aligned).mismatched_) == 0
    left_alone = ConceptAligner().fit_transform(detected)
    assert len(GaussianTransduction().fit(left_alone).mismatched_) == 2


# -- labels and proportions


def test_a_labeled_image_keeps_its_class_and_helps_the_others():
    problem = planted(text_noise=1.2, n_images=400)
    y = np.where(np.arange(400) % 4 == 0, problem.target, -1)
    plain = GaussianTransduction().fit(problem.space).labels_
    helped = GaussianTransduction().fit(problem.space, y).labels_
    assert (helped[y >= 0] == y[y >= 0]).all()
    unlabeled = y < 0
    assert (helped == problem.target)[unlabeled].mean() > (plain == problem.target)[
        unlabeled
    ].mean()


def test_proportions_may_be_equal_known_or_estimated():
    problem = planted()
    rows = np.flatnonzero((problem.target > 0) | (np.arange(300) % 8 == 0))
    space = problem.space[rows]
    known = np.bincount(problem.target[rows], minlength=8) / len(rows) + 1e-3
    priors = {}
    for class_prior in ("equal", "estimated", known):
        fitted = GaussianTransduction(class_prior=class_prior).fit(space)
        priors[str(class_prior)[:3]] = fitted._classes.log_prior
    assert not priors["equ"].any()
    assert priors["est"].argmin() == 0
    np.testing.assert_allclose(priors[str(known)[:3]], np.log(known / known.sum() * 8))


@pytest.mark.parametrize("class_prior", [[0.5, 0.5], np.zeros(8), "even"])
def test_proportions_that_cannot_be_are_refused(class_prior):
    with pytest.raises(ValueError, match="class_prior"):
        GaussianTransduction(class_prior=class_prior).fit(planted().space)


@pytest.mark.parametrize("y", [[0, 1], np.full(300, 8), np.full(300, -2), ["a"] * 300])
def test_labels_that_cannot_be_are_refused(y):
    with pytest.raises(ValueError, match="expected y as 300 integers"):
        GaussianTransduction().fit(planted().space, y)


# -- as a stage


def test_transform_adds_the_gaussians_and_knows_the_images_again():
    problem = planted()
    stage = GaussianTransduction().fit(problem.space)
    space = stage.transform(problem.space)
    assert "transduction" in repr(space)
    evidence = gaussian_log_evidence(space.image_features, space.transduction.classes)
    labels = (text_log_probabilities(space.logits()) + evidence).argmax(axis=1)
    np.testing.assert_array_equal(labels, stage.labels_)
    part = space[[7, 3]]
    np.testing.assert_allclose(
        gaussian_log_evidence(part.image_features, part.transduction.classes),
        evidence[[7, 3]],
        atol=1e-3,
    )


def test_new_images_are_compared_with_whole_means():
    problem = planted()
    classes = GaussianTransduction().fit(problem.space)._classes
    new = problem.space.image_features[:5] + np.float32(1e-4)
    assert len(classes.own_shares(new)[0]) == 0
    assert len(classes.own_shares(problem.space.image_features)[0]) == 300


def test_transform_refuses_other_classes():
    problem = planted()
    stage = GaussianTransduction().fit(problem.space)
    names = [name.upper() for name in problem.space.class_names]
    with pytest.raises(ValueError, match="was fitted on the 8 classes"):
        stage.transform(dataclasses.replace(problem.space, class_names=names))


def test_copies_give_the_same():
    problem = planted()
    stage = GaussianTransduction(kappa=2.0).fit(problem.space)
    again = pickle.loads(pickle.dumps(stage)).transform(problem.space).transduction.classes
    np.testing.assert_array_equal(again.whitened_means, stage._classes.whitened_means)
    assert repr(clone(stage)) == "GaussianTransduction(kappa=2.0)"


@pytest.mark.parametrize(
    ("name", "value"), [("kappa", 0), ("shrinkage", 1.5), ("max_iter", 0), ("kappa", "3")]
)
def test_parameters_are_checked_at_fit(name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of GaussianTransduction"):
        GaussianTransduction(**{name: value}).fit(planted().space)


def test_features_that_are_not_finite_are_refused():
    space = planted().space
    features = space.image_features.copy()
    features[2, 1] = np.nan
    with pytest.raises(ValueError, match="finite features"):
        GaussianTransduction().fit(ConceptSpace(features, space.text_features, space.class_names))
