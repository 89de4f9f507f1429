"""What is left of a fit predicts: by texts, by trained weights, by Gaussians, or by both."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax

from capkit import GaussianTransduction
from capkit.adapted import AdaptedModel, Reader
from capkit.datasets import make_concept_space
from capkit.gaussians import GaussianPrior, gaussian_log_evidence
from capkit.training.module import DualAdapterModule
from capkit.tuning import AdapterTuning

TUNING = AdapterTuning(adapter_dim=4, adapter_weight=0.3)
MODES = ("main", "pseudo", "ensemble")


@pytest.fixture(scope="module")
def problem():
    return make_concept_space(150, 5, 20, random_state=0)


@pytest.fixture(scope="module")
def space(problem):
    return problem.space


@pytest.fixture(scope="module")
def new_space(space):
    """Images that nothing was fitted on."""
    features = space.image_features[:9] + 0.1
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return dataclasses.replace(space[:9], image_features=features.astype(np.float32))


@pytest.fixture(scope="module")
def prior(space):
    classes = GaussianTransduction().fit(space)._classes
    none = np.empty(0, dtype=np.int64)
    return GaussianPrior(space.text_features, space.logit_scale, classes, none)


@pytest.fixture(scope="module")
def module(space):
    """As after a training: every adapter has an effect."""
    encoder = TUNING.build(space, device="cpu", n_jobs=None).load_encoder("cpu")()
    module = DualAdapterModule(encoder, space.logit_scale, adapter_dim=4, adapter_weight=0.3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.eval()


@pytest.fixture
def encoded():
    """Number of images of every pass through the frozen model."""
    return []


@pytest.fixture
def reader(encoded):
    def encode(images):
        encoded.append(len(images))
        return images.image_features

    def backbone():
        pytest.fail("features need no backbone")

    return Reader(encode=encode, backbone=backbone, device="cpu", batch_size=4, n_jobs=None)


@pytest.fixture(params=["texts", "Gaussians", "weights", "both"])
def model(request, space, module, prior):
    given = prior if request.param in ("Gaussians", "both") else None
    trained = AdaptedModel.from_training(space, given, module, TUNING)
    return trained if request.param in ("weights", "both") else trained.untrained()


def centred(logits):
    """Without what is common to all classes, which changes no probability."""
    return logits - logits.mean(axis=1, keepdims=True)


def cosines(model, features):
    return model.logit_scale * features.astype(np.float64) @ model.text_features.T


def added_by_hand(prior, features):
    """Logarithms of the believed texts' probabilities and the evidence, in place of the texts."""
    texts = prior.logit_scale * features.astype(np.float64) @ prior.text_features.T
    believed = texts.copy()
    if len(prior.mismatched):
        others = np.delete(texts, prior.mismatched, axis=1)
        average = logsumexp(others, axis=1) - np.log(others.shape[1])
        believed[:, prior.mismatched] = average[:, None]
    evidence = gaussian_log_evidence(features, prior.classes)
    return log_softmax(believed, axis=1) - texts + evidence


def trained_by_hand(module, features, inference):
    """Logits of the adapted features, one branch after the other."""
    with torch.no_grad():
        images = torch.tensor(features)
        texts = module.text_adapter(module.encoder.encode_texts())
        branches = {
            name: (module.logit_scale * adapter(images) @ texts.T).double().numpy()
            for name, adapter in (("main", module.main_adapter), ("pseudo", module.pseudo_adapter))
        }
    if inference == "ensemble":
        return np.log(sum(softmax(logits, axis=1) for logits in branches.values()) / 2)
    return branches[inference]


# -- logits


def test_untrained_and_without_gaussians_it_is_zero_shot(space, module, reader):
    model = AdaptedModel.from_training(space, None, module, TUNING).untrained()
    found = model.logits(space, "main", reader)
    np.testing.assert_allclose(found, space.logits(), rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("mismatched", [[], [3], [0, 3]])
@pytest.mark.parametrize("images", ["space", "new_space"])
def test_untrained_logits_are_texts_and_gaussians(
    space, module, prior, reader, images, mismatched, request
):
    images = request.getfixturevalue(images)
    prior = dataclasses.replace(prior, mismatched=np.array(mismatched, dtype=np.int64))
    model = AdaptedModel.from_training(space, prior, module, TUNING).untrained()
    features = images.image_features
    expected = cosines(model, features) + added_by_hand(prior, features)
    found = model.logits(images, "ensemble", reader)
    np.testing.assert_allclose(centred(found), centred(expected), atol=2e-3)
    assert found.dtype == np.float32
    assert np.abs(added_by_hand(prior, features)).max() > 1  # so that it says something


@pytest.mark.parametrize("inference", MODES)
def test_trained_logits_are_those_of_the_module(space, module, reader, inference):
    model = AdaptedModel.from_training(space, None, module, TUNING)
    expected = trained_by_hand(module, space.image_features, inference)
    found = model.logits(space, inference, reader)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("inference", ["main", "pseudo"])
def test_gaussians_are_added_to_the_logits_of_a_branch(space, module, prior, reader, inference):
    model = AdaptedModel.from_training(space, prior, module, TUNING)
    features = space.image_features
    expected = trained_by_hand(module, features, inference) + added_by_hand(prior, features)
    found = model.logits(space, inference, reader)
    np.testing.assert_allclose(centred(found), centred(expected), atol=5e-3)


def test_training_has_no_say_on_a_class_without_a_text(space, module, prior, reader):
    """To every image it is as near as an average text, as it is before training."""
    prior = dataclasses.replace(prior, mismatched=np.array([3]))
    model = AdaptedModel.from_training(space, prior, module, TUNING)
    trained = trained_by_hand(module, space.image_features, "main")
    others = np.delete(trained, 3, axis=1)
    trained[:, 3] = logsumexp(others, axis=1) - np.log(4)
    expected = trained + gaussian_log_evidence(space.image_features, prior.classes)
    found = model.logits(space, "main", reader)
    np.testing.assert_allclose(centred(found), centred(expected), atol=5e-3)


def test_the_gaussians_know_an_image_again_and_leave_it_out(space, module, prior, reader):
    model = AdaptedModel.from_training(space, prior, module, TUNING).untrained()
    stranger = dataclasses.replace(prior.classes, keys=prior.classes.keys[:0])
    unknowing = dataclasses.replace(model, prior=dataclasses.replace(prior, classes=stranger))
    logits = model.logits(space, "main", reader)
    assert np.abs(logits - unknowing.logits(space, "main", reader)).max() > 0.1
    own = logits.argmax(axis=1)
    rows = np.arange(len(space))
    drawn_back = unknowing.logits(space, "main", reader)[rows, own] - logits[rows, own]
    assert (drawn_back > -1e-3).all()  # no image speaks for its own class


def test_features_are_encoded_once_a_prediction(model, space, reader, encoded):
    model.logits(space, "ensemble", reader)
    assert encoded == [150]
    model.transform(space[:7], "ensemble", reader)
    assert encoded == [150, 7]


def test_batches_make_no_difference(model, space, reader):
    whole = model.logits(space, "main", dataclasses.replace(reader, batch_size=1000))
    np.testing.assert_allclose(model.logits(space, "main", reader), whole, atol=1e-3)


# -- features


def test_untrained_features_are_the_frozen_ones(space, module, prior, reader):
    for given in (None, prior):
        model = AdaptedModel.from_training(space, given, module, TUNING).untrained()
        assert np.array_equal(model.transform(space, "main", reader), space.image_features)


@pytest.mark.parametrize("inference", MODES)
def test_features_are_the_adapted_ones_with_gaussians_and_without(
    space, module, prior, reader, inference
):
    images = torch.tensor(space.image_features)
    with torch.no_grad():
        main, pseudo = module.main_adapter(images), module.pseudo_adapter(images)
    expected = {"main": main, "pseudo": pseudo, "ensemble": (main + pseudo) / 2}[inference].numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for given in (None, prior):
        model = AdaptedModel.from_training(space, given, module, TUNING)
        np.testing.assert_allclose(model.transform(space, inference, reader), expected, atol=1e-5)


def test_class_features_are_the_trained_ones_where_there_are_any(space, module, prior):
    model = AdaptedModel.from_training(space, prior, module, TUNING)
    trained = model.weights["text_features"] = np.eye(5, 20, dtype=np.float32)
    assert np.array_equal(model.trained_text_features(), trained)
    assert np.array_equal(model.untrained().trained_text_features(), space.text_features)


# -- without what was trained


def test_untrained_leaves_all_but_the_weights(space, module, prior, reader):
    model = AdaptedModel.from_training(space, prior, module, TUNING)
    before = model.logits(space, "main", reader)
    untrained = model.untrained()
    assert untrained.weights == {}
    assert untrained.prior is prior and untrained.tuning is TUNING
    assert untrained.text_features is model.text_features
    assert untrained.logit_scale == model.logit_scale
    # and the trained one still predicts as it did
    assert np.array_equal(model.logits(space, "main", reader), before)
    assert not np.allclose(untrained.logits(space, "main", reader), before, atol=0.1)


# -- saving


def test_arrays_make_the_same_model_again_bit_for_bit(model, space, reader):
    arrays = {name: np.array(value) for name, value in model.to_arrays().items()}
    again = AdaptedModel.from_arrays(arrays, model.logit_scale, TUNING)
    assert again.weights.keys() == model.weights.keys()
    assert (again.prior is None) == (model.prior is None)
    for inference in MODES:
        for method in ("logits", "transform"):
            found = getattr(again, method)(space, inference, reader)
            expected = getattr(model, method)(space, inference, reader)
            assert np.array_equal(found, expected), (inference, method)
            assert found.dtype == expected.dtype
    twice = again.to_arrays()
    assert twice.keys() == arrays.keys()
    for name, value in arrays.items():
        assert value.dtype == twice[name].dtype and np.array_equal(value, twice[name]), name


def test_arrays_are_arrays(model):
    # safetensors takes nothing else
    assert all(isinstance(value, np.ndarray) for value in model.to_arrays().values())


def test_a_copy_does_not_hold_the_built_module(model, space, reader):
    expected = model.logits(space, "main", reader)
    assert (model._built is not None) == bool(model.weights)
    copied = pickle.loads(pickle.dumps(model))
    assert copied._built is None
    assert np.array_equal(copied.logits(space, "main", reader), expected)
    assert (model._built is not None) == bool(model.weights)  # the original keeps its own


def test_the_module_is_built_once_for_a_device(space, module, prior, reader, monkeypatch):
    built = []
    trained_encoder = AdapterTuning.trained_encoder

    def counting(self, weights, backbone):
        built.append(1)
        return trained_encoder(self, weights, backbone)

    monkeypatch.setattr(AdapterTuning, "trained_encoder", counting)
    model = AdaptedModel.from_training(space, prior, module, TUNING)
    for _ in range(2):
        model.logits(space, "main", reader)
        model.transform(space, "main", reader)
    assert len(built) == 1
    model.logits(space, "main", dataclasses.replace(reader, device="cpu:0"))
    assert len(built) == 2
