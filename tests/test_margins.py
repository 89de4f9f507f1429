"""The calibrated margin, against numbers worked out by hand."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch.nn import functional

from capkit import ConceptSpace, MarginCalibrator
from capkit.exceptions import NoConfidentPredictionWarning
from capkit.margins import (
    class_counts_above,
    class_similarity,
    margin_cross_entropy,
    margin_matrix,
    margin_scale,
    tendency,
)

# Three classes in the plane. cos(w_0, w_1) = 0, cos(w_0, w_2) = 0.6, cos(w_1, w_2) = 0.8.
TEXTS = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
# Class 0 has two images whose mean points to (1, 0), class 1 one at (0.8, 0.6), class 2 none.
IMAGES = np.array([[0.8, 0.6], [0.8, -0.6], [0.8, 0.6], [0.0, -1.0]])
LABELS = np.array([0, 0, 1, -1])
# cos(v_0, v_1) = 0.8; v_2 = w_2, so cos(v_0, v_2) = 0.6 and cos(v_1, v_2) = 0.48 + 0.48.
SIMILARITY = np.array([[1.0, 0.8, 0.6], [0.8, 1.0, 0.96], [0.6, 0.96, 1.0]])
COUNTS = np.array([4, 2, 1])  # r = 1, 1/2, 1/4
DELTA = np.array([0.0, 0.5, 0.75])  # Delta = 3/4
SCALES = {
    "paper": np.array([0.0, 3.0, 4.5]),  # 8 * 3/4 * delta
    "official": np.array([0.0, 2.0, 3.6]),  # 8 * 3/4 * (1 - r) / (1 + r) = 6 * (0, 1/3, 3/5)
}


def test_similarity_is_the_larger_of_image_and_text_similarity():
    np.testing.assert_allclose(class_similarity(IMAGES, LABELS, TEXTS), SIMILARITY, atol=1e-12)


def test_similarity_without_any_labeled_image_is_that_of_the_texts():
    np.testing.assert_allclose(
        class_similarity(IMAGES, np.full(4, -1), TEXTS),
        [[1.0, 0.0, 0.6], [0.0, 1.0, 0.8], [0.6, 0.8, 1.0]],
        atol=1e-12,
    )


def test_similarity_of_images_that_cancel_out_is_that_of_the_texts():
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0]])
    similarity = class_similarity(opposite, np.array([0, 0]), TEXTS)
    np.testing.assert_allclose(similarity[0], [1.0, 0.0, 0.6], atol=1e-12)


def test_counts_only_what_exceeds_tau():
    labels = np.array([0, 0, 1, 2, -1])
    confidence = np.array([0.9, 0.85, 0.86, 0.2, 0.99])
    assert class_counts_above(labels, confidence, 0.85, 4).tolist() == [1, 1, 0, 0]


def test_tendency_by_hand():
    np.testing.assert_allclose(tendency(COUNTS), DELTA)


def test_tendency_of_seen_classes_is_zero_and_others_compare_among_themselves():
    # Seen class 0 holds the largest count; the largest unseen one is 2.
    np.testing.assert_allclose(tendency(COUNTS, seen=[0]), [0.0, 0.0, 0.5])


def test_tendency_is_measured_against_the_proportions():
    # 30 / 2, 10 / 1 and 0 / 1
    np.testing.assert_allclose(tendency([30, 10, 0], proportions=[2, 1, 1]), [0, 1 / 3, 1])
    # In which unit they are does not matter.
    np.testing.assert_allclose(tendency([30, 10, 0], proportions=[0.5, 0.25, 0.25]), [0, 1 / 3, 1])
    # Predicted as often as they are frequent, no class lags behind.
    np.testing.assert_allclose(tendency([40, 10, 5], proportions=[8, 2, 1]), 0, atol=1e-12)
    # The largest is of the unseen classes, each by its own proportion: 10 / 2 against 8 / 1.
    found = tendency([90, 10, 8], seen=[0], proportions=[1, 2, 1])
    np.testing.assert_allclose(found, [0, 3 / 8, 0])


def test_equal_proportions_are_none():
    np.testing.assert_allclose(tendency([4, 2, 1], proportions=[1, 1, 1]), tendency([4, 2, 1]))


def test_tendency_without_confident_predictions_is_zero():
    assert tendency([0, 0, 0]).tolist() == [0.0, 0.0, 0.0]
    assert tendency([5, 0, 0], seen=[0]).tolist() == [0.0, 0.0, 0.0]
    assert tendency([5, 4, 3], seen=[0, 1, 2]).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("form", ["paper", "official"])
def test_scale_by_hand(form):
    np.testing.assert_allclose(margin_scale(DELTA, 8.0, form), SCALES[form])


def test_scale_of_the_method_notes_example():
    # r = 1/2, min r = 0, m = 12: the paper gives 6 where the official code gives 4.
    delta = [0.0, 0.5, 1.0]
    assert margin_scale(delta, 12.0, "paper")[1] == 6.0
    assert margin_scale(delta, 12.0, "official")[1] == 4.0


def test_scale_refuses_another_form():
    with pytest.raises(ValueError, match="expected form 'paper' or 'official', got 'other'"):
        margin_scale(DELTA, 8.0, "other")


def test_matrix_by_hand():
    np.testing.assert_allclose(
        margin_matrix(SIMILARITY, SCALES["paper"]),
        [[0.0, 0.0, 0.0], [2.4, 3.0, 2.88], [2.7, 4.32, 4.5]],
    )


# -- the loss


def test_loss_equals_the_formula_term_by_term():
    logits = torch.tensor([[1.0, -0.5, 2.0], [0.3, 0.2, 0.1]], dtype=torch.float64)
    margin = torch.tensor([[9.0, 2.0, 3.0], [0.5, 9.0, 1.5], [1.0, 4.0, 9.0]], dtype=torch.float64)
    # Diagonal entries (9) must not matter.
    by_hand = [
        -math.log(math.exp(1.0) / (math.exp(1.0) + math.exp(-0.5 + 2.0) + math.exp(2.0 + 3.0))),
        -math.log(math.exp(0.1) / (math.exp(0.1) + math.exp(0.3 + 1.0) + math.exp(0.2 + 4.0))),
    ]
    targets = torch.tensor([0, 2])
    losses = margin_cross_entropy(logits, targets, margin)
    np.testing.assert_allclose(losses.numpy(), by_hand, rtol=1e-12)


def test_loss_without_margin_is_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(16, 5, generator=generator)
    targets = torch.randint(5, (16,), generator=generator)
    # A diagonal margin is none: the class's own logit stays as it is.
    for margin in (torch.zeros(5, 5), 7 * torch.eye(5)):
        torch.testing.assert_close(
            margin_cross_entropy(logits, targets, margin),
            functional.cross_entropy(logits, targets, reduction="none"),
        )


def test_loss_of_no_samples_has_no_entries():
    losses = margin_cross_entropy(
        torch.empty(0, 3), torch.empty(0, dtype=torch.int64), torch.ones(3, 3)
    )
    assert losses.shape == (0,)


def test_loss_has_the_right_gradient():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    margin = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    targets = torch.tensor([0, 2, 1, 2])
    assert torch.autograd.gradcheck(lambda z: margin_cross_entropy(z, targets, margin), logits)


def test_loss_stays_finite_for_huge_logits():
    logits = torch.tensor([[1e4, -1e4]])
    loss = margin_cross_entropy(logits, torch.tensor([1]), torch.full((2, 2), 12.0))
    assert loss.item() == pytest.approx(2e4 + 12)


def test_larger_margin_means_larger_loss():
    logits, targets = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0])
    losses = [
        margin_cross_entropy(logits, targets, torch.full((3, 3), size)).item()
        for size in (0.0, 1.0, 5.0)
    ]
    assert losses == sorted(losses) and len(set(losses)) == 3


def test_loss_takes_a_margin_of_another_dtype():
    logits = torch.zeros(1, 2, dtype=torch.bfloat16)
    loss = margin_cross_entropy(logits, torch.tensor([0]), torch.zeros(2, 2, dtype=torch.float64))
    assert loss.dtype == torch.bfloat16


# -- the estimator


@pytest.mark.parametrize("form", ["paper", "official"])
def test_calibrator_puts_the_pieces_together(form):
    images = np.repeat(IMAGES[[0, 2]], [4, 3], axis=0)
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])
    calibrator = MarginCalibrator(m=8.0, form=form).fit_from_predictions(
        images, TEXTS, labels, confidence
    )
    assert calibrator.counts_.tolist() == COUNTS.tolist()
    np.testing.assert_allclose(calibrator.tendency_, DELTA)
    np.testing.assert_allclose(calibrator.scale_, SCALES[form])
    np.testing.assert_allclose(calibrator.similarity_, class_similarity(images, labels, TEXTS))
    np.testing.assert_allclose(
        calibrator.margin_matrix_,
        calibrator.similarity_ * SCALES[form][:, None],
        rtol=1e-6,
    )
    assert calibrator.margin_matrix_.dtype == np.float32


def test_fit_is_fit_from_predictions_on_the_space_s_own(planted_space):
    probabilities = planted_space.predict_proba()
    by_space = MarginCalibrator().fit(planted_space)
    by_predictions = MarginCalibrator().fit_from_predictions(
        planted_space.image_features,
        planted_space.text_features,
        probabilities.argmax(axis=1),
        probabilities.max(axis=1),
    )
    np.testing.assert_array_equal(by_space.margin_matrix_, by_predictions.margin_matrix_)
    assert by_space.margin_matrix_.max() > 1


@pytest.mark.parametrize("form", ["paper", "official"])
def test_seen_classes_get_no_margin(planted_space, form):
    seen = [0, 3, 5]
    probabilities = planted_space.predict_proba()
    calibrator = MarginCalibrator(form=form).fit_from_predictions(
        planted_space.image_features,
        planted_space.text_features,
        probabilities.argmax(axis=1),
        probabilities.max(axis=1),
        seen=seen,
    )
    assert not calibrator.margin_matrix_[seen].any()
    assert np.delete(calibrator.margin_matrix_, seen, axis=0).any()


def test_calibrator_measures_against_the_proportions():
    labels = [0, 0, 0, 0, 1, 1]
    arguments = np.eye(2)[labels], np.eye(2), labels, [0.9] * 6
    calibrator = MarginCalibrator(m=6.0)
    calibrator.fit_from_predictions(*arguments, proportions=[0.5, 1.5])
    # 4 / 0.5 = 8 against 2 / 1.5 = 4/3, a sixth: 6 (5/6)^2
    np.testing.assert_allclose(np.diag(calibrator.margin_matrix_), [0, 25 / 6], rtol=1e-6)
    calibrator.fit_from_predictions(*arguments, proportions=[2, 1])
    assert not calibrator.margin_matrix_.any()


def test_no_confident_prediction_gives_zeros_and_a_warning(planted_space):
    with pytest.warns(NoConfidentPredictionWarning, match="above tau=1"):
        calibrator = MarginCalibrator(tau=1).fit(planted_space)
    assert not calibrator.margin_matrix_.any()


def test_without_similarity_a_class_has_one_margin_against_all_others():
    calibrator = MarginCalibrator(m=8.0, tau=0.5, use_similarity=False)
    calibrator.fit_from_predictions(np.ones((7, 2)), TEXTS, [0, 0, 0, 0, 1, 1, 2], np.ones(7))
    np.testing.assert_array_equal(calibrator.similarity_, np.ones((3, 3)))
    np.testing.assert_allclose(calibrator.margin_matrix_, np.tile(SCALES["paper"], (3, 1)).T)


@pytest.mark.parametrize("form", ["paper", "official"])
def test_without_tendency_every_class_but_the_seen_ones_has_the_whole_margin(form):
    calibrator = MarginCalibrator(m=8.0, tau=0.5, form=form, use_tendency=False)
    calibrator.fit_from_predictions(IMAGES, TEXTS, LABELS, np.ones(4))
    np.testing.assert_array_equal(calibrator.scale_, [8.0, 8.0, 8.0])
    np.testing.assert_allclose(calibrator.margin_matrix_, 8.0 * SIMILARITY, rtol=1e-6)
    calibrator.fit_from_predictions(IMAGES, TEXTS, LABELS, np.ones(4), seen=[1])
    np.testing.assert_array_equal(calibrator.scale_, [8.0, 0.0, 8.0])
    np.testing.assert_array_equal(calibrator.tendency_, [0.0, 0.0, 1.0])  # still what is measured


def test_without_either_all_margins_are_m():
    calibrator = MarginCalibrator(m=8.0, use_similarity=False, use_tendency=False)
    calibrator.fit_from_predictions(IMAGES, TEXTS, LABELS, np.ones(4))
    np.testing.assert_array_equal(calibrator.margin_matrix_, np.full((3, 3), 8.0))


def test_a_margin_without_tendency_needs_no_confident_prediction():
    calibrator = MarginCalibrator(m=8.0, tau=0.9, use_tendency=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoConfidentPredictionWarning)
        calibrator.fit_from_predictions(IMAGES, TEXTS, LABELS, np.full(4, 0.5))
    np.testing.assert_array_equal(calibrator.scale_, [8.0, 8.0, 8.0])


def test_all_classes_seen_gives_zeros_silently():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrator = MarginCalibrator().fit_from_predictions(
            IMAGES, TEXTS, LABELS, np.ones(4), seen=[0, 1, 2]
        )
    assert not calibrator.margin_matrix_.any()


def test_transform_adds_the_matrix_and_an_unfitted_calibrator(planted_space):
    calibrator = MarginCalibrator(m=3.0)
    space = calibrator.fit_transform(planted_space)
    np.testing.assert_array_equal(space.margin.margin_matrix, calibrator.margin_matrix_)
    assert space.margin.calibrator.get_params() == calibrator.get_params()
    assert not hasattr(space.margin.calibrator, "margin_matrix_")
    assert planted_space.margin is None
    np.testing.assert_array_equal(space.image_features, planted_space.image_features)


def test_transform_applies_what_fit_learned(planted_space):
    calibrator = MarginCalibrator().fit(planted_space)
    few = calibrator.transform(planted_space[:3])
    np.testing.assert_array_equal(few.margin.margin_matrix, calibrator.margin_matrix_)


def test_transform_refuses_another_number_of_classes(planted_space):
    other = ConceptSpace(np.eye(2), np.eye(2), ["a", "b"])
    with pytest.raises(ValueError, match=r"fitted on the 20 classes .*, got 2: "):
        MarginCalibrator().fit(planted_space).transform(other)
    without_names = MarginCalibrator().fit_from_predictions(IMAGES, TEXTS, LABELS, np.ones(4))
    with pytest.raises(ValueError, match="fitted on 3 classes, got a ConceptSpace of 2"):
        without_names.transform(other)


def test_transform_refuses_the_same_classes_in_another_order(planted_space):
    turned = dataclasses.replace(planted_space, class_names=planted_space.class_names[::-1])
    with pytest.raises(ValueError, match="same class_names in the same order"):
        MarginCalibrator().fit(planted_space).transform(turned)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGES, TEXTS, LABELS[:2], np.ones(4)), "one length, got 4, 2 and 4"),
        ((IMAGES, TEXTS, LABELS + 2, np.ones(4)), "expected labels from -1 to 2, got 1 to 3"),
    ],
)
def test_fit_from_predictions_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        MarginCalibrator().fit_from_predictions(*arguments)


def test_unknown_seen_class_is_refused():
    with pytest.raises(ValueError, match=r"seen classes between 0 and 2, got \[3\]"):
        MarginCalibrator().fit_from_predictions(IMAGES, TEXTS, LABELS, np.ones(4), seen=[3])


@pytest.mark.parametrize(
    ("parameter", "value"), [("m", -1.0), ("tau", 1.5), ("form", "other"), ("m", "12")]
)
def test_parameters_are_checked_at_fit(planted_space, parameter, value):
    calibrator = MarginCalibrator(**{parameter: value})
    with pytest.raises(ValueError, match=f"The '{parameter}' parameter of MarginCalibrator"):
        clone(calibrator).fit(planted_space)


def test_nan_features_are_refused():
    features = np.ones((1, 2), dtype=np.float32)
    space = ConceptSpace(features, np.eye(2), ["a", "b"])
    features[0, 0] = np.nan  # the space looks at the caller's array
    with pytest.raises(ValueError, match="NaN or infinity in image_features"):
        MarginCalibrator().fit(space)


def test_no_images_are_refused():
    space = ConceptSpace(np.empty((0, 2)), np.eye(2), ["a", "b"])
    with pytest.raises(ValueError, match=r"at least 1 image\(s\), got 0"):
        MarginCalibrator().fit(space)
