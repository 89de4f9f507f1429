"""Prompts enter the towers where the method says, and leave no trace."""

import threading

import open_clip
import pytest
import torch
from open_clip.timm_model import TimmModel
from tiny_models import BUILDERS, CONTEXT_LENGTH, build_model
from torch import nn
from torch.nn import functional as F

from capkit.backbones import prompting
from capkit.backbones.prompting import PromptedTowers, find_text_tower
from capkit.exceptions import UnsupportedBackboneError

TEXTS = [
    "a photo of a cat",
    "a photo of a dog that stands in the garden of an old house by the sea",
    "a photo of a red panda",
    "a photo",
]
WITH_REFERENCE = [name for name in BUILDERS if name not in ("coca", "perception encoder")]


@pytest.fixture
def tokens():
    return open_clip.tokenizer.SimpleTokenizer(context_length=CONTEXT_LENGTH)(TEXTS)


def draw_pixels(model, n_images=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n_images, 3, *model.visual.image_size, generator=generator)


def draw_prompts(width, depth=3, length=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(length, width, generator=generator, requires_grad=True) for _ in range(depth)
    ]


def with_prompts(towers, depth=3, seed=0):
    return (
        draw_prompts(towers.visual.width, depth, seed=seed),
        draw_prompts(towers.text.width, depth, seed=seed + 1),
    )


# -- a straightforward implementation to compare with: one loop over the blocks


def reference_text(model, tokens, prompts, start=1):
    text = model.text if hasattr(model, "text") else model
    length = len(prompts[0])
    x = text.token_embedding(tokens).clone()
    x[:, start : start + length] = prompts[0]
    x = x + text.positional_embedding
    for layer, block in enumerate(text.transformer.resblocks):
        if 0 < layer < len(prompts):
            x = torch.cat(
                [x[:, :start], prompts[layer].repeat(len(x), 1, 1), x[:, start + length :]], dim=1
            )
        x = block(x, attn_mask=text.attn_mask)
    x = text.ln_final(x)
    last_only = getattr(text, "pool_type", "argmax") == "last"
    ends = [-1 if last_only else row.index(49407) for row in tokens.tolist()]
    x = torch.stack([row[end] for row, end in zip(x, ends, strict=True)])
    projection = text.text_projection
    x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return F.normalize(x, dim=-1)


def reference_image(model, pixels, prompts):
    visual = model.visual
    is_timm = isinstance(visual, TimmModel)
    trunk = visual.trunk if is_timm else visual
    rope = None
    if is_timm:
        x = trunk._pos_embed(trunk.patch_embed(pixels))
        if isinstance(x, tuple):
            x, rope = x
        norm_pre, blocks = trunk.norm_pre, trunk.blocks
    else:
        x = visual.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = x + visual.positional_embedding
        norm_pre, blocks = visual.ln_pre, visual.transformer.resblocks
    n_tokens = x.shape[1]
    x = norm_pre(torch.cat([x, prompts[0].repeat(len(x), 1, 1)], dim=1))
    for layer, block in enumerate(blocks):
        if 0 < layer < len(prompts):
            x = torch.cat([x[:, :n_tokens], prompts[layer].repeat(len(x), 1, 1)], dim=1)
        x = block(x) if rope is None else reference_rotary_block(block, x, rope)
    x = x[:, :n_tokens]
    if is_timm:
        x = visual.head(trunk.forward_head(trunk.norm(x)))
    else:
        x = visual._pool(x)[0] @ visual.proj
    return F.normalize(x, dim=-1)


def reference_rotary_block(block, x, rope):
    """EVA-02's block, in which the class token and the prompts are not rotated."""
    attention, n_patches = block.attn, len(rope)
    sine, cosine = rope.chunk(2, dim=-1)

    def rotate(heads):
        patches = heads[:, :, 1 : 1 + n_patches]
        turned = torch.stack([-patches[..., 1::2], patches[..., ::2]], dim=-1).flatten(-2)
        patches = patches * cosine + turned * sine
        return torch.cat([heads[:, :, :1], patches, heads[:, :, 1 + n_patches :]], dim=2)

    normed = block.norm1(x)
    bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    query, key, value = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in F.linear(normed, attention.qkv.weight, bias).chunk(3, dim=-1)
    )
    scores = rotate(query) @ rotate(key).transpose(-1, -2) / query.shape[-1] ** 0.5
    attended = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
    x = x + attention.proj(attention.norm(attended))
    return x + block.mlp(block.norm2(x))


# -- equivalence


@pytest.mark.parametrize("name", BUILDERS)
def test_without_prompts_features_are_the_models_own(name, tokens):
    model = build_model(name)
    towers, pixels = PromptedTowers(model), draw_pixels(model)
    expected_image = F.normalize(model.encode_image(pixels), dim=-1)
    expected_text = F.normalize(model.encode_text(tokens), dim=-1)
    torch.testing.assert_close(towers.encode_image(pixels), expected_image, atol=1e-6, rtol=0)
    torch.testing.assert_close(towers.encode_text(tokens), expected_text, atol=1e-6, rtol=0)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_prompted_images_equal_a_loop_over_the_blocks(name, depth):
    model = build_model(name)
    towers, pixels = PromptedTowers(model), draw_pixels(model)
    prompts, _ = with_prompts(towers, depth)
    expected = reference_image(model, pixels, prompts)
    features = towers.encode_image(pixels, prompts)
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=0)
    weights = torch.randn(features.shape)
    torch.testing.assert_close(
        torch.autograd.grad((features * weights).sum(), prompts),
        torch.autograd.grad((expected * weights).sum(), prompts),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_prompted_texts_equal_a_loop_over_the_blocks(name, depth, tokens):
    model = build_model(name)
    towers = PromptedTowers(model)
    _, prompts = with_prompts(towers, depth)
    expected = reference_text(model, tokens, prompts)
    features = towers.encode_text(tokens, prompts)
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=0)
    weights = torch.randn(features.shape)
    torch.testing.assert_close(
        torch.autograd.grad((features * weights).sum(), prompts),
        torch.autograd.grad((expected * weights).sum(), prompts),
        atol=1e-5,
        rtol=1e-4,
    )


def test_prompts_stand_where_start_says(tokens):
    model = build_model("siglip")
    towers = PromptedTowers(model)
    _, prompts = with_prompts(towers)
    expected = reference_text(model, tokens, prompts, start=0)
    features = towers.encode_text(tokens, prompts, start=0)
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["coca", "perception encoder"])
def test_every_prompt_gets_a_gradient_in_the_other_architectures(name, tokens):
    model = build_model(name)
    towers, pixels = PromptedTowers(model), draw_pixels(model)
    visual, text = with_prompts(towers)
    similarity = towers.encode_image(pixels, visual) @ towers.encode_text(tokens, text).T
    gradients = torch.autograd.grad(similarity[:, 0].sum(), [*visual, *text])
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.slow
def test_vit_b_32_equals_a_loop_over_the_blocks():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-B-32", pretrained=None)
    model = model.eval().requires_grad_(False)
    towers, tokens = PromptedTowers(model), open_clip.get_tokenizer("ViT-B-32")(TEXTS)
    visual, text = with_prompts(towers, depth=8)
    pixels = draw_pixels(model, n_images=2)
    with torch.no_grad():
        for prompts, prompted in ((None, False), (visual, True)):
            expected = (
                reference_image(model, pixels, visual)
                if prompted
                else F.normalize(model.encode_image(pixels), dim=-1)
            )
            features = towers.encode_image(pixels, prompts)
            torch.testing.assert_close(features, expected, atol=1e-6, rtol=0)
        expected = F.normalize(model.encode_text(tokens), dim=-1)
        torch.testing.assert_close(towers.encode_text(tokens), expected, atol=1e-6, rtol=0)
        expected = reference_text(model, tokens, text)
        torch.testing.assert_close(towers.encode_text(tokens, text), expected, atol=1e-6, rtol=0)


# -- less work


def tokens_seen(towers, tokens, prompts=None):
    """Shape of the tokens in every pass through the first text block."""
    shapes = []
    hook = towers.text.blocks[0].register_forward_pre_hook(
        lambda module, args: shapes.append(tuple(args[0].shape[:2]))
    )
    towers.encode_text(tokens, prompts)
    hook.remove()
    return shapes


def test_common_start_is_run_once_and_nothing_is_padded(tokens):
    # the texts have 7, 19, 8 and 4 tokens, of which "<start> a photo" is the same in all
    assert tokens_seen(PromptedTowers(build_model()), tokens) == [(1, 3 + 4 + 16 + 5 + 1)]


@pytest.fixture
def small_chunks(monkeypatch):
    """Set how many tokens a chunk has, and how many are stored."""

    def set_sizes(chunk=8, stored=0):
        monkeypatch.setattr(prompting, "CHUNK_TOKENS", chunk)
        monkeypatch.setattr(prompting, "STORED_TOKENS", stored)

    return set_sizes


def test_bidirectional_texts_are_not_packed(tokens, small_chunks):
    towers = PromptedTowers(build_model("siglip"))
    assert tokens_seen(towers, tokens) == [(4, CONTEXT_LENGTH)]
    small_chunks(stored=2 * CONTEXT_LENGTH)
    assert tokens_seen(towers, tokens) == [(2, CONTEXT_LENGTH)] * 2


def test_a_text_as_long_as_the_tower_allows_is_kept_whole():
    model = build_model()
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=CONTEXT_LENGTH)(["cat " * 50])
    towers = PromptedTowers(model)
    expected = F.normalize(model.encode_text(tokens), dim=-1)
    torch.testing.assert_close(towers.encode_text(tokens), expected, atol=1e-6, rtol=0)
    assert tokens_seen(towers, tokens) == [(1, CONTEXT_LENGTH)]


def encode_and_count_saved_bytes(towers, tokens, prompts):
    saved = []

    def pack(tensor):
        saved.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = towers.encode_text(tokens, prompts)
    return features, sum(saved)


@pytest.mark.parametrize("name", ["clip", "custom text", "siglip", "coca"])
def test_chunks_change_neither_features_nor_gradients_and_save_memory(name, tokens, small_chunks):
    model, tokens = build_model(name), tokens[[0, 1, 2, 3, 2, 1, 0]]
    towers = PromptedTowers(model)
    _, prompts = with_prompts(towers)
    expected, expected_bytes = encode_and_count_saved_bytes(towers, tokens, prompts)
    small_chunks(stored=16)
    features, n_bytes = encode_and_count_saved_bytes(towers, tokens, prompts)
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=0)
    weights = torch.randn(features.shape)
    torch.testing.assert_close(
        torch.autograd.grad((features * weights).sum(), prompts),
        torch.autograd.grad((expected * weights).sum(), prompts),
        atol=1e-5,
        rtol=1e-4,
    )
    assert n_bytes < expected_bytes / 10


def test_chunks_are_not_computed_twice_without_a_gradient(tokens, small_chunks):
    towers = PromptedTowers(build_model())
    small_chunks()
    _, prompts = with_prompts(towers)
    with torch.no_grad():
        # the start of three, and 4 and 16, 5, or 1 tokens of the texts
        assert tokens_seen(towers, tokens, prompts) == [(1, 23), (1, 8), (1, 4)]
        assert encode_and_count_saved_bytes(towers, tokens, prompts)[1] == 0


# -- nothing is left behind


def count_hooks(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


def test_only_prompts_get_gradients(tokens):
    model = build_model()
    towers = PromptedTowers(model)
    visual, text = with_prompts(towers)
    pixels = draw_pixels(model)
    (towers.encode_image(pixels, visual) @ towers.encode_text(tokens, text).T).sum().backward()
    assert all(prompt.grad is not None for prompt in [*visual, *text])
    assert all(not p.requires_grad and p.grad is None for p in model.parameters())


def test_hooks_are_gone_after_a_pass_and_after_a_failure(tokens):
    model = build_model()
    towers = PromptedTowers(model)
    visual, text = with_prompts(towers)
    pixels = draw_pixels(model)
    towers.encode_image(pixels, visual)
    too_wide = [torch.zeros(2, towers.visual.width + 1), *visual[1:]]
    with pytest.raises(RuntimeError):
        towers.encode_image(pixels, too_wide)
    with pytest.raises(RuntimeError):
        towers.encode_text(tokens, [text[0], torch.zeros(2, towers.text.width + 1)])
    assert count_hooks(towers._model) == 0
    expected = F.normalize(model.encode_text(tokens), dim=-1)
    torch.testing.assert_close(towers.encode_text(tokens), expected, atol=1e-6, rtol=0)


def test_hooks_are_gone_after_recomputing_chunks(tokens, small_chunks):
    towers = PromptedTowers(build_model())
    small_chunks(chunk=1)
    _, prompts = with_prompts(towers)
    towers.encode_text(tokens, prompts).sum().backward()
    assert count_hooks(towers._model) == 0


def test_the_model_itself_never_has_hooks(tokens):
    model = build_model()
    towers = PromptedTowers(model)
    visual, text = with_prompts(towers)
    seen = []
    for block in (towers.visual.blocks[0], towers.text.blocks[0]):
        block.register_forward_hook(lambda *_: seen.append(count_hooks(model)))
    towers.encode_image(draw_pixels(model), visual)
    towers.encode_text(tokens, text)
    assert seen == [0, 0]


def test_threads_with_other_prompts_and_the_model_itself_do_not_disturb_each_other(tokens):
    model = build_model()
    towers, pixels = PromptedTowers(model), draw_pixels(model)

    def encode(prompts):
        with torch.no_grad():
            if prompts is None:
                return model.encode_image(pixels), model.encode_text(tokens)
            visual, text = prompts
            return towers.encode_image(pixels, visual), towers.encode_text(tokens, text)

    work = [None, with_prompts(towers, seed=0), with_prompts(towers, depth=2, seed=10)]
    expected = [encode(prompts) for prompts in work]
    results = [[] for _ in work]

    def repeat(prompts, into):
        into.extend(encode(prompts) for _ in range(30))

    threads = [
        threading.Thread(target=repeat, args=pair) for pair in zip(work, results, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for into, features in zip(results, expected, strict=True):
        assert len(into) == 30
        for repeated in into:
            torch.testing.assert_close(repeated, features, atol=1e-6, rtol=0)


def test_bfloat16_autocast_keeps_float32_features_and_gradients(tokens, small_chunks):
    model = build_model()
    towers, pixels = PromptedTowers(model), draw_pixels(model)
    small_chunks(chunk=prompting.CHUNK_TOKENS)
    visual, text = with_prompts(towers)
    expected = towers.encode_image(pixels, visual), towers.encode_text(tokens, text)
    with torch.autocast("cpu", torch.bfloat16):
        features = towers.encode_image(pixels, visual), towers.encode_text(tokens, text)
    for given, wanted in zip(features, expected, strict=True):
        assert given.dtype == torch.float32
        torch.testing.assert_close(given, wanted, atol=3e-2, rtol=0)
    gradients = torch.autograd.grad(features[0].sum() + features[1].sum(), [*visual, *text])
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


# -- what cannot work


def test_resnet_tower_is_refused_with_what_works():
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16}
    model = open_clip.model.CLIP(24, vision, {"width": 24, "heads": 2, "layers": 1})
    with pytest.raises(UnsupportedBackboneError, match=r"ModifiedResNet.*ViT-B-32.*adapter"):
        PromptedTowers(model)


def test_timm_tower_without_plain_blocks_is_refused():
    vision = {"timm_model_name": "convnext_atto", "timm_pool": "avg", "image_size": 64}
    model = open_clip.model.CustomTextCLIP(24, vision, {"width": 24, "heads": 2, "layers": 1})
    with pytest.raises(UnsupportedBackboneError, match=r"ConvNeXt image tower.*ViT-B-16-SigLIP"):
        PromptedTowers(model)


def test_foreign_text_tower_is_refused():
    class HFTextEncoder(nn.Module):
        pass

    model = BUILDERS["custom text"]()
    model.text = HFTextEncoder()
    with pytest.raises(UnsupportedBackboneError, match=r"HFTextEncoder text tower.*text transf"):
        PromptedTowers(model)


def test_more_prompts_than_layers_are_refused(tokens):
    towers = PromptedTowers(build_model())
    assert towers.n_layers == 3
    with pytest.raises(ValueError, match="at most 3 layers"):
        towers.encode_text(tokens, draw_prompts(towers.text.width, depth=4))
    with pytest.raises(ValueError, match="at most 4 layers"):
        towers.encode_image(torch.zeros(1, 3, 32, 32), draw_prompts(towers.visual.width, depth=5))


def test_texts_without_placeholders_are_refused():
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=CONTEXT_LENGTH)(["a cat", "dog"])
    towers = PromptedTowers(build_model())
    with pytest.raises(ValueError, match=r"same 3 tokens.*got 1 in common"):
        towers.encode_text(tokens, draw_prompts(towers.text.width))


def test_end_positions_follow_the_pooling(tokens):
    def ends(name):
        return find_text_tower(build_model(name)).end_positions(tokens).tolist()

    assert ends("clip") == ends("custom text eos pool") == [6, 18, 7, 3]
    assert ends("siglip") == [CONTEXT_LENGTH - 1] * 4


def test_the_towers_copy_takes_no_memory_for_tensors():
    model = build_model()
    towers = PromptedTowers(model)
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert {tensor.data_ptr() for tensor in towers._model.state_dict().values()} == own
    assert towers._model is not model
