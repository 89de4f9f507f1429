"""A working copy of a frozen model: the same features for less work.

The copy shares every tensor with the model, so it takes no memory, and whatever is done to its
modules (hooks, faster parts) stays out of sight of everybody else who uses the model.
"""

from __future__ import annotations

import copy

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LeanAttention", "LeanBlock", "lean_copy", "reads_class_token_only"]


def lean_copy(model: nn.Module) -> nn.Module:
    """Copy a model's modules, but none of its tensors, with faster parts where they are known.

    Parameters
    ----------
    model : nn.Module
        An open_clip model in eval mode; not changed.

    Returns
    -------
    nn.Module
        Gives the same features up to rounding.
    """
    tensors = [*model.parameters(), *model.buffers()]
    lean = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for module in list(lean.modules()):
        if type(module) is ResidualAttentionBlock and module.attn.batch_first:
            module.attn = LeanAttention(module.attn)
    if isinstance(lean.visual, VisionTransformer):
        blocks = lean.visual.transformer.resblocks
        for index, block in enumerate(blocks):
            if type(block) is ResidualAttentionBlock and type(block.attn) is LeanAttention:
                is_last = index == len(blocks) - 1
                blocks[index] = LeanBlock(block, is_last and reads_class_token_only(lean.visual))
    return lean


def reads_class_token_only(visual: nn.Module) -> bool:
    """Whether an image tower drops all but the first token after its last block."""
    return (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
    )


class LeanAttention(nn.Module):
    """Self-attention with the parameters and the call of ``nn.MultiheadAttention``.

    That module transposes batch and sequence, which makes torch compute the input projection
    as one small product for each position instead of one large one: on a CPU about a seventh
    of a training step of ViT-B/32.

    Parameters
    ----------
    attention : nn.MultiheadAttention
        With ``batch_first=True`` and one width for query, key and value; its parameters are
        shared.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = attention.out_proj
        self.num_heads = attention.num_heads

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        shared: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend from ``query`` (B, N, w) to ``key`` (B, K, w), which is ``value`` too.

        ``shared`` (n, w) holds further tokens to attend to, the same in every row: their keys
        and values are computed once for the batch. They come without an ``attn_mask``, which
        could not say anything of them; image towers have none.
        """
        if query is key:
            queries, keys, values = self._project(query, 0, 3)
        else:
            (queries,) = self._project(query, 0, 1)
            keys, values = self._project(key, 1, 3)
        if shared is not None:
            more_keys, more_values = self._project(shared[None], 1, 3)
            keys = torch.cat([keys, more_keys.expand(len(keys), -1, -1, -1)], dim=2)
            values = torch.cat([values, more_values.expand(len(values), -1, -1, -1)], dim=2)
        if attn_mask is not None and attn_mask.ndim == 3:  # (B * heads, N, K)
            attn_mask = attn_mask.unflatten(0, (len(query), self.num_heads))
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=attn_mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None

    def _project(self, tokens: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        """Queries (0), keys (1) and values (2) from ``first`` to before ``last``, by heads."""
        rows = slice(first * tokens.shape[-1], last * tokens.shape[-1])
        bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
        projected = F.linear(tokens, self.in_proj_weight[rows], bias)
        # (B, N, parts * w) -> parts x (B, heads, N, w / heads)
        by_head = projected.unflatten(-1, (last - first, self.num_heads, -1))
        return by_head.permute(2, 0, 3, 1, 4).unbind(0)


class LeanBlock(nn.Module):
    """A block of an image tower that computes what is read of it, and nothing else.

    Parameters
    ----------
    block : ResidualAttentionBlock
        With a :class:`LeanAttention`; its modules are shared.
    first_only : bool, default=False
        For the last block of a tower that reads its class token: all tokens are attended to, but
        only the first one asks, and only it goes through the output projection and the MLP,
        five sixths of the block.
    """

    def __init__(self, block: ResidualAttentionBlock, first_only: bool = False) -> None:
        super().__init__()
        self.block = block
        self.first_only = first_only

    def forward(
        self, tokens: Tensor, attn_mask: Tensor | None = None, prompts: Tensor | None = None
    ) -> Tensor:
        """From tokens (B, N, w) to theirs, or the first one's, behind the block.

        ``prompts`` (n, w) are attended to as if they stood behind the tokens of every row, and
        have no output: at the layers where learned prompts are replaced by the next layer's,
        nobody reads it.
        """
        block = self.block
        normed = block.ln_1(tokens)
        asking = normed
        if self.first_only:
            tokens, asking = tokens[:, :1], normed[:, :1]
        shared = None if prompts is None else block.ln_1(prompts)
        attended, _ = block.attn(asking, normed, normed, attn_mask=attn_mask, shared=shared)
        tokens = tokens + block.ls_1(attended)
        return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
