"""Adapter tuning: features in, features out."""

import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from capkit.tuning import AdapterTuning
from capkit.tuning.adapter import FeatureEncoder, FeatureView

FEATURES = F.normalize(torch.randn(500, 512, generator=torch.Generator().manual_seed(0)), dim=1)
ALL = np.arange(500)


def test_noise_of_length_a_half_turns_a_feature_by_27_degrees():
    torch.manual_seed(1)
    views = FeatureView(FEATURES, 0.5)(ALL)
    torch.testing.assert_close(views.norm(dim=1), torch.ones(500))
    angles = (views * FEATURES).sum(dim=1).clamp(-1, 1).acos().rad2deg()
    assert angles.median().item() == pytest.approx(np.rad2deg(np.arctan(0.5)), abs=1)


def test_no_noise_leaves_a_feature_as_it_is():
    torch.testing.assert_close(FeatureView(FEATURES, 0.0)(ALL[[7, 3]]), FEATURES[[7, 3]])


def test_a_transform_sees_one_feature_after_the_other():
    seen = []

    def halve(feature):
        seen.append(tuple(feature.shape))
        return feature / 2

    views = FeatureView(FEATURES, halve)(ALL[:3])
    assert seen == [(512,)] * 3
    assert torch.equal(views, FEATURES[:3] / 2)


def test_built_tuning_trains_on_the_aligned_features(planted_space):
    built = AdapterTuning(augment=0.25).build(planted_space, device="cpu", n_jobs=None)
    assert np.array_equal(built.inputs, planted_space.image_features)
    assert built.strong_view.augment == 0.25
    encoder = pickle.loads(pickle.dumps(built.load_encoder))("cpu")()
    assert np.array_equal(encoder.encode_texts(), planted_space.text_features)
    assert list(encoder.parameters()) == []


def test_a_trained_encoder_needs_no_backbone():
    encoder = FeatureEncoder(FEATURES[:3])
    weights = AdapterTuning().export(encoder)
    assert set(weights) == {"text_features"}
    again = AdapterTuning().trained_encoder(weights, backbone=None)
    assert torch.equal(again.encode_texts(), FEATURES[:3])


@pytest.mark.parametrize(
    ("paradigm", "expected"), [("ul", "ensemble"), ("ssl", "ensemble"), ("trzsl", "main")]
)
def test_predicts_with_what_saw_every_class(paradigm, expected):
    tuning = AdapterTuning()
    assert tuning.default_inference(paradigm) == expected
    assert expected in tuning.inference_modes


def test_predicting_without_adapters_is_refused():
    tuning = AdapterTuning()
    tuning.check_inference(None)
    tuning.check_inference("main")
    with pytest.raises(ValueError, match=r"'no_adapters' is not for tuning='adapter'.*'main'"):
        tuning.check_inference("no_adapters")


def test_new_images_are_encoded_by_the_frozen_model(planted_space):
    inputs = AdapterTuning().prediction_inputs(
        planted_space, encode=np.asarray, backbone=None, n_jobs=None
    )
    assert np.array_equal(inputs, planted_space.image_features)
