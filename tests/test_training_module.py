"""One training step's logits, what gets a gradient, and the ways to predict."""

import copy

import pytest
import torch
from tiny_models import EMBED_DIM, build_backbone
from torch.nn import functional as F

from capkit.training.module import INFERENCE_MODES, DualAdapterModule
from capkit.training.self_training import PseudoLabels
from capkit.tuning.adapter import FeatureEncoder
from capkit.tuning.prompt import PromptedEncoder

TEXTS = ["a photo of a cat", "a photo of a red panda", "two circles on top of each other"]
LOGIT_SCALE = 50.0
# Which images the weak and the strong views are of.
IMAGES = torch.tensor([7, 2, 5, 2])


@pytest.fixture(scope="module")
def backbone():
    return build_backbone()


def randomize(module):
    """Give every adapter an effect, as training does."""
    with torch.no_grad():
        for adapter in (module.text_adapter, module.main_adapter, module.pseudo_adapter):
            for parameter in adapter.parameters():
                parameter.copy_(torch.randn(parameter.shape))
    return module


@pytest.fixture
def prompted(backbone):
    torch.manual_seed(0)
    encoder = PromptedEncoder(backbone, TEXTS)
    return randomize(DualAdapterModule(encoder, LOGIT_SCALE, adapter_dim=8, adapter_weight=0.1))


@pytest.fixture
def on_features():
    torch.manual_seed(0)
    encoder = FeatureEncoder(F.normalize(torch.randn(3, EMBED_DIM), dim=-1))
    return randomize(DualAdapterModule(encoder, LOGIT_SCALE, adapter_dim=8, adapter_weight=0.1))


def draw_pixels(n_images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n_images, 3, 32, 32), dtype=torch.uint8, generator=generator)


def draw_features(n_images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_images, EMBED_DIM, generator=generator)


def draw_streams(module):
    draw = draw_pixels if isinstance(module.encoder, PromptedEncoder) else draw_features
    sizes = {"labeled": 2, "main": 3, "weak": 4, "strong": 4}
    return {name: draw(size, seed=size) for name, size in sizes.items()}


def keep(kept):
    """Pseudolabels of which these are kept."""
    return lambda logits, images: PseudoLabels(*reversed(logits.max(dim=1)), torch.tensor(kept))


keep_all = keep([True] * 4)


@pytest.fixture(params=["prompted", "on_features"])
def module(request):
    return request.getfixturevalue(request.param)


# -- the logits of a step


def test_each_stream_goes_through_its_own_adapter(module):
    streams, seen = draw_streams(module), {}

    def pseudo_label(weak_logits, images):
        seen["weak"] = weak_logits
        return keep_all(weak_logits, images)

    outputs = module(**streams, unlabeled=IMAGES, pseudo_label=pseudo_label)
    assert set(outputs) == {"pseudo", "labeled", "main", "strong"}
    logits = outputs | seen
    texts = module.text_adapter(module.encoder.encode_texts())
    for name, inputs in streams.items():
        adapter = module.pseudo_adapter if name == "strong" else module.main_adapter
        images = adapter(module.encoder.encode_images(inputs))
        expected = LOGIT_SCALE * images @ texts.T
        torch.testing.assert_close(logits[name], expected, atol=2e-4, rtol=0)


def test_streams_that_are_not_given_are_left_out(module):
    streams = draw_streams(module)
    everything = module(**streams, unlabeled=IMAGES, pseudo_label=keep_all)
    for left_out in ("labeled", "main"):
        streams.pop(left_out)
        outputs = module(**streams, unlabeled=IMAGES, pseudo_label=keep_all)
        assert set(outputs) == {*streams, "pseudo"} - {"weak"}
        for name in set(outputs) - {"pseudo"}:
            torch.testing.assert_close(outputs[name], everything[name], atol=2e-4, rtol=0)


def test_weak_view_carries_no_gradient(module):
    outputs = module(**draw_streams(module), unlabeled=IMAGES, pseudo_label=keep_all)
    assert not outputs.pop("pseudo").confidence.requires_grad
    assert all(logits.requires_grad for logits in outputs.values())


def test_one_image_pass_with_a_gradient_one_without_and_one_text_pass(prompted, monkeypatch):
    passes = []
    for name in ("encode_images", "encode_texts"):
        encode = getattr(prompted.encoder, name)

        def record(*inputs, name=name, encode=encode):
            sizes = [len(batch) for batch in inputs]
            passes.append((name, *sizes, torch.is_grad_enabled()))
            return encode(*inputs)

        monkeypatch.setattr(prompted.encoder, name, record)
    prompted(**draw_streams(prompted), unlabeled=IMAGES, pseudo_label=keep_all)
    assert passes == [
        ("encode_texts", True),
        ("encode_images", 4, False),
        ("encode_images", 2 + 3 + 4, True),
    ]


# -- strong views that count


@pytest.mark.parametrize("kept", [[True, False, True, False], [False] * 4])
def test_only_strong_views_that_count_are_encoded(module, kept):
    streams = draw_streams(module)
    everything = module(**streams, unlabeled=IMAGES, pseudo_label=keep_all)
    encoded, encode = [], module.encoder.encode_images
    module.encoder.encode_images = lambda inputs: encoded.append(len(inputs)) or encode(inputs)
    outputs = module(**streams, unlabeled=IMAGES, pseudo_label=keep(kept))
    assert encoded == [4, 2 + 3 + sum(kept)]
    expected = everything["strong"][torch.tensor(kept)]
    torch.testing.assert_close(outputs["strong"], expected, atol=2e-4, rtol=0)


def test_pseudolabels_are_made_once_a_step(module):
    made = []

    def pseudo_label(logits, images):
        made.append(keep_all(logits, images))
        return made[-1]

    outputs = module(**draw_streams(module), unlabeled=IMAGES, pseudo_label=pseudo_label)
    assert len(made) == 1
    assert outputs["pseudo"] is made[0]


def test_pseudolabels_are_asked_for_with_the_images_that_they_are_of(module):
    asked = []

    def pseudo_label(logits, images):
        asked.append((len(logits), images.tolist()))
        return keep_all(logits, images)

    module(**draw_streams(module), unlabeled=IMAGES, pseudo_label=pseudo_label)
    assert asked == [(4, [7, 2, 5, 2])]


def test_all_parameters_take_part_even_where_no_strong_view_counts(module):
    """Or training on several devices waits forever for their gradients."""
    logits = module(**draw_streams(module), unlabeled=IMAGES, pseudo_label=keep([False] * 4))
    (logits["main"].sum() + logits["strong"].sum()).backward()
    without = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert without == []


# -- views that are not drawn


def refuse(logits, images):
    raise AssertionError("a pseudolabel was asked for")


def test_without_views_only_the_main_branch_is_computed(module):
    streams = draw_streams(module)
    everything = module(**streams, unlabeled=IMAGES, pseudo_label=keep_all)
    encoded, encode = [], module.encoder.encode_images
    module.encoder.encode_images = lambda inputs: encoded.append(len(inputs)) or encode(inputs)
    outputs = module(main=streams["main"], labeled=streams["labeled"], pseudo_label=refuse)
    assert encoded == [2 + 3]
    assert set(outputs) == {"main", "labeled"}
    for name, logits in outputs.items():
        torch.testing.assert_close(logits, everything[name], atol=2e-4, rtol=0)


def test_a_weak_view_alone_gives_pseudolabels_and_no_logits_of_a_strong_one(module):
    streams = draw_streams(module)
    strong = streams.pop("strong")
    everything = module(**streams, strong=strong, unlabeled=IMAGES, pseudo_label=keep_all)
    outputs = module(**streams, unlabeled=IMAGES, pseudo_label=keep_all)
    assert set(outputs) == {"pseudo", "main", "labeled"}
    for found, expected in zip(outputs["pseudo"], everything["pseudo"], strict=True):
        assert torch.equal(found, expected)


def test_where_nothing_is_encoded_with_a_gradient_all_that_trains_takes_part(module):
    streams = {name: x for name, x in draw_streams(module).items() if name in ("weak", "strong")}
    outputs = module(**streams, unlabeled=IMAGES, pseudo_label=keep([False] * 4))
    assert outputs["strong"].shape == (0, 3)
    outputs["strong"].sum().backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    unused = {name for name, gradient in gradients.items() if gradient is None}
    assert {name.split(".")[0] for name in unused} == {"main_adapter"}
    assert not any(gradient.any() for gradient in gradients.values() if gradient is not None)


# -- one branch


@pytest.fixture
def one_branch():
    torch.manual_seed(0)
    encoder = FeatureEncoder(F.normalize(torch.randn(3, EMBED_DIM), dim=-1))
    numbers = {"adapter_dim": 8, "adapter_weight": 0.1, "pseudo_adapter": False}
    return randomize(DualAdapterModule(encoder, LOGIT_SCALE, **numbers))


def test_without_an_adapter_of_its_own_the_strong_view_trains_the_main_one(one_branch):
    names = {name.split(".")[0] for name, _ in one_branch.named_parameters()}
    assert names == {"text_adapter", "main_adapter"}
    streams = draw_streams(one_branch)
    outputs = one_branch(**streams, unlabeled=IMAGES, pseudo_label=keep_all)
    texts = one_branch.text_adapter(one_branch.encoder.encode_texts())
    images = one_branch.main_adapter(F.normalize(streams["strong"], dim=-1))
    expected = LOGIT_SCALE * images @ texts.T
    torch.testing.assert_close(outputs["strong"], expected, atol=2e-4, rtol=0)
    outputs["strong"].square().sum().backward()
    assert one_branch.main_adapter.fc2.weight.grad.any()


def test_with_one_branch_all_modes_with_adapters_predict_the_same(one_branch):
    images = one_branch.features(draw_streams(one_branch)["main"])
    texts = one_branch.text_features()
    main, pseudo, ensemble, off = (
        one_branch.logits(images, texts, mode).softmax(dim=-1)
        for mode in ("main", "pseudo", "ensemble", "no_adapters")
    )
    assert torch.equal(main, pseudo)
    torch.testing.assert_close(ensemble, main, atol=1e-6, rtol=0)
    assert not torch.allclose(off, main, atol=0.01)


def test_adapters_of_weight_zero_are_left_out(on_features):
    for adapter in (on_features.text_adapter, on_features.main_adapter):
        adapter.weight = 0.0
    images = on_features.features(draw_streams(on_features)["main"])
    texts = on_features.text_features()
    without = on_features.logits(images, texts, "no_adapters")
    main = on_features.logits(images, texts, "main")
    torch.testing.assert_close(main, without, atol=1e-4, rtol=0)


# -- gradients and state


def test_gradients_reach_prompts_and_adapters_and_nothing_else(prompted, backbone):
    logits = prompted(**draw_streams(prompted), unlabeled=IMAGES, pseudo_label=keep_all)
    (logits["main"].square().sum() + logits["strong"].square().sum()).backward()
    moved = {name for name, parameter in prompted.named_parameters() if parameter.grad.any()}
    assert {name.split(".")[0] for name in moved} == {
        "encoder",
        "text_adapter",
        "main_adapter",
        "pseudo_adapter",
    }
    layers = {f"encoder.prompts.text.{layer}" for layer in range(3)}
    assert {name for name in moved if name.startswith("encoder.prompts.text")} == layers
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())


def test_pseudo_loss_leaves_the_main_adapter_alone(module):
    module(**draw_streams(module), unlabeled=IMAGES, pseudo_label=keep_all)[
        "strong"
    ].square().sum().backward()
    assert module.pseudo_adapter.fc2.weight.grad.any()
    gradient = module.main_adapter.fc2.weight.grad
    assert gradient is None or not gradient.any()


def test_the_backbone_is_no_part_of_the_module(prompted, backbone):
    backbone_tensors = {tensor.data_ptr() for tensor in backbone.model.state_dict().values()}
    own = prompted.state_dict()
    assert {name.split(".")[0] for name in own} == {
        "encoder",
        "text_adapter",
        "main_adapter",
        "pseudo_adapter",
    }
    assert not any(tensor.data_ptr() in backbone_tensors for tensor in own.values())
    prompted.train()
    assert not backbone.model.training


def test_state_dict_restores_the_logits(prompted, backbone):
    inputs = draw_streams(prompted) | {"unlabeled": IMAGES, "pseudo_label": keep_all}
    state = copy.deepcopy(prompted.state_dict())
    torch.manual_seed(7)
    other = DualAdapterModule(
        PromptedEncoder(backbone, TEXTS), LOGIT_SCALE, adapter_dim=8, adapter_weight=0.1
    )
    other.load_state_dict(state)
    expected = prompted(**inputs)
    for name in ("labeled", "main", "strong"):
        assert torch.equal(other(**inputs)[name], expected[name])


# -- the prompted encoder


def test_untrained_adapters_and_no_deep_prompts_leave_the_texts_as_they_are(backbone):
    """The first layer's prompts start from the words that they replace."""
    encoder = PromptedEncoder(backbone, TEXTS[:2], prompt_depth=1)
    expected = backbone.encode_texts(TEXTS[:2])
    torch.testing.assert_close(encoder.encode_texts(), expected, atol=1e-6, rtol=0)
    module = DualAdapterModule(encoder, LOGIT_SCALE)
    torch.testing.assert_close(module.text_features("main"), expected, atol=1e-6, rtol=0)


def test_depth_is_cut_to_the_layers_of_the_shallower_tower(backbone):
    assert len(PromptedEncoder(backbone, TEXTS, prompt_depth=8).prompts.text) == 3
    assert len(PromptedEncoder(backbone, TEXTS, prompt_depth=2).prompts.text) == 2


def test_shift_moves_the_text_features_of_its_class_only(backbone):
    torch.manual_seed(0)
    shift = torch.zeros(3, EMBED_DIM)
    shift[1] = torch.randn(EMBED_DIM)
    encoder = PromptedEncoder(backbone, TEXTS, shift=shift)
    shifted = encoder.encode_texts()
    encoder.shift = None
    plain = encoder.encode_texts()
    expected = F.normalize(plain[1] + shift[1], dim=0)
    torch.testing.assert_close(shifted[1], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(shifted[[0, 2]], plain[[0, 2]], atol=1e-6, rtol=0)


# -- inference


def test_no_adapters_switches_all_of_them_off(module):
    inputs = draw_streams(module)["main"]
    images, texts = module.features(inputs), module.text_features()
    torch.testing.assert_close(images, module.encoder.encode_images(inputs), atol=0, rtol=0)
    torch.testing.assert_close(texts, module.encoder.encode_texts(), atol=0, rtol=0)
    torch.testing.assert_close(module.logits(images, texts), LOGIT_SCALE * images @ texts.T)


@pytest.mark.parametrize(("branch", "stream"), [("main", "main"), ("pseudo", "strong")])
def test_branches_predict_what_training_sees(module, branch, stream):
    streams = draw_streams(module)
    expected = module(**streams, unlabeled=IMAGES, pseudo_label=keep_all)[stream]
    images, texts = module.features(streams[stream]), module.text_features()
    logits = module.logits(images, texts, inference=branch)
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=0)
    adapted = module.features(streams[stream], branch) @ module.text_features(branch).T
    torch.testing.assert_close(LOGIT_SCALE * adapted, expected, atol=2e-4, rtol=0)


def test_ensemble_is_the_mean_of_both_branches_probabilities(module):
    images, texts = module.features(draw_streams(module)["main"]), module.text_features()
    main, pseudo, ensemble = (
        module.logits(images, texts, mode).softmax(dim=-1)
        for mode in ("main", "pseudo", "ensemble")
    )
    assert not torch.allclose(main, pseudo, atol=0.01)
    torch.testing.assert_close(ensemble, (main + pseudo) / 2, atol=1e-5, rtol=0)


def test_unknown_inference_mode_is_refused(on_features):
    features = on_features.text_features()
    with pytest.raises(
        ValueError, match=r"'no_adapters', 'main', 'pseudo', 'ensemble'.*got 'paper'"
    ):
        on_features.logits(features, features, "paper")
    assert INFERENCE_MODES[0] == "no_adapters"


def test_feature_encoder_gives_unit_rows(on_features):
    images = on_features.features(draw_features(4) * 10)
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(4))


def test_logits_stay_float32_under_autocast(module):
    inputs = draw_streams(module) | {"unlabeled": IMAGES, "pseudo_label": keep_all}
    expected = module(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        logits = module(**inputs)
    tolerance = 1e-3 if isinstance(module.encoder, FeatureEncoder) else 2.0
    for name in ("labeled", "main", "strong"):
        assert logits[name].dtype == torch.float32
        torch.testing.assert_close(logits[name], expected[name], atol=tolerance, rtol=0)
