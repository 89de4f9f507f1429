"""The formulas of Gaussian transduction, by hand."""

import numpy as np
import pytest
from scipy.special import softmax

from capkit.gaussians import (
    cluster_separation,
    evidence_temperature,
    fit_class_means,
    gaussian_log_evidence,
    gaussian_trust,
    log_class_prior,
    sharpening,
    shrunk_whitening,
    text_log_probabilities,
)
from capkit.space import GaussianClasses, feature_keys

NO_CLASS = np.empty(0, dtype=np.int64)


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


def test_slope_comes_from_all_classes_but_the_mismatched():
    # Contrasts are (1/2, -1/2) and its opposite. The image mean is left by (0.5, -0.25) for class
    # 0, of 2 images: the slope is 0.375 / 0.5, and class 1's odd sum has no part in it.
    counts, sums = np.array([2.0, 2.0]), np.array([[2.0, 0.0], [5.0, 1.0]])
    centers = np.array([[9.0, 9.0], [0.0, 2.0]])
    means = fit_class_means(counts, sums, np.eye(2), np.array([0.5, 0.25]), 2.0, centers, [1])
    np.testing.assert_allclose(means, [[0.9375, -0.0625], [1.25, 1.25]])


def test_evidence_of_an_image_that_is_all_of_its_class_stays_finite():
    image = np.zeros((1, 2), dtype=np.float32)
    classes = GaussianClasses(
        whitening=np.eye(2, dtype=np.float32),
        whitened_means=np.array([[1, 0], [0, 2]], dtype=np.float32),
        mean_variance=np.array([1.0, 0.25]),
        dimension=2.0,
        log_prior=np.zeros(2),
        trust=0.5,
        keys=feature_keys(image),
        own_classes=np.array([[0]], dtype=np.int32),
        own_share=np.array([[1.0]], dtype=np.float32),
    )
    # The factor is bounded by 10.
    evidence = gaussian_log_evidence(image, classes)
    np.testing.assert_allclose(evidence, [[-0.25 * (100 - 20), -0.25 * 3.5]], rtol=1e-5)


def test_evidence_of_each_training_image_is_that_without_it_in_any_mean():
    rng = np.random.default_rng(0)
    n_images, n_classes, width, kappa = 12, 3, 4, 1.5
    images = rng.standard_normal((n_images, width)).astype(np.float32)
    share = rng.dirichlet(np.ones(n_classes), n_images)
    prior = rng.standard_normal((n_classes, width))
    counts, sums = share.sum(axis=0), share.T @ images.astype(np.float64)
    root = rng.standard_normal((width, 9))
    covariance = root @ root.T / 9
    whitening, dimension = shrunk_whitening(covariance, 0.0)
    order = np.argsort(feature_keys(images))
    classes = GaussianClasses(
        whitening=whitening.astype(np.float32),
        whitened_means=(sums + kappa * prior) / (counts + kappa)[:, None] @ whitening,
        mean_variance=1 / (counts + kappa),
        dimension=dimension,
        log_prior=np.log([0.5, 1.0, 1.5]),
        trust=0.6,
        keys=feature_keys(images)[order],
        own_classes=np.tile(np.arange(3, dtype=np.int32)[::-1], (n_images, 1)),
        own_share=share[order, ::-1].astype(np.float32),
    )
    expected = np.empty((n_images, n_classes))
    for i in range(n_images):
        for c in range(n_classes):
            others = np.delete(share[:, c], i)
            weight = others.sum() + kappa
            mean = (others @ np.delete(images, i, axis=0) + kappa * prior[c]) / weight
            away = images[i] - mean
            excess = away @ np.linalg.inv(covariance) @ away - dimension / weight
            expected[i, c] = classes.log_prior[c] - 0.5 * 0.6 * excess
    np.testing.assert_allclose(gaussian_log_evidence(images, classes), expected, rtol=2e-4)


# -- temperature, sharpening, separation


def test_temperature_is_one_without_trust_and_eleven_with_all():
    assert [evidence_temperature(trust) for trust in (0.0, 0.25, 1.0)] == [1.0, 3.5, 11.0]


def test_sharpening_is_the_smallest_power_of_1_1_that_is_confident_enough():
    # Two classes: the odds of 7 to 3 need a factor of ln(7/3) / 0.5 = 1.69, and 1.1^6 = 1.77.
    assert sharpening(np.array([[0.5, 0.0]]), confidence=0.7) == pytest.approx(1.1**6)
    assert sharpening(np.array([[0.5, 0.0]]), confidence=0.6) == pytest.approx(1.0)


def test_sharpening_looks_at_the_mean_confidence_of_all_images():
    logits = np.array([[9.0, 0.0], [0.5, 0.0], [0.0, 0.1]])

    def confidence(factor):
        return softmax(factor * logits, axis=1).max(axis=1).mean()

    factor = sharpening(logits, confidence=0.8)
    assert confidence(factor / 1.1) < 0.8 <= confidence(factor)


def test_sharpening_leaves_confident_probabilities_alone():
    assert sharpening(np.array([[3.0, 0.0], [0.0, 4.0]]), confidence=0.7) == 1.0
    assert sharpening(np.zeros((2, 1)), confidence=0.7) == 1.0  # one class is always sure


def test_sharpening_ends_where_all_classes_are_equally_near():
    assert 900 < sharpening(np.zeros((3, 4)), confidence=0.7) < 1100


def test_separation_is_relative_to_how_far_classes_usually_are_from_their_nearest():
    # Nearest of each class: 3, 3 and 4, of which the median is 3.
    means = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    centers = np.array([[0.0, 1.5], [3.0, 7.0]])
    # The first is nearest to class 0, the second to class 2.
    np.testing.assert_allclose(cluster_separation(centers, [1, 0], means), [0.5, 1.0])
    np.testing.assert_allclose(cluster_separation(7 * centers, [1, 0], 7 * means), [0.5, 1.0])


def test_separation_from_where_a_class_s_own_text_places_it_does_not_count():
    means = np.array([[0.0], [2.0], [4.0]])
    assert cluster_separation(np.array([[4.0]]), [2], means).tolist() == [1.0]


def test_a_cluster_in_the_middle_of_another_class_is_not_separate():
    means = np.random.default_rng(0).standard_normal((6, 3))
    separation = cluster_separation(means[[1, 4]], [0, 4], means)
    assert separation[0] == pytest.approx(0, abs=1e-6)
    assert separation[1] > 0.5


def test_separation_of_no_cluster_and_among_equal_means_is_a_number():
    assert cluster_separation(np.empty((0, 2)), NO_CLASS, np.eye(2)).shape == (0,)
    assert np.isfinite(cluster_separation(np.ones((1, 2)), [0], np.ones((3, 2)))).all()
