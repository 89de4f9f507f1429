"""The classifier of Gaussian transduction."""

import dataclasses
import pickle

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.utils._param_validation import InvalidParameterError

from capkit import CLIPEncoder, GaussianTransduction, MismatchDetector
from capkit.baselines import GaussianTransductionClassifier, ZeroShotClassifier
from capkit.datasets import load_digits, make_concept_space
from capkit.exceptions import AdaptationWarning, BackboneMismatchError, LabelError
from capkit.gaussians import gaussian_log_evidence


@pytest.fixture(scope="module")
def problem():
    return make_concept_space(400, 8, 32, n_mismatched=0, text_noise=0.8, random_state=0)


def test_predicts_training_images_as_the_stage_labels_them(problem):
    classifier = GaussianTransductionClassifier().fit(problem.space)
    names = np.array(problem.space.class_names)
    expected = names[classifier.transduction_.labels_]
    np.testing.assert_array_equal(classifier.predict(problem.space), expected)
    order = np.random.default_rng(0).permutation(400)[:50]
    np.testing.assert_array_equal(classifier.predict(problem.space[order]), expected[order])
    probabilities = classifier.predict_proba(problem.space)
    np.testing.assert_allclose(
        probabilities.max(axis=1), classifier.transduction_.confidence_, atol=1e-3
    )


def test_probabilities_are_those_of_logits_divided_by_the_temperature(problem):
    old, new = problem.space[:300], problem.space[300:]
    classifier = GaussianTransductionClassifier().fit(old)
    trust = classifier.transduction_.trust_
    assert trust > 0.3
    classes = classifier.transduction_.transform(old).transduction.classes
    for space in (old, new):
        logits = log_softmax(space.logits(), axis=1)
        logits = logits + gaussian_log_evidence(space.image_features, classes)
        np.testing.assert_allclose(
            classifier.predict_proba(space), softmax(logits / (1 + 10 * trust), axis=1), atol=1e-4
        )
    np.testing.assert_allclose(
        classifier.predict_proba(old).max(axis=1), classifier.transduction_.confidence_, atol=1e-3
    )


def test_without_trust_probabilities_are_those_of_zero_shot():
    few = make_concept_space(
        960, 120, 64, n_mismatched=0, noise=2.0, text_noise=0.8, logit_scale=30.0, random_state=0
    ).space
    with pytest.warns(AdaptationWarning, match="zero_shot was kept"):
        classifier = GaussianTransductionClassifier().fit(few)
    np.testing.assert_allclose(
        classifier.predict_proba(few), ZeroShotClassifier().fit(few).predict_proba(few), atol=1e-5
    )


def test_beats_zero_shot_on_handwritten_digits_that_it_has_not_seen():
    train, test = load_digits(split="train"), load_digits(split="test")
    scores = [
        cls(backbone="glyph", class_names=train.class_names)
        .fit(train.images)
        .score(test.images, test.target)
        for cls in (ZeroShotClassifier, GaussianTransductionClassifier)
    ]
    assert scores[0] < 0.84
    assert scores[1] > 0.94


def test_images_and_a_space_of_them_give_the_same():
    digits = load_digits(split="test")
    encoder = CLIPEncoder("glyph", class_names=digits.class_names)
    space = encoder.fit_transform(digits.images)
    by_images = GaussianTransductionClassifier(backbone="glyph", class_names=digits.class_names)
    by_images.fit(digits.images)
    by_space = GaussianTransductionClassifier().fit(space)
    np.testing.assert_array_equal(by_images.predict(digits.images), by_space.predict(space))
    again = pickle.loads(pickle.dumps(by_images))
    np.testing.assert_array_equal(
        again.predict_proba(digits.images), by_images.predict_proba(digits.images)
    )


def test_mismatched_classes_of_an_earlier_step_are_found_by_their_clusters():
    planted = make_concept_space(random_state=0)
    detected = MismatchDetector(random_state=0).fit_transform(planted.space)
    with_detection = GaussianTransductionClassifier().fit(detected)
    # detection belongs to what was learned: a space without it is predicted the same
    assert with_detection.score(planted.space, planted.target) > 0.98
    assert (
        GaussianTransductionClassifier().fit(planted.space).score(planted.space, planted.target)
        < 0.97
    )


def test_labels_are_learned_from_only_where_that_is_asked_for(problem):
    y = np.where(np.arange(400) < 40, (problem.target + 1) % 8, -1)
    ignoring = GaussianTransductionClassifier().fit(problem.space, y)
    plain = GaussianTransductionClassifier().fit(problem.space)
    np.testing.assert_array_equal(ignoring.transduction_.labels_, plain.transduction_.labels_)
    learning = GaussianTransductionClassifier("ssl").fit(problem.space, y)
    assert (learning.transduction_.labels_[:40] == y[:40]).all()
    with pytest.raises(LabelError, match="no class"):
        GaussianTransductionClassifier("ssl").fit(problem.space, np.full(400, 9))


def test_parameters_of_the_stage_are_its_own_and_checked(problem):
    classifier = GaussianTransductionClassifier(transduction=GaussianTransduction(kappa=5.0))
    classifier.set_params(transduction__max_iter=1).fit(problem.space)
    assert classifier.transduction_.n_iter_ == 1
    assert not hasattr(classifier.transduction, "labels_")
    with pytest.raises(InvalidParameterError, match="'kappa' parameter of GaussianTransduction"):
        classifier.set_params(transduction__kappa=0).fit(problem.space)


def test_features_of_another_backbone_are_refused(problem):
    space = dataclasses.replace(problem.space, backbone="a", backbone_id="0" * 64)
    classifier = GaussianTransductionClassifier().fit(space)
    with pytest.raises(BackboneMismatchError, match="fingerprint 000000000000"):
        classifier.predict(dataclasses.replace(space, backbone_id="1" * 64))


@pytest.mark.parametrize("indices", [False, True])
def test_doubtful_images_are_given_no_class_where_that_is_asked_for(problem, indices):
    y = problem.target if indices else None
    classifier = GaussianTransductionClassifier().fit(problem.space, y)
    confidence = classifier.predict_proba(problem.space).max(axis=1)
    bar = float(np.median(confidence))
    labels = classifier.predict(problem.space)
    rejected = classifier.predict(problem.space, reject=bar)
    nothing = -1 if indices else None
    assert all(
        (label == nothing) == (c < bar) for label, c in zip(rejected, confidence, strict=True)
    )
    np.testing.assert_array_equal(rejected[confidence >= bar], labels[confidence >= bar])
    np.testing.assert_array_equal(classifier.predict(problem.space, reject=0), labels)


def test_a_bar_that_is_no_probability_is_refused(problem):
    classifier = GaussianTransductionClassifier().fit(problem.space)
    with pytest.raises(ValueError, match=r"reject in \[0, 1\]"):
        classifier.predict(problem.space, reject=1.5)


def test_paradigm_is_that_of_the_stage_whatever_the_stage_says_itself(problem):
    y = np.where(np.arange(400) < 60, problem.target, -1)
    given = GaussianTransduction(paradigm="trzsl", kappa=5.0)
    classifier = GaussianTransductionClassifier("ssl", transduction=given).fit(problem.space, y)
    assert classifier.transduction_.paradigm == "ssl"
    assert given.paradigm == "trzsl"
    alone = GaussianTransduction(paradigm="ssl", kappa=5.0).fit(problem.space, y)
    np.testing.assert_array_equal(classifier.transduction_.labels_, alone.labels_)


def test_unlabeled_images_go_to_unlabeled_classes_alone_in_trzsl(problem):
    y = np.where(problem.target < 3, problem.target, -1)
    y[np.flatnonzero(y == 0)[:5]] = -1  # some that are of a labeled class all the same
    classifier = GaussianTransductionClassifier("trzsl").fit(problem.space, y)
    found = classifier.transduction_.labels_
    np.testing.assert_array_equal(found[y >= 0], y[y >= 0])
    assert (found[y < 0] >= 3).all()


@pytest.mark.parametrize(
    ("paradigm", "labels", "message"),
    [
        ("ssl", [], "got none"),
        ("ssl", range(8), "got a label for each of 400"),
        ("ssl", [0], "at least 2 classes"),
        ("trzsl", [], "got none"),
    ],
)
def test_labels_that_a_paradigm_cannot_work_with_are_refused(problem, paradigm, labels, message):
    y = np.where(np.isin(problem.target, list(labels)), problem.target, -1)
    with pytest.raises(LabelError, match=message):
        GaussianTransductionClassifier(paradigm).fit(problem.space, y)


def test_labels_are_required_where_they_are_used():
    required = {
        paradigm: GaussianTransductionClassifier(paradigm).__sklearn_tags__().target_tags.required
        for paradigm in ("ul", "ssl", "trzsl")
    }
    assert required == {"ul": False, "ssl": True, "trzsl": True}
    with pytest.raises(TypeError, match="use_labels"):
        GaussianTransductionClassifier(use_labels=True)
