"""Texts packed into one sequence: nothing is padded, and their common start is run once.

A causal text tower that reads the end token can take many texts at a time as one sequence:
first the tokens that all of them begin with ("a photo of a"), then each text's own tokens, with
an attention mask that lets a token see the common start and its own text up to itself. The
features are those of the texts one by one, for the work of the distinct tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PackedTexts", "common_start", "pack_texts", "split_texts"]


class PackedTexts(NamedTuple):
    """Texts as one sequence of N tokens.

    Attributes
    ----------
    tokens : Tensor of shape (N,), int64
    positions : Tensor of shape (N,), int64
        Position of each token in its own text.
    mask : Tensor of shape (N, N), float32
        Added to the attention's scores: 0 where the row's token may see the column's, else -inf.
    ends : Tensor of shape (C,), int64
        Where in the sequence the end token of each text is.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    ends: Tensor


def common_start(tokens: Tensor, ends: Tensor) -> int:
    """Number of tokens that all texts begin with, none of which is an end token.

    Parameters
    ----------
    tokens : Tensor of shape (C, L), int64
    ends : Tensor of shape (C,), int64
        Positions of the end tokens.

    Returns
    -------
    int

    Examples
    --------
    >>> import torch
    >>> common_start(torch.tensor([[8, 1, 2, 9], [8, 1, 9, 0]]), torch.tensor([3, 2]))
    2
    """
    same = (tokens == tokens[0]).all(dim=0)
    return min(int(same.cumprod(dim=0).sum()), int(ends.min()))


def split_texts(ends: Tensor, start: int, size: int) -> list[Tensor]:
    """Split texts into runs of about ``size`` tokens.

    Parameters
    ----------
    ends : Tensor of shape (C,), int64
        Positions of the end tokens.
    start : int
        Number of tokens in common, which do not count.
    size : int
        Number of tokens at which a new run begins, at least 1.

    Returns
    -------
    list of Tensor
        Indices of the texts in each run, in order. A run is longer than ``size`` by less than
        its last text.

    Examples
    --------
    >>> import torch
    >>> [run.tolist() for run in split_texts(torch.tensor([3, 3, 3]), start=2, size=4)]
    [[0, 1], [2]]
    """
    before = (ends + 1 - start).cumsum(dim=0) - (ends + 1 - start)
    run = torch.div(before, size, rounding_mode="floor")
    return [torch.nonzero(run == value).squeeze(1) for value in run.unique()]


def pack_texts(tokens: Tensor, ends: Tensor, start: int) -> PackedTexts:
    """Pack texts into one sequence.

    Parameters
    ----------
    tokens : Tensor of shape (C, L), int64
    ends : Tensor of shape (C,), int64
        Positions of the end tokens; what stands behind them is left out.
    start : int
        Number of tokens that all of the texts begin with.

    Returns
    -------
    PackedTexts

    Examples
    --------
    >>> import torch
    >>> packed = pack_texts(torch.tensor([[8, 1, 2, 9], [8, 1, 9, 0]]), torch.tensor([3, 2]), 2)
    >>> packed.tokens.tolist(), packed.ends.tolist()
    ([8, 1, 2, 9, 9], [3, 4])
    >>> (packed.mask == 0).int().tolist()[-1]  # sees the start and itself
    [1, 1, 0, 0, 1]
    """
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    own = (columns >= start) & (columns <= ends[:, None])
    text, position = own.nonzero(as_tuple=True)
    shared = columns[:start]
    everyone = torch.full_like(shared, -1)
    owner = torch.cat([everyone, text])
    positions = torch.cat([shared, position])
    visible = (owner == -1) | (owner == owner[:, None])
    visible &= positions <= positions[:, None]
    mask = torch.zeros(visible.shape, device=tokens.device).masked_fill_(~visible, -torch.inf)
    return PackedTexts(
        tokens=torch.cat([tokens[0, :start], tokens[own]]),
        positions=positions,
        mask=mask,
        ends=start + own.sum(dim=1).cumsum(dim=0) - 1,
    )
