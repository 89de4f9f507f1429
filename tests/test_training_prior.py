"""What other images say of an image, in training: the Gaussians beside the trained logits."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import softmax

from capkit import CAPClassifier, GaussianTransduction, MarginCalibrator
from capkit.datasets import make_concept_space
from capkit.gaussians import GaussianPrior, gaussian_log_evidence
from capkit.space import GaussianClasses
from capkit.training.self_training import CAPSelfTraining, EpochPredictions
from capkit.tuning import AdapterTuning

NONE = np.empty(0, dtype=np.int64)
# Six images of unit length; the angle to the class's axis grows from image to image.
ANGLES = np.deg2rad([0, 10, 20, 70, 80, 90])
IMAGES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)
TEXTS = np.eye(2, dtype=np.float32)


def make_prior(log_prior=(0.0, 0.0), means=((0.0, 0.0), (0.0, 0.0)), texts=TEXTS):
    """Gaussians that add `log_prior` and, up to what all classes share, ``x m_c - m_c^2 / 2``."""
    classes = GaussianClasses(
        whitening=np.eye(2, dtype=np.float32),
        whitened_means=np.array(means, dtype=np.float32),
        mean_variance=np.zeros(len(texts)),
        dimension=2.0,
        log_prior=np.array(log_prior),
        trust=1.0,
        keys=np.empty(0, dtype=np.uint64),
        own_classes=np.empty((0, 1), dtype=np.int32),
        own_share=np.empty((0, 1), dtype=np.float32),
    )
    return GaussianPrior(texts, 10.0, classes, NONE)


def make(**changes):
    fields = {
        "image_features": IMAGES,
        "text_features": TEXTS,
        "logit_scale": 10.0,
        "labels": np.full(6, -1),
        "seen": NONE,
        "aligned": NONE,
        "tau": 0.8,
        "calibrator": MarginCalibrator(m=6.0, tau=0.8),
        "top_k": 2,
        "epochs": 10,
        "renew_every": 1,
        "ramp_fraction": 0.5,
        "max_share": 1.0,
        "max_per_class": 1000,
    }
    return CAPSelfTraining(**fields | changes)


def epoch_of(labels, confidence):
    losses = {"main": 0.5, "pseudo": 0.25}
    confidence = np.array(confidence, dtype=np.float32)
    return EpochPredictions(np.arange(len(labels)), np.array(labels), confidence, losses, 0.01)


# -- pseudolabels of the weak view


def test_a_pseudolabel_is_of_the_logits_and_what_the_gaussians_add():
    training = make(prior=make_prior(log_prior=np.log([1.0, 9.0])))
    weak = torch.tensor([[0.75, 0.25], [0.95, 0.05]]).log()
    pseudo = training.pseudo_label(weak, torch.tensor([0, 1]))
    # Odds of 3 to 1 become 3 to 9, and those of 19 to 1 become 19 to 9.
    assert pseudo.labels.tolist() == [1, 0]
    assert pseudo.confidence.tolist() == pytest.approx([9 / 12, 19 / 28], rel=1e-5)
    assert pseudo.kept.tolist() == [False, False]


def test_the_gaussians_are_asked_about_the_images_that_the_logits_are_of():
    # x m_1 is 4 times the sine of the image's angle; m_1^2 / 2 is 8.
    training = make(prior=make_prior(means=[[0, 0], [0, 4]], log_prior=[0, 8]))
    rows = [5, 0, 3, 5]
    pseudo = training.pseudo_label(torch.zeros(4, 2), torch.tensor(rows))
    expected = 1 / (1 + np.exp(-4 * np.sin(ANGLES[rows])))
    assert pseudo.confidence.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert pseudo.labels[[0, 2, 3]].tolist() == [1, 1, 1]
    assert pseudo.kept.tolist() == [True, False, True, True]


def test_a_seen_class_is_no_pseudolabel_whatever_the_gaussians_say():
    texts = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    zeros = ((0.0, 0.0),) * 3
    prior = make_prior(log_prior=[50.0, 0.0, np.log(3.0)], means=zeros, texts=texts)
    training = make(text_features=texts, seen=np.array([0]), prior=prior)
    pseudo = training.pseudo_label(torch.zeros(1, 3), torch.tensor([0]))
    assert pseudo.labels.tolist() == [2]
    assert pseudo.confidence.tolist() == pytest.approx([0.75], rel=1e-5)


@pytest.fixture(scope="module")
def problem():
    return make_concept_space(150, 5, 20, n_mismatched=0, text_noise=0.8, random_state=0)


@pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")
def test_a_whole_training_takes_its_pseudolabels_from_logits_and_gaussians(problem, monkeypatch):
    asked, pseudo_label = [], CAPSelfTraining.pseudo_label

    def spy(self, weak_logits, images):
        made = pseudo_label(self, weak_logits, images)
        asked.append((weak_logits.numpy(), images.numpy(), made))
        return made

    monkeypatch.setattr(CAPSelfTraining, "pseudo_label", spy)
    classifier = CAPClassifier(
        tuning=AdapterTuning(epochs=2, steps_per_epoch=5, batch_size=16),
        pseudo_labels=GaussianTransduction(guard=False),
        random_state=0,
    ).fit(problem.space)
    assert len(asked) == 10
    features, classes = problem.space.image_features, classifier._model.prior.classes
    assert classes is classifier.transduction_._classes
    # Before the first step the adapters change nothing: which images these are can be told.
    weak, images, _ = asked[0]
    expected = problem.space.logit_scale * features[images] @ problem.space.text_features.T
    np.testing.assert_allclose(weak, expected, atol=1e-2)
    moved, last = 0, np.full(150, -1)
    for weak, images, made in asked:
        evidence = gaussian_log_evidence(features[images], classes)
        probabilities = softmax(weak.astype(np.float64) + evidence, axis=1)
        assert np.array_equal(made.labels.numpy(), probabilities.argmax(axis=1))
        np.testing.assert_allclose(made.confidence, probabilities.max(axis=1), atol=1e-3)
        moved += (weak.argmax(axis=1) != made.labels.numpy()).sum()
        last[images] = np.where(made.confidence > 0.85, made.labels, -1)
    assert moved > 0  # or the Gaussians have nothing to say here
    assert np.array_equal(classifier.pseudo_labels_, last)


# -- the first main samples


def test_first_main_samples_are_of_the_posterior():
    # Without: three images of each class. With 8 added to class 1, the image at 20 degrees is
    # its fourth: 10 cos 20 = 9.4 against 10 sin 20 + 8 = 11.4.
    assert make(top_k=3).start().main_labels.tolist() == [0, 0, 0, 1, 1, 1]
    prior = make_prior(log_prior=[0, 8])
    assert make(top_k=3, prior=prior).start().main_labels.tolist() == [0, 0, -1, 1, 1, 1]
    assert make(top_k=4, prior=prior).start().main_labels.tolist() == [0, 0, 1, 1, 1, 1]


def test_an_aligned_class_is_predicted_like_any_other_where_there_are_gaussians():
    texts = np.array([[1.0, 0.0], [0.8, 0.6]], dtype=np.float32)  # class 1 at 37 degrees
    changes = {"text_features": texts, "aligned": np.array([1]), "top_k": 3}
    # By similarity: 20, 10 and 70 degrees. By probability: beyond 18.4 degrees, the further the
    # surer.
    assert make(**changes).start().main_labels.tolist() == [0, 1, 1, 1, -1, -1]
    prior = make_prior(texts=texts)
    assert make(**changes, prior=prior).start().main_labels.tolist() == [0, 0, -1, 1, 1, 1]


def test_labeled_images_and_seen_classes_are_no_main_samples():
    labels = np.array([0, -1, -1, -1, -1, -1])
    prior = make_prior(log_prior=[50, 0])
    start = make(labels=labels, seen=np.array([0]), prior=prior, top_k=3).start()
    assert start.main_labels[0] == -1
    assert (start.main_labels == 1).sum() == 3
    assert set(start.main_labels.tolist()) == {1, -1}


# -- unequal classes


@pytest.mark.parametrize(
    ("proportions", "expected"),
    [
        ([1.5, 0.5], [0, 0, 0, -1, -1, 1]),
        ([0.5, 1.5], [0, -1, -1, 1, 1, 1]),
        ([1.99, 0.01], [0, 0, 0, -1, -1, 1]),  # four, of which there are three; at least one
    ],
)
def test_first_main_samples_are_as_many_as_the_class_is_frequent(proportions, expected):
    start = make(proportions=np.array(proportions)).start()
    assert start.main_labels.tolist() == expected


def test_renewed_main_samples_are_as_many_as_the_class_is_frequent():
    # At the end of the ramp a class of average size has all of its 3 images.
    epoch = epoch_of([0, 0, 0, 1, 1, 1], [0.95, 0.9, 0.85, 0.85, 0.9, 0.95])
    for proportions, expected in (
        (None, [0, 0, 0, 1, 1, 1]),
        (np.array([4 / 3, 2 / 3]), [0, 0, 0, -1, 1, 1]),
        (np.array([1 / 3, 5 / 3]), [0, -1, -1, 1, 1, 1]),
    ):
        training = make(top_k=1, proportions=proportions)
        state = training.start()
        state.epoch = 4
        state.main_labels[:] = -1
        training.end_epoch(state, epoch)
        assert state.main_labels.tolist() == expected


def test_the_margin_is_measured_against_the_proportions():
    epoch = epoch_of([0, 0, 0, 0, 1, 1], [0.9] * 6)
    for proportions, expected in (
        # Class 1 has half of class 0's: 6 (1/2)^2
        (None, [0, 1.5]),
        (np.array([4 / 3, 2 / 3]), [0, 0]),
        # 4 / 0.5 = 8 against 2 / 1.5 = 4/3, a sixth: 6 (5/6)^2
        (np.array([0.5, 1.5]), [0, 25 / 6]),
        # 4 / 1.8 against 2 / 0.2 = 10, two ninths
        (np.array([1.8, 0.2]), [6 * (7 / 9) ** 2, 0]),
    ):
        training = make(proportions=proportions)
        state = training.start()
        training.end_epoch(state, epoch)
        assert np.diag(state.margin_matrix).tolist() == pytest.approx(expected, abs=1e-6)


def test_proportions_of_the_gaussians_are_relative_to_their_mean():
    prior = make_prior(log_prior=np.log([3.0, 1.0]))
    np.testing.assert_allclose(prior.proportions, [1.5, 0.5])


# -- where nothing is trained


def test_images_are_labeled_without_training_by_texts_and_gaussians():
    training = make(prior=make_prior(log_prior=[0, 8]), labels=np.array([-1, 0, -1, -1, -1, -1]))
    state = training.start()
    training.label_untrained(state)
    assert state.pseudo_labels.tolist() == [0, -1, 1, 1, 1, 1]
    # 10 against 8, and 10 cos 20 against 10 sin 20 + 8
    odds = [10 - 8, 10 * np.sin(ANGLES[2]) + 8 - 10 * np.cos(ANGLES[2])]
    expected = 1 / (1 + np.exp(-np.array(odds)))
    np.testing.assert_allclose(state.confidence[[0, 2]], expected, rtol=1e-4)
    assert state.confidence[1] == 0
    assert (state.epoch, state.history) == (0, [])
    # Above 0.8 are one image of class 0 and four of class 1: 6 (3/4)^2
    assert np.diag(state.margin_matrix).tolist() == pytest.approx([6 * 9 / 16, 0])


def test_images_are_labeled_without_training_as_none_of_the_seen_classes():
    training = make(seen=np.array([1]), labels=np.array([-1] * 5 + [1]), prior=make_prior())
    state = training.start()
    training.label_untrained(state)
    assert state.pseudo_labels.tolist() == [0] * 5 + [-1]


def test_a_self_training_without_gaussians_is_the_paper_s():
    fields = {field.name: field.default for field in dataclasses.fields(CAPSelfTraining)}
    assert fields["prior"] is None and fields["proportions"] is None
    weak = torch.randn(6, 2)
    pseudo = make().pseudo_label(weak, torch.arange(6))
    assert torch.equal(pseudo.labels, weak.argmax(dim=1))
