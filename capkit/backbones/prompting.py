"""Where learned prompts enter the frozen towers of a CLIP-like model.

Hooks put the prompts in, so that no tower's forward pass is written a second time: what
open_clip computes is what capkit computes, and without prompts the features are the model's own.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from open_clip import CLIP
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from capkit.backbones.packing import PackedTexts, common_start, pack_texts, split_texts
from capkit.exceptions import UnsupportedBackboneError

__all__ = ["PromptedTowers", "TextTower", "VisualTower", "find_text_tower", "find_visual_tower"]

_WORKING = (
    "Prompts can enter open_clip models with a ViT image tower (open_clip's VisionTransformer, "
    "timm's VisionTransformer or Eva: ViT-B-32, ViT-B-16, ViT-L-14, ViT-B-16-SigLIP, "
    "EVA02-B-16, ...) and open_clip's own text transformer. Use one of them, or "
    "tuning='adapter', which works with every backbone."
)

#: Texts are run in chunks of about this many tokens.
CHUNK_TOKENS = 512
#: If the texts have more tokens than this, and a gradient is needed, their activations are not
#: stored but computed again, chunk by chunk, in the backward pass. With ViT-B/32 a token's
#: activations take about 0.4 MiB.
STORED_TOKENS = 2048


class VisualTower(NamedTuple):
    """The parts of an image tower that prompts touch.

    Attributes
    ----------
    entry : nn.Module
        Gets the embedded patches (B, N, width) right before the first block: the tower's
        pre-normalisation, or the identity in its place.
    blocks : sequence of nn.Module
        Transformer blocks, each from (B, N, width) to (B, N, width).
    width : int
        Width of a token.
    rotary : bool
        Whether the blocks take rotary position embeddings of the patches.
    """

    entry: nn.Module
    blocks: Sequence[nn.Module]
    width: int
    rotary: bool


class TextTower(NamedTuple):
    """The parts of a text tower that prompts touch.

    Attributes
    ----------
    owner : nn.Module
        The module that holds ``positional_embedding`` and ``attn_mask``.
    prefix : str
        Name of the owner inside the model, with a dot, or the empty string.
    embedding : nn.Embedding
    blocks : sequence of nn.Module
    final_norm : nn.Module
        Gets the tokens behind the last block.
    width : int
        Width of a token.
    pool_type : str
        Which position the tower reads.
    eos_id : int
        End token's id for ``pool_type="eos"``.
    """

    owner: nn.Module
    prefix: str
    embedding: nn.Module
    blocks: Sequence[nn.Module]
    final_norm: nn.Module
    width: int
    pool_type: str
    eos_id: int

    @property
    def can_be_packed(self) -> bool:
        """Whether an end token is read, which depends on nothing behind it (causal)."""
        return (
            self.owner.attn_mask is not None
            and self.pool_type in ("argmax", "eos")
            and getattr(self.owner, "cls_emb", None) is None
        )

    def end_positions(self, tokens: Tensor) -> Tensor:
        """Position of the token that the tower reads, for each row of (C, L) tokens."""
        if self.pool_type == "eos":
            return (tokens == self.eos_id).int().argmax(dim=-1)
        if self.pool_type == "argmax":
            return tokens.argmax(dim=-1)
        return torch.full_like(tokens[:, 0], tokens.shape[1] - 1)


def find_visual_tower(model: nn.Module) -> VisualTower:
    """Find where prompts enter a model's image tower.

    Parameters
    ----------
    model : nn.Module
        An open_clip model.

    Returns
    -------
    VisualTower

    Raises
    ------
    UnsupportedBackboneError
        If the image tower is not a plain vision transformer.
    """
    visual = model.visual
    if isinstance(visual, VisionTransformer):
        return VisualTower(
            visual.ln_pre,
            visual.transformer.resblocks,
            width=visual.class_embedding.shape[-1],
            rotary=False,
        )
    trunk = visual.trunk if isinstance(visual, TimmModel) else None
    if isinstance(trunk, (TimmVisionTransformer, Eva)):
        return VisualTower(
            trunk.norm_pre,
            trunk.blocks,
            width=trunk.embed_dim,
            rotary=getattr(trunk, "rope", None) is not None,
        )
    kind = type(visual if trunk is None else trunk).__name__
    raise UnsupportedBackboneError(f"prompts cannot enter a {kind} image tower. {_WORKING}")


def find_text_tower(model: nn.Module) -> TextTower:
    """Find where prompts enter a model's text tower.

    Parameters
    ----------
    model : nn.Module
        An open_clip model.

    Returns
    -------
    TextTower

    Raises
    ------
    UnsupportedBackboneError
        If the text tower is not open_clip's own transformer.
    """
    if isinstance(model, CLIP):
        owner, prefix = model, ""
        pool_type, eos_id = model.text_pool_type, model.text_eos_id
    elif isinstance(getattr(model, "text", None), TextTransformer):
        owner, prefix = model.text, "text."
        pool_type, eos_id = model.text.pool_type, model.text.eos_id
    else:
        kind = type(getattr(model, "text", model)).__name__
        raise UnsupportedBackboneError(f"prompts cannot enter a {kind} text tower. {_WORKING}")
    return TextTower(
        owner,
        prefix,
        owner.token_embedding,
        owner.transformer.resblocks,
        owner.ln_final,
        width=owner.token_embedding.embedding_dim,
        pool_type=pool_type,
        eos_id=eos_id,
    )


class PromptedTowers:
    """The frozen towers of a vision-language model with a place for prompts.

    The model itself is never touched. The towers are a copy of its modules that shares every
    tensor with it, hooks are put on the copy for the time of one pass, and a lock keeps the
    passes of several threads apart. Somebody else's pass through the model, in another thread
    or in between, cannot see them.

    Parameters
    ----------
    model : nn.Module
        An open_clip model with a ViT image tower and a text transformer, frozen, in eval mode.

    Attributes
    ----------
    visual : VisualTower
    text : TextTower
    n_layers : int
        Number of layers that both towers have: the most that prompts can reach.

    Raises
    ------
    UnsupportedBackboneError
        If prompts cannot enter one of the towers.

    Notes
    -----
    Prompts are lists with one tensor (n, width) a layer, for the first layers of the tower
    (MaPLe, Khattak et al., 2023):

    - image tower: layer 0's stand behind the patch tokens, before the pre-normalisation, and
      without a position; those of the layers after it take their place; after the last block
      they are taken away, so that no pooling sees them.
    - text tower: layer 0's stand at the positions ``start .. start + n - 1`` in place of the
      token embeddings, and get those positions' embeddings; those of the layers after it take
      their place.
    """

    def __init__(self, model: nn.Module) -> None:
        find_visual_tower(model), find_text_tower(model)  # refuse before anything is copied
        self._model = _copy_modules(model)
        self._text_pass = _TextPass(self._model)
        self._lock = threading.RLock()
        self.visual = find_visual_tower(self._model)
        self.text = find_text_tower(self._model)
        self.n_layers = min(len(self.visual.blocks), len(self.text.blocks))
        if self.text.can_be_packed:
            # A packed sequence has many end tokens; a hook picks them out.
            owner = self.text.owner
            setattr(owner, "text_pool_type" if isinstance(owner, CLIP) else "pool_type", "none")

    def encode_image(self, pixels: Tensor, prompts: Sequence[Tensor] | None = None) -> Tensor:
        """Encode normalised images.

        Parameters
        ----------
        pixels : Tensor of shape (B, 3, S, S), float
            What the backbone's ``normalize`` gives.
        prompts : sequence of Tensor of shape (n, visual width), or None
            One for each of the first layers. None: the untouched model.

        Returns
        -------
        Tensor of shape (B, d), float32
            Unit rows.
        """
        prompts = list(prompts or [])
        _check_depth(prompts, self.visual.blocks)
        with self._lock, _hooks(_visual_hooks(self.visual, prompts)):
            return F.normalize(self._model.encode_image(pixels).float(), dim=-1)

    def encode_text(
        self, tokens: Tensor, prompts: Sequence[Tensor] | None = None, *, start: int = 1
    ) -> Tensor:
        """Encode tokenised texts.

        Where the tower allows it, they are packed (:mod:`capkit.backbones.packing`).

        Parameters
        ----------
        tokens : Tensor of shape (C, L), int64
            What the backbone's ``tokenize`` gives. With prompts, all texts have the same
            placeholders for them, before their end token.
        prompts : sequence of Tensor of shape (n, text width), or None
            One for each of the first layers. None: the untouched model.
        start : int, default=1
            Position of the first prompt: 1 behind a start token, 0 where there is none.

        Returns
        -------
        Tensor of shape (C, d), float32
            Unit rows.
        """
        prompts = list(prompts or [])
        _check_depth(prompts, self.text.blocks)
        encode: Callable[..., Tensor] = self._encode_rows
        chunks: Sequence[Any] = tokens.split(max(1, STORED_TOKENS // tokens.shape[1]))
        n_tokens = tokens.numel()
        if self.text.can_be_packed:
            encode = self._encode_packed
            chunks = self._pack(tokens, start + len(prompts[0]) if prompts else 0)
            n_tokens = sum(len(texts.tokens) for texts in chunks)
        needs_gradient = torch.is_grad_enabled() and any(p.requires_grad for p in prompts)
        if needs_gradient and n_tokens > STORED_TOKENS:
            # Nothing in a frozen tower draws random numbers, so no state has to be kept.
            encode = partial(checkpoint, encode, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([encode(texts, start, *prompts) for texts in chunks])

    def _pack(self, tokens: Tensor, n_placed: int) -> list[PackedTexts]:
        """Pack texts whose first ``n_placed`` tokens are the prompts and what is before them."""
        ends = self.text.end_positions(tokens)
        n_common = common_start(tokens, ends)
        if n_common < n_placed:
            raise ValueError(
                f"expected texts that all begin with the same {n_placed} tokens, with "
                f"placeholders for the prompts, and end after them, got {n_common} in common"
            )
        runs = split_texts(ends, n_common, CHUNK_TOKENS)
        return [pack_texts(tokens[rows], ends[rows], n_common) for rows in runs]

    def _encode_packed(self, texts: PackedTexts, start: int, *prompts: Tensor) -> Tensor:
        owner, name = self.text.owner, f"model.{self.text.prefix}"
        hooks = itertools.chain(
            _text_hooks(self.text, prompts, start), _pool_hooks(self.text, texts.ends)
        )
        with self._lock, _hooks(hooks):
            # Under the lock: another thread's pass has its own embedding in this place.
            packed = {
                f"{name}positional_embedding": owner.positional_embedding[texts.positions],
                f"{name}attn_mask": texts.mask,
            }
            tokens = texts.tokens[None]
            features = functional_call(self._text_pass, packed, (tokens,), tie_weights=False)
        return F.normalize(features[0].float(), dim=-1)

    def _encode_rows(self, tokens: Tensor, start: int, *prompts: Tensor) -> Tensor:
        with self._lock, _hooks(_text_hooks(self.text, prompts, start)):
            return F.normalize(self._text_pass(tokens).float(), dim=-1)


def _copy_modules(model: nn.Module) -> nn.Module:
    """Copy a model's modules, but none of its tensors: it takes no memory."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


class _TextPass(nn.Module):
    """``model.encode_text`` as a module's forward, which is what ``functional_call`` calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def _check_depth(prompts: Sequence[Tensor], blocks: Sequence[nn.Module]) -> None:
    if len(prompts) > len(blocks):
        raise ValueError(
            f"expected prompts for at most {len(blocks)} layers, as many as the tower has, "
            f"got {len(prompts)}"
        )


@contextlib.contextmanager
def _hooks(handles: Iterator[RemovableHandle]) -> Iterator[None]:
    """Keep hooks for the time of one pass; they are gone even if a registration fails."""
    with contextlib.ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield


def _visual_hooks(tower: VisualTower, prompts: Sequence[Tensor]) -> Iterator[RemovableHandle]:
    if not prompts:
        return
    n_prompts = len(prompts[0])
    yield tower.entry.register_forward_pre_hook(partial(_append, prompts[0]))
    for block, prompt in zip(tower.blocks[1:], prompts[1:], strict=False):
        yield block.register_forward_pre_hook(partial(_replace_last, prompt))
    for block in tower.blocks if tower.rotary else []:
        yield block.register_forward_pre_hook(partial(_extend_rope, n_prompts), with_kwargs=True)
    yield tower.blocks[-1].register_forward_hook(
        lambda module, args, tokens: tokens[:, :-n_prompts]
    )


def _text_hooks(
    tower: TextTower, prompts: Sequence[Tensor], start: int
) -> Iterator[RemovableHandle]:
    if not prompts:
        return
    yield tower.embedding.register_forward_hook(
        lambda module, args, tokens: _replace_at(prompts[0], start, tokens)
    )
    for block, prompt in zip(tower.blocks[1:], prompts[1:], strict=False):
        yield block.register_forward_pre_hook(
            lambda module, args, prompt=prompt: (_replace_at(prompt, start, args[0]), *args[1:])
        )


def _pool_hooks(tower: TextTower, ends: Tensor) -> Iterator[RemovableHandle]:
    """From (1, N, width) only the end tokens (1, C, width) go on."""
    yield tower.final_norm.register_forward_pre_hook(lambda module, args: (args[0][:, ends],))


def _append(prompt: Tensor, module: nn.Module, args: tuple) -> tuple:
    tokens, *rest = args
    return (torch.cat([tokens, _like(prompt, tokens)], dim=1), *rest)


def _replace_last(prompt: Tensor, module: nn.Module, args: tuple) -> tuple:
    tokens, *rest = args
    return (torch.cat([tokens[:, : -len(prompt)], _like(prompt, tokens)], dim=1), *rest)


def _replace_at(prompt: Tensor, start: int, tokens: Tensor) -> Tensor:
    behind = tokens[:, start + len(prompt) :]
    return torch.cat([tokens[:, :start], _like(prompt, tokens), behind], dim=1)


def _extend_rope(n_prompts: int, module: nn.Module, args: tuple, kwargs: dict) -> tuple:
    """Give the prompts a rotation by nothing (sine 0, cosine 1): they have no position."""
    rope = kwargs["rope"]
    sine = rope.new_zeros(*rope.shape[:-2], n_prompts, rope.shape[-1] // 2)
    still = torch.cat([sine, torch.ones_like(sine)], dim=-1)
    return args, {**kwargs, "rope": torch.cat([rope, still], dim=-2)}


def _like(prompt: Tensor, tokens: Tensor) -> Tensor:
    """A prompt (n, width) for every row of tokens (B, N, width), in their precision."""
    return prompt.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
