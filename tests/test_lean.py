"""The faster parts of a working copy compute what the parts that they replace compute."""

import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from tiny_models import build_model
from torch import nn

from capkit.backbones.lean import LeanAttention, LeanBlock, lean_copy


@pytest.fixture
def tokens():
    return torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def attention():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    nn.init.normal_(attention.in_proj_bias)  # torch starts biases at zero, which hides them
    nn.init.normal_(attention.out_proj.bias)
    return attention


@pytest.mark.parametrize("mask_shape", [None, (5, 5), (3 * 4, 5, 5)])
def test_attention_equals_torch_multihead_attention(attention, tokens, mask_shape):
    mask = None if mask_shape is None else torch.randn(mask_shape)
    expected, _ = attention(tokens, tokens, tokens, need_weights=False, attn_mask=mask)
    attended, _ = LeanAttention(attention)(tokens, tokens, tokens, attn_mask=mask)
    torch.testing.assert_close(attended, expected, atol=1e-6, rtol=1e-5)


def test_attention_with_other_queries_equals_torch_multihead_attention(attention, tokens):
    queries = tokens[:, 1:3] * 2
    expected, _ = attention(queries, tokens, tokens, need_weights=False)
    attended, _ = LeanAttention(attention)(queries, tokens, tokens)
    torch.testing.assert_close(attended, expected, atol=1e-6, rtol=1e-5)


def test_class_token_block_is_the_first_token_of_the_block(tokens):
    torch.manual_seed(0)
    block = ResidualAttentionBlock(16, 4, ls_init_value=0.5).eval()
    expected = block(tokens)[:, :1]
    block.attn = LeanAttention(block.attn)
    first = LeanBlock(block, first_only=True)(tokens)
    torch.testing.assert_close(first, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("first_only", [False, True])
def test_prompts_without_output_are_tokens_whose_output_is_cut_off(tokens, first_only):
    torch.manual_seed(0)
    block = ResidualAttentionBlock(16, 4, ls_init_value=0.5).eval()
    prompts = torch.randn(2, 16)
    expected = block(torch.cat([tokens, prompts.expand(3, -1, -1)], dim=1))
    block.attn = LeanAttention(block.attn)
    outputs = LeanBlock(block, first_only)(tokens, prompts=prompts)
    kept = slice(1) if first_only else slice(5)
    torch.testing.assert_close(outputs, expected[:, kept], atol=1e-6, rtol=1e-5)


def test_copy_takes_no_memory_for_tensors():
    model = build_model()
    shared = {tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    lean = lean_copy(model)
    assert {tensor.data_ptr() for tensor in [*lean.parameters(), *lean.buffers()]} == shared


def test_copy_leaves_the_model_as_it_is():
    model = build_model()
    before = [(name, type(module)) for name, module in model.named_modules()]
    lean_copy(model)
    assert [(name, type(module)) for name, module in model.named_modules()] == before


@pytest.mark.parametrize(
    ("name", "is_shortened"), [("clip", True), ("clip average pool", False), ("coca", False)]
)
def test_last_block_is_shortened_only_where_the_class_token_alone_is_read(name, is_shortened):
    blocks = lean_copy(build_model(name)).visual.transformer.resblocks
    assert [block.first_only for block in blocks] == [False] * (len(blocks) - 1) + [is_shortened]
