"""Gaussian transduction as a stage: a literal form of it, what it gains, labels and parameters."""

import dataclasses
import pickle

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone

from capkit import ConceptAligner, ConceptSpace, GaussianTransduction, MismatchDetector
from capkit import transduction as module
from capkit.datasets import make_concept_space
from capkit.exceptions import LabelError
from capkit.gaussians import gaussian_log_evidence, text_log_probabilities


def planted(**changes):
    options = {"n_images": 300, "n_classes": 8, "n_features": 32, "n_mismatched": 0}
    return make_concept_space(**options | {"text_noise": 0.8, "random_state": 0} | changes)


def accuracy(labels, problem):
    return (labels == problem.target).mean()


# -- the whole


def literal(space, y=None, kappa=3.0, shrinkage=0.75, unseen_only=False, rounds=15):
    """All images' responsibilities in one matrix, in double precision."""
    Z, W = space.image_features.astype(float), space.text_features.astype(float)
    n, d, C = *Z.shape, len(W)
    y = np.full(n, -1) if y is None else y
    labeled, known = y >= 0, np.eye(C)[y] * (y >= 0)[:, None]
    barred = np.isin(np.arange(C), y) & unseen_only & ~labeled[:, None]

    def shares(logits):
        return np.where(
            labeled[:, None], known, softmax(np.where(barred, -np.inf, logits), axis=1)
        )

    text = np.log(softmax(space.logit_scale * Z @ W.T, axis=1))
    sharper = 1.0
    while softmax(sharper * text, axis=1).max(axis=1).mean() < 0.7:
        sharper *= 1.1
    # A labeled image counts ten times in the first round.
    weight = np.where(labeled, 10.0, 1.0)
    share = shares(sharper * text)
    contrast = W - W.mean(axis=0)
    for _ in range(rounds):
        share *= weight[:, None]
        N, R = share.sum(axis=0), share.T @ Z
        centered = R / N[:, None] - Z.mean(axis=0)
        slope = (N[:, None] * centered * contrast).sum() / (N[:, None] * contrast**2).sum()
        mean = (R + kappa * (Z.mean(axis=0) + max(slope, 0) * contrast)) / (N + kappa)[:, None]
        S = np.zeros((d, d))
        for c in range(C):
            S += (share[:, [c]] * (Z - mean[c])).T @ (Z - mean[c]) / weight.sum()
        shrunk = (1 - shrinkage) * S + shrinkage * np.trace(S) / d * np.eye(d)
        P = np.linalg.inv(shrunk)
        dimension, trust = np.trace(P @ S), np.median(N) / (np.median(N) + 14 * np.log(C))
        logits = text + np.log((N + 30) / (n + 30 * C) * C)
        for c in range(C):
            v = 1 / (N[c] + kappa)
            factor = 1 / (1 - np.minimum(share[:, c] * v, 0.9))
            distance = np.einsum("id,de,ie->i", Z - mean[c], P, Z - mean[c]) * factor**2
            logits[:, c] -= trust / 2 * (distance - dimension * v * factor)
        share, weight = shares(logits), np.ones(n)
    return share, shares(logits / (1 + 10 * trust)).max(axis=1), mean


def assert_is_literal(fitted, space, y=None, **options):
    share, confidence, mean = literal(space, y, rounds=fitted.n_iter_, **options)
    np.testing.assert_array_equal(fitted.labels_, share.argmax(axis=1))
    np.testing.assert_allclose(fitted.confidence_, confidence, atol=1e-3)
    np.testing.assert_allclose(fitted.counts_, share.sum(axis=0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(fitted.means_, mean, atol=1e-4)


@pytest.mark.parametrize("max_iter", [1, 2, 15])
@pytest.mark.parametrize("logit_scale", [100.0, 8.0])
def test_fit_is_the_literal_form(logit_scale, max_iter):
    # With a scale of 8 the texts are vague, and the start has to be sharpened.
    space = planted(logit_scale=logit_scale).space
    assert (space.predict_proba().max(axis=1).mean() < 0.6) == (logit_scale == 8)
    fitted = GaussianTransduction(guard=False, max_iter=max_iter).fit(space)
    assert_is_literal(fitted, space)


@pytest.mark.parametrize("unseen_only", [False, True])
@pytest.mark.parametrize("max_iter", [1, 15])
def test_fit_with_labels_is_the_literal_form(max_iter, unseen_only):
    problem = planted(logit_scale=20.0)
    y = np.where((problem.target < 4) & (np.arange(300) % 5 == 0), problem.target, -1)
    paradigm = "trzsl" if unseen_only else "ssl"
    fitted = GaussianTransduction(guard=False, max_iter=max_iter, paradigm=paradigm)
    assert_is_literal(fitted.fit(problem.space, y), problem.space, y, unseen_only=unseen_only)


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
    helped = GaussianTransduction(paradigm="ssl").fit(problem.space, y).labels_
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
    with pytest.raises(LabelError):
        GaussianTransduction(paradigm="ssl").fit(planted().space, y)


def test_labels_may_be_names_and_are_not_looked_at_without_a_paradigm_for_them():
    problem = planted()
    y = np.where(np.arange(300) % 4 == 0, problem.target, -1)
    names = [problem.space.class_names[label] if label >= 0 else None for label in y]
    by_index = GaussianTransduction(paradigm="ssl").fit(problem.space, y)
    by_name = GaussianTransduction(paradigm="ssl").fit(problem.space, names)
    np.testing.assert_array_equal(by_index.means_, by_name.means_)
    np.testing.assert_array_equal(by_index.labels_[y >= 0], y[y >= 0])
    ignoring = GaussianTransduction().fit(problem.space, y)
    np.testing.assert_array_equal(
        ignoring.means_, GaussianTransduction().fit(problem.space).means_
    )
    assert np.abs(ignoring.means_ - by_index.means_).max() > 1e-3


def test_labels_may_be_those_of_all_images_where_some_could_not_be_read():
    problem = planted()
    y = np.where(np.arange(300) % 4 == 0, problem.target, -1)
    readable = np.delete(np.arange(300), [0, 7, 120])
    space = problem.space[readable]
    of_all = GaussianTransduction(paradigm="ssl").fit(space, y)
    of_these = GaussianTransduction(paradigm="ssl").fit(space, y[readable])
    np.testing.assert_array_equal(of_all.labels_, of_these.labels_)
    labeled = y[readable] >= 0
    np.testing.assert_array_equal(of_all.labels_[labeled], y[readable][labeled])


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
