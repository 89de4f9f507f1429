"""Gaussian transduction at its limits: many settings, few images, little memory, odd input."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from scipy.special import softmax

from capkit import ConceptAligner, ConceptSpace, GaussianTransduction, MismatchDetector
from capkit.datasets import make_concept_space
from capkit.gaussians import gaussian_log_evidence, log_class_prior

SEEDS = pytest.mark.parametrize("seed", range(3))


def planted(seed, n_images=1000, **problem):
    return make_concept_space(
        n_images, n_mismatched=0, text_noise=0.8, random_state=seed, **problem
    )


def accuracy(labels, target):
    return (labels == target).mean()


@pytest.fixture(scope="module")
def problem():
    return planted(seed=0)


# -- the whole


def literal_transduction(space, rounds=15, kappa=3.0, shrinkage=0.75):
    """Method section 4 line by line; each image in turn is really taken out of all means."""
    images, texts = np.float64(space.image_features), np.float64(space.text_features)
    (n_images, width), n_classes = images.shape, len(texts)
    share = softmax(space.logit_scale * images @ texts.T, axis=1)
    log_text = np.log(share)
    sharper = 1.0
    while share.max(axis=1).mean() < 0.7:
        sharper *= 1.1
        share = softmax(sharper * log_text, axis=1)
    contrast = texts - texts.mean(axis=0)
    for _ in range(rounds):
        before, counts = share.argmax(axis=1), share.sum(axis=0)
        weighted = share[:, :, None] * images[:, None, :]
        sums = weighted.sum(axis=0)
        shifted = sums / counts[:, None] - images.mean(axis=0)
        slope = (counts * (shifted * contrast).sum(axis=1)).sum()
        slope = max(0.0, slope / (counts * (contrast**2).sum(axis=1)).sum())
        prior = images.mean(axis=0) + slope * contrast
        means = (sums + kappa * prior) / (counts + kappa)[:, None]
        away = images[:, None, :] - means
        covariance = np.einsum("ic,icd,ice->de", share, away, away, optimize=True) / n_images
        shrunk = (1 - shrinkage) * covariance
        shrunk += shrinkage * np.trace(covariance) / width * np.eye(width)
        precision = np.linalg.inv(shrunk)
        dimension = np.trace(precision @ covariance)
        proportions = (counts + 30) / (n_images + 30 * n_classes)
        trust = np.median(counts) / (np.median(counts) + 14 * np.log(n_classes))
        weight = counts - share + kappa
        away = images[:, None, :] - (sums - weighted + kappa * prior) / weight[:, :, None]
        distance = np.einsum("icd,de,ice->ic", away, precision, away, optimize=True)
        excess = distance - dimension / weight
        logits = log_text + np.log(n_classes * proportions) - 0.5 * trust * excess
        share = softmax(logits, axis=1)
        if (share.argmax(axis=1) == before).all():
            break
    return {
        "labels_": share.argmax(axis=1),
        "confidence_": softmax(logits / (1 + 10 * trust), axis=1).max(axis=1),
        "means_": means,
        "counts_": share.sum(axis=0),
        "trust_": trust,
    }


@pytest.mark.parametrize("parameters", [{}, {"kappa": 20.0}, {"shrinkage": 0.2}])
@SEEDS
def test_fit_is_the_method_line_by_line(seed, parameters):
    space = planted(seed, 300, n_classes=8, n_features=32, logit_scale=15.0).space
    transduction = GaussianTransduction(guard=False, **parameters).fit(space)
    for name, expected in literal_transduction(space, **parameters).items():
        np.testing.assert_allclose(getattr(transduction, name), expected, atol=1e-3, err_msg=name)


def test_shares_beyond_the_eight_largest_of_twenty_hardly_matter(problem):
    literal = literal_transduction(problem.space)
    transduction = GaussianTransduction(guard=False).fit(problem.space)
    np.testing.assert_array_equal(transduction.labels_, literal["labels_"])
    np.testing.assert_allclose(transduction.confidence_, literal["confidence_"], atol=1e-3)


@pytest.mark.parametrize("guard", [False, True])
@pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")
def test_memory_never_holds_all_images_times_all_classes(monkeypatch, guard):
    space = planted(0, 20_000, n_classes=400, n_features=16).space
    monkeypatch.setattr("capkit.transduction._CHUNK_SIZE", 256)
    monkeypatch.setattr("capkit.guard._CHUNK_SIZE", 256)
    tracemalloc.start()
    try:
        GaussianTransduction(guard=guard, max_iter=2).fit(space)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.6 * 20_000 * 400 * 4  # bytes of one such array in float32


def test_stops_when_nothing_changes(problem):
    transduction = GaussianTransduction().fit(problem.space)
    assert 1 < transduction.n_iter_ < 15
    longer = GaussianTransduction(max_iter=100).fit(problem.space)
    assert longer.n_iter_ == transduction.n_iter_
    shorter = GaussianTransduction(max_iter=transduction.n_iter_ - 1).fit(problem.space)
    np.testing.assert_array_equal(shorter.labels_, transduction.labels_)


@pytest.mark.parametrize("shrinkage", [0.0, 0.75, 1.0])
def test_copies_of_one_image_are_what_zero_shot_says(shrinkage):
    space = planted(0, 1, n_classes=3, n_features=32).space[np.zeros(9, dtype=int)]
    transduction = GaussianTransduction(shrinkage=shrinkage).fit(space)
    np.testing.assert_array_equal(transduction.labels_, space.predict())
    assert np.isfinite(transduction.means_).all() and np.isfinite(transduction.confidence_).all()


def test_one_class_is_every_image_s():
    space = ConceptSpace(np.eye(4), np.eye(1, 4), ["cat"])
    transduction = GaussianTransduction().fit(space)
    assert transduction.labels_.tolist() == [0] * 4
    assert transduction.confidence_.tolist() == [1.0] * 4


# -- on planted problems


@SEEDS
def test_unequal_classes_gain_and_more_so_where_proportions_are_known(seed):
    problem = planted(seed, 2000)
    sizes = np.round(100 * 50 ** (-np.arange(20) / 19)).astype(int)  # 100 down to 2
    rows = np.concatenate([np.flatnonzero(problem.target == c)[:n] for c, n in enumerate(sizes)])
    space, target = problem.space[rows], problem.target[rows]
    estimated = GaussianTransduction().fit(space)
    assert accuracy(estimated.labels_, target) > accuracy(space.predict(), target) + 0.02
    known = GaussianTransduction(class_prior=sizes).fit(space)
    assert accuracy(known.labels_, target) >= accuracy(estimated.labels_, target)


def recall(labels, problem):
    of_mismatched = np.isin(problem.target, problem.mismatched)
    return accuracy(labels[of_mismatched], problem.target[of_mismatched])


@SEEDS
def test_mismatched_classes_need_the_detection_to_be_found_again(seed):
    problem = make_concept_space(random_state=seed)
    assert recall(problem.space.predict(), problem) < 0.2
    undetected = GaussianTransduction(guard=False).fit(problem.space)
    assert recall(undetected.labels_, problem) < 0.75
    detected = MismatchDetector(t=2, random_state=0).fit_transform(problem.space)
    transduction = GaussianTransduction().fit(detected)
    np.testing.assert_array_equal(transduction.mismatched_, problem.mismatched)
    assert recall(transduction.labels_, problem) > 0.9
    aligned = ConceptAligner(use_centers=True).fit_transform(detected)
    assert recall(GaussianTransduction(guard=False).fit(aligned).labels_, problem) > 0.9


@SEEDS
def test_a_detection_in_few_images_changes_nothing(seed):
    problem = make_concept_space(200, random_state=seed)
    detected = MismatchDetector(t=2, random_state=0).fit_transform(problem.space)
    assert len(detected.mismatch.mismatched)
    with_it, without = (GaussianTransduction().fit(s) for s in (detected, problem.space))
    assert with_it.trust_ < 0.3 and with_it.mismatched_.tolist() == []
    np.testing.assert_array_equal(with_it.confidence_, without.confidence_)


def test_only_classes_that_the_aligner_gave_a_text_are_believed():
    problem = make_concept_space(random_state=0)
    detected = MismatchDetector(t=2, random_state=0).fit_transform(problem.space)
    space = ConceptAligner().fit_transform(detected)
    alignment = dataclasses.replace(space.alignment, aligned=problem.mismatched[:1])
    transduction = GaussianTransduction().fit(dataclasses.replace(space, alignment=alignment))
    np.testing.assert_array_equal(transduction.mismatched_, problem.mismatched[1:])


# -- class proportions and labels


def test_class_prior_is_estimated_from_the_round_before(problem):
    one_round = GaussianTransduction(max_iter=1, guard=False).fit(problem.space)
    log_prior = one_round.transform(problem.space).transduction.classes.log_prior
    counts = problem.space.predict_proba().sum(axis=0)
    np.testing.assert_allclose(log_prior, log_class_prior(counts, 1000), atol=1e-5)


def test_known_proportions_need_not_sum_to_one_and_draw_images(problem):
    prior = np.arange(1, 21) / 10
    known = GaussianTransduction(class_prior=prior.tolist()).fit(problem.space)
    log_prior = known.transform(problem.space).transduction.classes.log_prior
    np.testing.assert_allclose(np.exp(log_prior), prior / prior.mean(), rtol=1e-6)
    equal = GaussianTransduction(class_prior="equal").fit(problem.space)
    difference = known.counts_ - equal.counts_
    assert difference[-5:].sum() > 1 and difference[:5].sum() < -1


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_proportions_that_are_none_are_refused(problem, wrong):
    with pytest.raises(ValueError, match="class_prior as 20 proportions above 0"):
        GaussianTransduction(class_prior=[wrong] + [1.0] * 19).fit(problem.space)


@SEEDS
def test_labeled_images_help_the_others(seed):
    problem = make_concept_space(n_mismatched=0, text_noise=1.5, random_state=seed)
    of_class = [np.flatnonzero(problem.target == c) for c in range(20)]
    labeled = np.concatenate([rows[:20] for rows in of_class])
    others = np.concatenate([rows[20:] for rows in of_class])
    y = np.full(1000, -1)
    y[labeled] = problem.target[labeled]
    without = GaussianTransduction().fit(problem.space)
    learning = GaussianTransduction(paradigm="ssl").fit(problem.space, y)
    np.testing.assert_array_equal(learning.labels_[labeled], y[labeled])
    assert (learning.confidence_[labeled] == 1).all()
    found = accuracy(learning.labels_[others], problem.target[others])
    assert found > accuracy(without.labels_[others], problem.target[others]) + 0.02


def test_a_wrong_label_is_not_corrected(problem):
    y = np.full(1000, -1)
    y[3] = (problem.target[3] + 1) % 20
    assert GaussianTransduction().fit(problem.space).labels_[3] == problem.target[3]
    assert GaussianTransduction(paradigm="ssl").fit(problem.space, y).labels_[3] == y[3]


# -- images that are known again


def test_new_images_get_the_plain_evidence(problem):
    old, new = problem.space[:800], problem.space[800:]
    classes = GaussianTransduction().fit(old).transform(new).transduction.classes
    away = new.image_features[:, None, :] @ np.float64(classes.whitening) - classes.whitened_means
    excess = (away**2).sum(axis=2) - classes.dimension * classes.mean_variance
    np.testing.assert_allclose(
        gaussian_log_evidence(new.image_features, classes),
        classes.log_prior - 0.5 * classes.trust * excess,
        atol=1e-3,
    )


@pytest.mark.parametrize("max_iter", [1, 15])
def test_training_images_get_back_the_confidence_of_the_fit(problem, max_iter):
    # What was left out is that of the round before, also where the rounds ended early.
    transduction = GaussianTransduction(max_iter=max_iter).fit(problem.space)
    classes = transduction.transform(problem.space).transduction.classes
    logits = problem.space.logits() + gaussian_log_evidence(problem.space.image_features, classes)
    confidence = softmax(logits / (1 + 10 * classes.trust), axis=1).max(axis=1)
    np.testing.assert_allclose(confidence, transduction.confidence_, atol=1e-4)


def test_evidence_is_each_image_s_own_whatever_comes_with_it(problem):
    old = problem.space[:800]
    classes = GaussianTransduction().fit(old).transform(old).transduction.classes
    features = problem.space.image_features[700:900]  # known ones and new ones
    alone = np.concatenate([gaussian_log_evidence(row[None], classes) for row in features])
    np.testing.assert_allclose(gaussian_log_evidence(features, classes), alone, atol=2e-4)


def test_evidence_is_exact_where_images_differ_little_from_their_mean():
    """As those of a random or badly fitting model: all cosines of images are above 0.999."""
    space = planted(0).space
    mean = space.image_features.mean(axis=0, dtype=np.float64)
    images = space.image_features + 30 * mean / np.linalg.norm(mean)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts, names = space.text_features, space.class_names
    near = ConceptSpace(images, texts, names)
    classes = GaussianTransduction().fit(near[:800]).transform(near).transduction.classes
    features = near.image_features[800:]
    alone = np.concatenate([gaussian_log_evidence(row[None], classes) for row in features])
    np.testing.assert_allclose(gaussian_log_evidence(features, classes), alone, atol=1e-4)
