"""The guard: how clear changes of labels are, and what Gaussian transduction makes of it."""

import dataclasses

import numpy as np
import pytest
from sklearn.utils import Bunch

from capkit import ConceptSpace, GaussianTransduction
from capkit.datasets import make_concept_space
from capkit.exceptions import AdaptationWarning
from capkit.guard import (
    LEAST_CLARITY,
    AdaptationReport,
    AdaptationStep,
    change_clarity,
    report_of,
)

SEEDS = pytest.mark.parametrize("seed", range(3))
# Images of which each half, in the guard's order, is 0, 1, 0, 1.
ORDER_OF_EIGHT = np.random.default_rng(0).permutation(8)
TWO_CLASSES = np.empty(8, dtype=np.int64)
TWO_CLASSES[ORDER_OF_EIGHT] = [0, 0, 1, 1, 0, 0, 1, 1]


# -- the clarity of changes


def test_clarity_by_hand():
    # Images at 0 and 1 themselves. Three images at 0.5 draw the means to (0 + 1.5) / 5 = 0.3 and
    # to 0.7, so that the variance is 0.3^2. In units of 0.3, an image at 1 is 7/3 from the one,
    # and 1 from the other; they are 4/3 apart. What means are unsure of cancels.
    features = TWO_CLASSES[:, None].astype(float)
    clarity = change_clarity(features, np.zeros(8, dtype=int), TWO_CLASSES, 2)
    assert clarity == pytest.approx((49 / 9 - 1) / (16 / 9))


def test_an_old_class_without_images_lies_in_the_middle_and_is_the_least_sure():
    # 5/3 from the middle, of a variance of 1/3 instead of 1/5. Empty classes are no neighbours.
    features = TWO_CLASSES[:, None].astype(float)
    before = np.where(TWO_CLASSES == 1, 2, 0)
    clarity = change_clarity(features, before, TWO_CLASSES, 3)
    assert clarity == pytest.approx(((25 / 9 - 1 / 3) - (1 - 1 / 5)) / (16 / 9))


def literal_clarity(Z, before, after, n_classes):
    """The same line by line, each image for itself."""
    n, d = Z.shape
    order = np.random.default_rng(0).permutation(n)
    odds, usual = [], []
    for fitted, judged in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        means = [
            (Z[fitted][after[fitted] == c].sum(axis=0) + 3 * Z[fitted].mean(axis=0))
            / ((after[fitted] == c).sum() + 3)
            for c in range(n_classes)
        ]
        away = np.stack([Z[i] - means[after[i]] for i in fitted])
        S = away.T @ away / len(fitted)
        P = np.linalg.inv(0.25 * S + 0.75 * np.trace(S) / d * np.eye(d))
        nearest = [
            min(
                (means[a] - means[b]) @ P @ (means[a] - means[b])
                for b in np.unique(after[fitted])
                if a != b
            )
            for a in np.unique(after[fitted])
        ]

        def distance(i, c, means=means, P=P, fitted=fitted):
            return (Z[i] - means[c]) @ P @ (Z[i] - means[c]) - d / ((after[fitted] == c).sum() + 3)

        for i in judged[before[judged] != after[judged]]:
            odds.append((distance(i, before[i]) - distance(i, after[i])) / 2)
            usual.append(np.median(nearest) / 2)
    return np.sum(odds) / np.sum(usual)


@pytest.mark.parametrize(("n_images", "n_classes"), [(60, 3), (200, 12), (12, 6)])
@SEEDS
def test_clarity_is_the_literal_form(seed, n_images, n_classes):
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal((n_images, 7)) + 3
    before, after = rng.integers(0, n_classes, (2, n_images))
    expected = literal_clarity(Z, before, after, n_classes)
    assert change_clarity(Z, before, after, n_classes) == pytest.approx(expected, rel=1e-6)


def test_without_a_change_clarity_is_zero():
    features = np.random.default_rng(0).standard_normal((6, 3))
    labels = np.arange(6) % 2
    assert change_clarity(features, labels, labels.copy(), 2) == 0
    assert change_clarity(features, np.zeros(6, int), np.zeros(6, int), 1) == 0


@pytest.mark.parametrize("n_images", [1, 2, 3])
@pytest.mark.filterwarnings("error")
def test_too_few_images_to_tell_are_never_clear(n_images):
    # One half has no image at all, or none of a second class.
    features = np.random.default_rng(0).standard_normal((n_images, 5))
    before, after = np.zeros(n_images, int), np.ones(n_images, int)
    assert change_clarity(features, before, after, 2) < LEAST_CLARITY


@SEEDS
def test_all_images_in_one_class_are_never_clear(seed):
    problem = make_concept_space(100, 4, 16, n_mismatched=0, random_state=seed)
    features, collapsed = problem.space.image_features, np.zeros(100, dtype=int)
    assert change_clarity(features, problem.target, collapsed, 4) < LEAST_CLARITY


@pytest.mark.parametrize("chunk_size", [1, 7])
def test_chunks_change_nothing(monkeypatch, chunk_size):
    features, target = twenty_classes(0)
    before = np.where(target == 1, 0, target)
    expected = change_clarity(features, before, target, 20)
    monkeypatch.setattr("capkit.guard._CHUNK_SIZE", chunk_size)
    assert change_clarity(features, before, target, 20) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_features_may_be_of_another_precision(dtype):
    features, target = twenty_classes(0)
    before = np.where(target == 1, 0, target)
    expected = change_clarity(features, before, target, 20)
    clarity = change_clarity(features.astype(dtype), before, target, 20)
    assert clarity == pytest.approx(expected, rel=1e-3 if dtype == np.float64 else 0.1)


def test_features_and_labels_stay_as_they_are():
    features, target = twenty_classes(0)
    before = np.where(target == 1, 0, target)
    copies = features.copy(), before.copy(), target.copy()
    change_clarity(features, before, target, 20)
    for array, copy in zip((features, before, target), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def twenty_classes(seed, n_images=1000):
    problem = make_concept_space(n_images, n_mismatched=0, random_state=seed)
    return problem.space.image_features, problem.target


@SEEDS
def test_a_real_class_that_is_found_is_about_as_clear_as_classes_are(seed):
    features, target = twenty_classes(seed)
    before = np.where(target == 1, 0, target)
    assert 0.8 < change_clarity(features, before, target, 20) < 1.3


@SEEDS
def test_the_more_of_the_changes_are_wrong_the_less_clear_they_are(seed):
    features, target = twenty_classes(seed)
    rng = np.random.default_rng(seed)
    before = np.where(rng.random(1000) < 0.3, rng.integers(0, 20, 1000), target)
    clarity = []
    for share in (0.0, 0.3, 0.6, 1.0):
        wrong = (before != target) & (rng.random(1000) < share)
        after = np.where(wrong, rng.integers(0, 20, 1000), target)
        clarity.append(change_clarity(features, before, after, 20))
    assert clarity == sorted(clarity, reverse=True)
    assert clarity[0] > 0.8
    assert clarity[-1] < LEAST_CLARITY


@SEEDS
def test_to_take_good_labels_away_is_the_opposite_of_clear(seed):
    features, target = twenty_classes(seed)
    rng = np.random.default_rng(seed)
    after = np.where(rng.random(1000) < 0.1, rng.integers(0, 20, 1000), target)
    assert change_clarity(features, target, after, 20) < -0.8


@SEEDS
def test_a_big_class_strewn_over_small_ones_is_not_clear(seed):
    problem = make_concept_space(5000, 5, n_mismatched=0, random_state=seed)
    sizes = [600, 20, 20, 20, 20]
    rows = np.concatenate([np.flatnonzero(problem.target == c)[:n] for c, n in enumerate(sizes)])
    features, target = problem.space.image_features[rows], problem.target[rows]
    strewn = np.random.default_rng(seed).integers(0, 5, len(rows))
    after = np.where(target == 0, strewn, target)
    assert change_clarity(features, target, after, 5) < 0


@SEEDS
def test_random_labels_of_few_images_are_not_clear(seed):
    # Three images a class: what is left out of the means cannot confirm itself.
    features, target = twenty_classes(seed, n_images=60)
    rng = np.random.default_rng(seed)
    chance = [
        change_clarity(features, rng.integers(0, 20, 60), rng.integers(0, 20, 60), 20)
        for _ in range(20)
    ]
    assert np.mean(chance) < 0.1
    assert change_clarity(features, rng.integers(0, 20, 60), target, 20) > 0.5


# -- the report


def make_report(**changes):
    steps = (
        AdaptationStep("gaussian x 1", 9, -0.5, False, "it changes 9 labels"),
        AdaptationStep("gaussian x 0.25", 2, 0.8, True, "it changes 2 labels"),
    )
    fields = {
        "kept": "gaussian",
        "trust": 0.123,
        "n_images": 40,
        "images_per_class": 4.0,
        "evenness": 0.987,
        "n_changed": 2,
        "steps": steps,
    }
    return AdaptationReport(**fields | changes)


def test_a_report_reads_as_text():
    assert str(make_report()).splitlines() == [
        "gaussian was kept: 2 of 40 images are labeled differently from zero-shot (4 images in "
        "the median class, evenness 0.99, trust 0.12).",
        "- gaussian x 1: not kept; it changes 9 labels.",
        "- gaussian x 0.25: kept; it changes 2 labels.",
    ]


def test_a_report_counts_the_labels():
    before, after = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1, 3])
    report = report_of("gaussian", np.float32(0.5), before, after, 4, [])
    assert report == AdaptationReport(
        kept="gaussian",
        trust=0.5,
        n_images=7,
        images_per_class=1.5,  # of 2, 4, 0 and 1
        evenness=report.evenness,
        n_changed=2,
        steps=(),
    )
    share = np.array([2, 4, 1]) / 7
    assert report.evenness == pytest.approx(-(share * np.log(share)).sum() / np.log(4))


def test_a_report_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_report().kept = "training"


# -- the guard in Gaussian transduction


def few_images(seed):
    """120 classes of 8 images with vague texts: chance decides which class an image is near."""
    return make_concept_space(
        960, 120, n_mismatched=0, noise=2.0, text_noise=0.8, logit_scale=30.0, random_state=seed
    )


def accuracy(labels, problem):
    return (labels == problem.target).mean()


def held_back(problem, y=None, **parameters):
    """A fit of which the guard keeps nothing or less, and says so."""
    with pytest.warns(AdaptationWarning) as said:
        stage = GaussianTransduction(**parameters).fit(problem.space, y)
    assert [str(warning.message) for warning in said] == [str(stage.report_)]
    return stage


@SEEDS
def test_where_images_are_too_few_it_stays_with_zero_shot(seed):
    problem = few_images(seed)
    zero_shot = problem.space.predict()
    unguarded = GaussianTransduction(guard=False).fit(problem.space)
    assert accuracy(unguarded.labels_, problem) < accuracy(zero_shot, problem) - 0.02
    stage = held_back(problem)
    np.testing.assert_array_equal(stage.labels_, zero_shot)
    np.testing.assert_allclose(
        stage.confidence_, problem.space.predict_proba().max(axis=1), atol=1e-5
    )
    assert stage.trust_ == 0


def test_the_report_says_what_was_tried():
    problem = few_images(0)
    report = held_back(problem).report_
    assert [step.name for step in report.steps] == [
        "gaussian x 1",
        "gaussian x 0.25",
        "gaussian x 0.1",
    ]
    zero_shot = problem.space.predict()
    unguarded = GaussianTransduction(guard=False).fit(problem.space).labels_
    assert report.steps[0].n_changed == (unguarded != zero_shot).sum()
    features = problem.space.image_features
    clarity = change_clarity(features, zero_shot, unguarded, 120)
    assert report.steps[0].clarity == clarity < LEAST_CLARITY
    assert f"clarity of {clarity:.2f}" in report.steps[0].reason
    assert not any(step.kept for step in report.steps)
    changed = [step.n_changed for step in report.steps]
    assert changed == sorted(changed, reverse=True)
    assert dataclasses.replace(report, steps=()) == report_of(
        "zero_shot", 0.0, zero_shot, zero_shot, 120, []
    )
    assert str(report).startswith("zero_shot was kept: 0 of 960 images are labeled differently")


@pytest.mark.filterwarnings("error")
@SEEDS
def test_where_classes_are_clear_it_changes_nothing_and_says_nothing(seed):
    problem = make_concept_space(n_mismatched=0, text_noise=0.8, random_state=seed)
    stage = GaussianTransduction().fit(problem.space)
    unguarded = GaussianTransduction(guard=False).fit(problem.space)
    np.testing.assert_array_equal(stage.labels_, unguarded.labels_)
    assert stage.trust_ == unguarded.trust_ > 0
    report = stage.report_
    (step,) = report.steps
    assert (step.name, step.kept) == ("gaussian x 1", True)
    assert step.clarity >= LEAST_CLARITY
    assert dataclasses.replace(report, steps=()) == unguarded.report_
    assert report.n_changed == (stage.labels_ != problem.space.predict()).sum() > 0
    assert report.n_images == 1000
    assert report.images_per_class == np.median(np.bincount(stage.labels_, minlength=20))


@pytest.mark.filterwarnings("error")
@SEEDS
def test_without_the_guard_there_is_no_warning_and_nothing_was_tried(seed):
    stage = GaussianTransduction(guard=False).fit(few_images(seed).space)
    assert stage.report_.steps == ()
    assert stage.report_.kept == "gaussian"


@pytest.mark.filterwarnings("error")
def test_texts_that_images_agree_with_are_kept_without_a_word():
    problem = make_concept_space(n_mismatched=0, text_noise=0.0, noise=0.5, random_state=0)
    report = GaussianTransduction().fit(problem.space).report_
    assert (report.kept, report.n_changed) == ("gaussian", 0)
    assert [step.reason for step in report.steps] == ["it changes no label"]


def test_a_quarter_may_be_kept_where_all_of_it_is_too_much():
    problem = make_concept_space(
        480, 60, n_mismatched=0, noise=2.0, text_noise=0.8, random_state=1
    )
    stage = held_back(problem)
    assert [step.kept for step in stage.report_.steps] == [False, True]
    assert stage.report_.kept == "gaussian"
    full = GaussianTransduction(guard=False).fit(problem.space)
    assert 0 < stage.trust_ < 0.3 * full.trust_
    assert 0 < stage.report_.n_changed < full.report_.n_changed
    assert accuracy(stage.labels_, problem) >= accuracy(full.labels_, problem)


# -- few classes, one of them huge


def one_huge_class(seed, n_features=64):
    """Five classes of 600 to 6 images, whose noise is long in a few directions; vague texts.

    Vague texts strew the huge class over the small ones, whose means it then takes over.
    """
    rng = np.random.default_rng(seed)

    def random_rows(n):
        return rng.standard_normal((n, n_features)) / np.sqrt(n_features)

    target = np.repeat(np.arange(5), [600, 190, 60, 19, 6])
    concepts, cones = random_rows(5), random_rows(2)
    lengths = np.arange(1, n_features + 1) ** -0.5
    lengths *= 1.5 * np.sqrt(n_features) / np.linalg.norm(lengths)
    images = 2 * cones[0] + concepts[target] + random_rows(len(target)) * lengths
    texts = 3 * cones[1] + concepts + 1.5 * random_rows(5)
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
    space = ConceptSpace(images, texts, list("abcde"), logit_scale=10.0)
    return Bunch(space=space, target=target)


# Where the texts' labels are even enough to begin with (seed 0), it is not.
@pytest.mark.parametrize("seed", [6, 10])
def test_a_huge_class_that_is_divided_among_the_small_ones_is_held_back(seed):
    problem = one_huge_class(seed)
    zero_shot = accuracy(problem.space.predict(), problem)
    unguarded = GaussianTransduction(guard=False).fit(problem.space)
    assert accuracy(unguarded.labels_, problem) < zero_shot - 0.04
    assert accuracy(held_back(problem).labels_, problem) > zero_shot - 0.02


# -- labels


@SEEDS
def test_labeled_images_that_are_found_better_speak_for_it(seed):
    problem = few_images(seed)
    y = np.where(np.arange(960) % 2 == 0, problem.target, -1)
    stage = GaussianTransduction(paradigm="ssl").fit(problem.space, y)
    (step,) = stage.report_.steps
    assert step.kept
    assert step.reason.endswith("more labeled images right than zero-shot does")
    others = y < 0
    zero_shot = problem.space.predict()
    gain = (stage.labels_ == problem.target).astype(int) - (zero_shot == problem.target)
    assert gain[others].mean() > 0.02


def test_labeled_images_are_no_change():
    problem = make_concept_space(n_mismatched=0, text_noise=0.8, random_state=0)
    y = np.where(np.arange(1000) % 2 == 0, problem.target, -1)
    stage = GaussianTransduction(paradigm="ssl").fit(problem.space, y)
    unlabeled = y < 0
    changed = stage.labels_ != problem.space.predict()
    assert stage.report_.n_changed == changed[unlabeled].sum() < changed.sum()


# -- unlabeled images of unseen classes alone


@pytest.mark.parametrize("guard", [True, False])
@SEEDS
def test_trzsl_gives_an_unlabeled_image_no_labeled_class(seed, guard):
    problem = make_concept_space(n_mismatched=0, text_noise=1.2, random_state=seed)
    y = np.where((problem.target < 12) & (np.arange(1000) % 3 > 0), problem.target, -1)
    stage = GaussianTransduction(paradigm="trzsl", guard=guard).fit(problem.space, y)
    assert (stage.labels_[y < 0] >= 12).all()
    np.testing.assert_array_equal(stage.labels_[y >= 0], y[y >= 0])
    free = GaussianTransduction(paradigm="ssl", guard=guard).fit(problem.space, y)
    assert (free.labels_[y < 0] < 12).any()


def test_trzsl_helps_where_it_is_true():
    problem = make_concept_space(n_mismatched=0, text_noise=1.2, random_state=0)
    y = np.where(problem.target < 10, problem.target, -1)
    found = {
        paradigm: accuracy(
            GaussianTransduction(paradigm=paradigm).fit(problem.space, y).labels_, problem
        )
        for paradigm in ("ssl", "trzsl")
    }
    assert found["trzsl"] > found["ssl"]


def test_trzsl_holds_back_to_zero_shot_among_the_unseen_classes():
    problem = few_images(0)
    y = np.full(960, -1)
    y[np.flatnonzero(problem.target == 0)[:1]] = 0
    stage = held_back(problem, y, paradigm="trzsl")
    among_unseen = 1 + problem.space.logits()[:, 1:].argmax(axis=1)
    np.testing.assert_array_equal(stage.labels_, np.where(y == 0, 0, among_unseen))


def test_trzsl_needs_a_class_that_is_not_labeled():
    problem = make_concept_space(100, 4, n_mismatched=0, random_state=0)
    y = np.where(np.arange(100) < 50, problem.target, -1)
    with pytest.raises(ValueError, match="expected classes without any label"):
        GaussianTransduction(paradigm="trzsl").fit(problem.space, y)
    stage = GaussianTransduction(paradigm="trzsl").fit(problem.space, problem.target)
    np.testing.assert_array_equal(stage.labels_, problem.target)


@pytest.mark.parametrize(("name", "value"), [("guard", "yes"), ("paradigm", "labels")])
def test_switches_are_checked_at_fit(name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of GaussianTransduction"):
        GaussianTransduction(**{name: value}).fit(few_images(0).space)
