"""MaPLe prompts, and tokenised texts with placeholders for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from capkit.backbones.prompting import TextTower

__all__ = ["ContextTokens", "MaplePrompts", "place_context"]

#: Standard deviation of prompts that start from no text (as in MaPLe's official code).
_INIT_STD = 0.02


class MaplePrompts(nn.Module):
    """Prompts for both towers, the visual ones coupled to the text ones.

    Each of the first ``depth`` layers has ``n`` learned text prompts. A separate linear layer for
    each depth maps them to the width of the image tower, which gives the visual prompts (Khattak
    et al., CVPR 2023, "MaPLe: Multi-modal Prompt Learning", section 3.2).

    Parameters
    ----------
    context : Tensor of shape (n, text_width)
        Initial text prompts of the first layer: the token embeddings of "a photo of a".
    visual_width : int
        Width of a token in the image tower.
    depth : int
        Number of layers with prompts, at least 1.

    Examples
    --------
    >>> prompts = MaplePrompts(torch.zeros(2, 8), visual_width=12, depth=3)
    >>> text, visual = prompts()
    >>> [tuple(prompt.shape) for prompt in (text[0], visual[2])]
    [(2, 8), (2, 12)]
    """

    def __init__(self, context: Tensor, visual_width: int, depth: int) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"prompt depth must be at least 1, got {depth}")
        n_prompts, text_width = context.shape
        deep = [torch.randn(n_prompts, text_width) * _INIT_STD for _ in range(depth - 1)]
        first = context.detach().clone()
        self.text = nn.ParameterList([first, *(prompt.to(first) for prompt in deep)])
        self.to_visual = nn.ModuleList(nn.Linear(text_width, visual_width) for _ in range(depth))

    def forward(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the text and the visual prompts, one (n, width) each for every layer."""
        text = list(self.text)
        visual = [linear(prompt) for linear, prompt in zip(self.to_visual, text, strict=True)]
        return text, visual


class ContextTokens(NamedTuple):
    """Tokenised texts with placeholders for the text prompts of the first layer.

    Attributes
    ----------
    tokens : Tensor of shape (C, L), int64
        The texts; the ids at the placeholders do not matter.
    start : int
        Position of the first placeholder, the same in all texts.
    embeddings : Tensor of shape (n, text_width)
        Initial values of the prompts.
    """

    tokens: Tensor
    start: int
    embeddings: Tensor


def place_context(
    tokenize: Callable[[Sequence[str]], Tensor],
    tower: TextTower,
    texts: Sequence[str],
    *,
    context: str,
    length: int,
) -> ContextTokens:
    """Make room for prompts right after the start token of every text.

    In a text that begins with the first ``length`` tokens of the context, the prompts replace
    those tokens, as in MaPLe; in any other text, such as a description, they are inserted. If the
    text becomes too long for the tower, its last words are cut off, but not its end token.

    Parameters
    ----------
    tokenize : callable
        Maps C texts to token ids (C, L).
    tower : TextTower
    texts : sequence of str of length C
    context : str
        Text whose embeddings initialise the prompts; "a photo of a" in the paper. If it has fewer
        tokens than ``length``, the remaining prompts are initialised with small random numbers.
    length : int
        Number of prompts ``n`` per layer, from 1 to the number that the tower has room for.

    Returns
    -------
    ContextTokens

    Raises
    ------
    ValueError
        If the context has no token, or that many prompts leave no room for a text.
    """
    start = _common_prefix(tokenize(["x", "z"]))
    probe = tokenize([f"{context} x", f"{context} z"])
    context_ids = probe[0, start : _common_prefix(probe)]
    if not len(context_ids):
        raise ValueError(f"expected a context of at least one token, got {context!r}")
    tokens = tokenize(list(texts))
    room = tokens.shape[1] - start - 2  # at least one word and the end token
    if not 1 <= length <= room:
        raise ValueError(
            f"expected a prompt length between 1 and {room} (the text tower takes "
            f"{tokens.shape[1]} tokens), got {length}"
        )
    known = context_ids[:length]
    embeddings = torch.randn(length, tower.width) * _INIT_STD
    embeddings[: len(known)] = tower.embedding.weight[known].float().cpu()
    begins = (tokens[:, start : start + length] == _resize(known, length)).all(dim=1)
    inserted = _insert(tokens, tower.end_positions(tokens), start, _resize(known, length))
    return ContextTokens(torch.where(begins[:, None], tokens, inserted), start, embeddings)


def _insert(tokens: Tensor, ends: Tensor, start: int, ids: Tensor) -> Tensor:
    """Insert ids (n,) at ``start`` of every row; an end token that is pushed out goes last."""
    n_tokens = tokens.shape[1]
    inserted = torch.cat(
        [tokens[:, :start], ids.expand(len(tokens), -1), tokens[:, start : n_tokens - len(ids)]],
        dim=1,
    )
    cut = ends + len(ids) >= n_tokens
    end_tokens = tokens.gather(1, ends[:, None]).squeeze(1)
    inserted[:, -1] = torch.where(cut, end_tokens, inserted[:, -1])
    return inserted


def _common_prefix(tokens: Tensor) -> int:
    """Number of leading tokens in which two rows agree."""
    return int((tokens[0] == tokens[1]).int().cumprod(0).sum())


def _resize(ids: Tensor, length: int) -> Tensor:
    """Repeat the last of the ids until there are ``length`` of them."""
    return torch.cat([ids, ids[-1:].expand(length - len(ids))])
