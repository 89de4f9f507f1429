"""Prompt tuning: pixels and texts in, prompts out."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from capkit import CAPClassifier, CLIPEncoder, ConceptAligner, MismatchDetector
from capkit._seeding import seeded
from capkit.backbones import load_backbone
from capkit.exceptions import UnsupportedBackboneError
from capkit.images import ImageSource
from capkit.tuning import PromptTuning

NAMES = ["cat", "red fox", "emu", "owl"]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def space(images, random_backbone):
    return CLIPEncoder(random_backbone, class_names=NAMES).fit_transform(images)


def build_encoder(tuning, space):
    with seeded(0):
        return tuning.build(space, device="cpu", n_jobs=None).load_encoder("cpu")()


def test_built_tuning_trains_on_the_models_own_view_of_the_pixels(space, images):
    built = PromptTuning(augment="affine").build(space, device="cpu", n_jobs=None)
    assert np.array_equal(built.inputs, images)
    assert built.strong_view(np.array([2, 0])).shape == (2, 3, 32, 32)


def test_numbers_of_the_prompts_reach_the_towers(space):
    encoder = build_encoder(PromptTuning(prompt_length=3, prompt_depth=2), space)
    assert [tuple(prompt.shape) for prompt in encoder.prompts.text] == [(3, 32)] * 2
    words = build_encoder(PromptTuning(prompt_init="red fox"), space).prompts.text[0]
    backbone = load_backbone(space.backbone)
    ids = backbone.tokenizer.encode("red fox")
    torch.testing.assert_close(words, backbone.model.token_embedding.weight[ids])


def test_an_aligned_class_keeps_its_shift_and_a_description_its_words(space):
    detected = MismatchDetector(t=3, random_state=0).fit_transform(space)
    by_center = ConceptAligner(use_centers=True).fit_transform(detected)
    assert by_center.alignment.shift.any()
    assert np.array_equal(
        build_encoder(PromptTuning(), by_center).shift, by_center.alignment.shift
    )
    described = ConceptAligner(lambda name, n: [f"{name} by night"]).fit_transform(detected)
    tokens = build_encoder(PromptTuning(), described).tokens
    plain = build_encoder(PromptTuning(), space).tokens
    changed = np.flatnonzero((tokens != plain).any(dim=1))
    assert changed.tolist() == described.alignment.aligned.tolist()


def test_the_recipe_of_an_encoder_can_be_sent_to_another_process(space):
    built = PromptTuning().build(space, device="cpu", n_jobs=None)
    load = pickle.loads(pickle.dumps(built.load_encoder))
    with seeded(0):
        again = load("cpu")()
    expected = build_encoder(PromptTuning(), space)
    assert torch.equal(again.prompts.text[1], expected.prompts.text[1])


def test_a_trained_encoder_gives_the_features_of_training_without_the_text_tower(space, images):
    encoder = build_encoder(PromptTuning(), space)
    with torch.no_grad():
        encoder.prompts.text[1].add_(0.5)
    weights = PromptTuning().export(encoder)
    assert set(weights) == {"text_features", "visual_prompts"}
    backbone = load_backbone(space.backbone)
    again = PromptTuning().trained_encoder(weights, lambda: backbone)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    torch.testing.assert_close(again.encode_images(pixels), encoder.encode_images(pixels).detach())
    assert torch.equal(again.encode_texts(), encoder.encode_texts().detach())
    assert not torch.allclose(again.encode_images(pixels), backbone.encode_images(pixels))


def test_only_images_and_spaces_that_have_them_can_be_trained_on(space, planted_space, images):
    tuning = PromptTuning()
    tuning.check_images(space)
    tuning.check_images(ImageSource.from_user(images))
    with pytest.raises(ValueError, match="no images and no prompts and no backbone"):
        tuning.check_images(planted_space)
    with pytest.raises(ValueError, match=r"has no images\. Use tuning='adapter'"):
        tuning.check_images(dataclasses.replace(space, images=None))


def test_a_tower_without_a_place_for_prompts_is_refused(random_backbone):
    backbone = load_backbone(random_backbone)
    PromptTuning().check_backbone(lambda: backbone)

    class ResNet(torch.nn.Module):
        visual = None

    other = dataclasses.replace(backbone, model=ResNet())
    with pytest.raises(UnsupportedBackboneError, match="prompts cannot enter"):
        PromptTuning().check_backbone(lambda: other)


def test_prediction_reads_pixels(space, planted_space, images):
    tuning, backbone = PromptTuning(), load_backbone(space.backbone)
    options = {"encode": None, "backbone": lambda: backbone, "n_jobs": None}
    for given in (space[:3], ImageSource.from_user(images[:3])):
        assert np.array_equal(tuning.prediction_inputs(given, **options), images[:3])
    with pytest.raises(ValueError, match="reads pixels"):
        tuning.prediction_inputs(planted_space, **options)


def test_predicts_as_the_paper_does():
    assert {PromptTuning().default_inference(p) for p in ("ul", "ssl", "trzsl")} == {"no_adapters"}


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_text_to_start_from_is_refused_before_anything_is_encoded(
    images, text, monkeypatch
):
    monkeypatch.setattr(CLIPEncoder, "fit_transform", lambda *args: pytest.fail("encoded"))
    classifier = CAPClassifier(class_names=NAMES, tuning=PromptTuning(prompt_init=text))
    with pytest.raises(ValueError, match="'prompt_init' parameter of PromptTuning must be a text"):
        classifier.fit(images)


@pytest.mark.parametrize(
    ("prompts", "width"), [((2, 2, 31), 32), ((4, 2, 32), 32), ((2, 2, 32), 33)]
)
def test_prompts_of_another_model_are_refused(random_backbone, prompts, width):
    weights = {"visual_prompts": np.zeros(prompts), "text_features": np.zeros((4, width))}
    with pytest.raises(ValueError, match=r"expected prompts of width 32 in at most 3 layers"):
        PromptTuning().trained_encoder(weights, lambda: load_backbone(random_backbone))
