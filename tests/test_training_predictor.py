"""What is exported of a trained module predicts as the module does."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch.nn import functional as F

from capkit.training.module import INFERENCE_MODES, DualAdapterModule
from capkit.training.predictor import (
    adapted_features,
    build_predictor,
    encode_batches,
    export_adapters,
    predict_logits,
)
from capkit.tuning.adapter import FeatureEncoder

TEXTS = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=1)


@pytest.fixture
def module():
    torch.manual_seed(1)
    module = DualAdapterModule(FeatureEncoder(TEXTS), 20.0, adapter_dim=4, adapter_weight=0.3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module.eval()


@pytest.fixture
def predictor(module):
    weights = export_adapters(module)
    return build_predictor(
        weights, FeatureEncoder(TEXTS), logit_scale=20.0, adapter_weight=0.3, device="cpu"
    )


def draw(n):
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("inference", INFERENCE_MODES)
def test_exported_adapters_predict_as_the_trained_module(module, predictor, inference):
    features = encode_batches(predictor, draw(5), batch_size=5)
    expected = module.logits(module.features(draw(5)), module.text_features(), inference)
    found = predict_logits(predictor, features, inference)
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-5)


def test_a_predictor_does_not_train(predictor):
    assert not predictor.training
    assert not any(parameter.requires_grad for parameter in predictor.parameters())


def test_building_leaves_the_global_random_state_alone(module):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    build_predictor(
        export_adapters(module),
        FeatureEncoder(TEXTS),
        logit_scale=1.0,
        adapter_weight=0.3,
        device="cpu",
    )
    assert torch.equal(torch.rand(2), expected)


def test_batches_make_no_difference_and_no_adapter_is_applied(predictor):
    whole = encode_batches(predictor, draw(5), batch_size=5)
    torch.testing.assert_close(encode_batches(predictor, draw(5), batch_size=2), whole)
    torch.testing.assert_close(whole, F.normalize(draw(5), dim=1))


def test_pixels_reach_the_encoder_with_their_channels_first(predictor):
    seen = []
    predictor.encoder.encode_images = lambda inputs: seen.append(inputs.shape) or draw(len(inputs))
    encode_batches(predictor, torch.zeros(3, 6, 5, 3, dtype=torch.uint8), batch_size=2)
    assert seen == [(2, 3, 6, 5), (1, 3, 6, 5)]


def test_adapted_features_are_what_is_compared_with_the_classes(predictor):
    features = encode_batches(predictor, draw(4), batch_size=4)
    for inference in ("no_adapters", "main", "pseudo"):
        adapted = adapted_features(predictor, features, inference)
        texts = predictor.text_features(inference).numpy()
        np.testing.assert_allclose(
            20.0 * adapted @ texts.T, predict_logits(predictor, features, inference), rtol=1e-4
        )
    both = [adapted_features(predictor, features, branch) for branch in ("main", "pseudo")]
    mean = np.mean(both, axis=0)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(
        adapted_features(predictor, features, "ensemble"), expected, rtol=1e-5
    )


def test_with_one_branch_both_adapters_that_are_exported_are_the_same():
    torch.manual_seed(1)
    module = DualAdapterModule(
        FeatureEncoder(TEXTS), 20.0, adapter_dim=4, adapter_weight=0.3, pseudo_adapter=False
    )
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    weights = export_adapters(module)
    for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
        np.testing.assert_array_equal(
            weights[f"pseudo_adapter.{name}"], weights[f"main_adapter.{name}"]
        )
    predictor = build_predictor(
        weights, FeatureEncoder(TEXTS), logit_scale=20.0, adapter_weight=0.3, device="cpu"
    )
    features = encode_batches(predictor, draw(5), batch_size=5)
    expected = module.logits(module.features(draw(5)), module.text_features(), "main").detach()
    for inference in ("main", "pseudo", "ensemble"):
        found = predict_logits(predictor, features, inference)
        np.testing.assert_allclose(softmax(found, 1), softmax(expected, 1), atol=1e-6)
        adapted = adapted_features(predictor, features, inference)
        np.testing.assert_allclose(adapted, adapted_features(predictor, features, "main"), 1e-5)
