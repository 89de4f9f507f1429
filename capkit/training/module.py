"""The trainable part of CAP: prompts and the dual adapters around frozen towers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capkit.backbones.prompting import PromptedTowers
from capkit.training.adapters import Adapter
from capkit.training.config import INFERENCE_MODES
from capkit.training.prompts import MaplePrompts, place_context

if TYPE_CHECKING:
    from capkit.backbones import Backbone

__all__ = ["DualAdapterModule", "FeatureEncoder", "PromptedEncoder"]


class PromptedEncoder(nn.Module):
    """Frozen towers with trained MaPLe prompts: from pixels to features.

    Parameters
    ----------
    backbone : Backbone
        Its model is neither registered as a submodule nor changed: it takes no part in
        ``parameters()`` and ``state_dict()``.
    texts : sequence of str of length C
        The text behind each class: a formatted template, or a description.
    shift : Tensor of shape (C, d) or None, default=None
        Added to the text tower's unit rows, which are normalised again: the correction of
        classes that were aligned without a text.
    context : str, default="a photo of a"
        Text that the prompts start from.
    prompt_length : int, default=2
        Number of prompts of a layer.
    prompt_depth : int, default=8
        Number of layers with prompts; no more than both towers have are used.

    Raises
    ------
    UnsupportedBackboneError
        If prompts cannot enter one of the towers.
    """

    def __init__(
        self,
        backbone: Backbone,
        texts: Sequence[str],
        *,
        shift: Tensor | None = None,
        context: str = "a photo of a",
        prompt_length: int = 2,
        prompt_depth: int = 8,
    ) -> None:
        super().__init__()
        towers = PromptedTowers(backbone.model)
        placed = place_context(
            backbone.tokenize, towers.text, texts, context=context, length=prompt_length
        )
        self.backbone = backbone
        self.towers = towers
        self.dim = backbone.embed_dim
        self.start = placed.start
        self.prompts = MaplePrompts(
            placed.embeddings, towers.visual.width, min(prompt_depth, towers.n_layers)
        )
        self.register_buffer("tokens", placed.tokens, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode pixels (B, 3, S, S), uint8, to unit rows (B, d)."""
        _, visual_prompts = self.prompts()
        return self.towers.encode_image(self.backbone.normalize(pixels), visual_prompts)

    def encode_texts(self) -> Tensor:
        """Encode the classes' texts to unit rows (C, d)."""
        text_prompts, _ = self.prompts()
        features = self.towers.encode_text(self.tokens, text_prompts, start=self.start)
        if self.shift is None:
            return features
        return F.normalize(features + self.shift, dim=-1)


class FeatureEncoder(nn.Module):
    """Features that were computed before: no tower runs, nothing is trained.

    Parameters
    ----------
    text_features : Tensor of shape (C, d)
        Unit rows.
    """

    def __init__(self, text_features: Tensor) -> None:
        super().__init__()
        self.dim = text_features.shape[1]
        self.register_buffer("text_features", text_features, persistent=False)

    def encode_images(self, features: Tensor) -> Tensor:
        """Return the features (B, d) with unit rows."""
        return F.normalize(features, dim=-1)

    def encode_texts(self) -> Tensor:
        """Return the text features (C, d)."""
        return self.text_features


class DualAdapterModule(nn.Module):
    """Dual-adapter training around an encoder (the paper, section 3.3).

    Main branch: text adapter and main adapter; labeled images, main samples and the weak view.
    Pseudo branch: text adapter and pseudo adapter; the strong view. One pass through the text
    tower and one gradient pass through the image tower serve a whole step.

    Parameters
    ----------
    encoder : PromptedEncoder or FeatureEncoder
        The first trains prompts and adapters on pixels, the second adapters alone on features.
    logit_scale : float
        ``s``, the frozen factor between cosine similarities and logits.
    adapter_dim : int, default=128
        Width inside the adapters.
    adapter_weight : float, default=0.01
        Residual weight of the adapters.
    keep_strong : callable or None, default=None
        From the weak view's logits (B, C) to a boolean mask (B,) of the images whose strong
        view counts. The others' loss is zero, so their strong views are not encoded at all.
        None encodes all of them.

    Notes
    -----
    Towers run in the precision of a surrounding ``torch.autocast``; adapters and logits are
    always float32, because the logit scale magnifies rounding errors a hundredfold.
    """

    def __init__(
        self,
        encoder: PromptedEncoder | FeatureEncoder,
        logit_scale: float,
        *,
        adapter_dim: int = 128,
        adapter_weight: float = 0.01,
        keep_strong: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.logit_scale = logit_scale
        self.keep_strong = keep_strong
        self.text_adapter = Adapter(encoder.dim, adapter_dim, adapter_weight)
        self.main_adapter = Adapter(encoder.dim, adapter_dim, adapter_weight)
        self.pseudo_adapter = Adapter(encoder.dim, adapter_dim, adapter_weight)

    def forward(
        self,
        labeled: Tensor | None = None,
        main: Tensor | None = None,
        weak: Tensor | None = None,
        strong: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the logits of one training step.

        Parameters
        ----------
        labeled, main, weak, strong : Tensor of shape (B, 3, S, S) or (B, d), or None
            uint8 pixels or float features, as the encoder takes them. ``weak`` and ``strong``
            are views of the same images. What is None is left out.

        Returns
        -------
        dict of str to Tensor
            Logits (B, C) under the names of the arguments that were given. Those of ``weak``
            carry no gradient. With ``keep_strong``, ``"strong"`` holds only the rows that
            ``"kept"`` (B,) marks.
        """
        texts = self.text_features("main")
        logits = {}
        if weak is not None:
            with torch.no_grad():
                logits["weak"] = self._similarities(self.features(weak, "main"), texts)
        if strong is not None and self.keep_strong is not None:
            logits["kept"] = self.keep_strong(logits["weak"])
            strong = strong[logits["kept"]]
        given = {"labeled": labeled, "main": main, "strong": strong}
        batches = {name: batch for name, batch in given.items() if batch is not None}
        if batches:
            together = self.encoder.encode_images(torch.cat(list(batches.values())))
            parts = together.split([len(batch) for batch in batches.values()])
            for name, part in zip(batches, parts, strict=True):
                branch = "pseudo" if name == "strong" else "main"
                logits[name] = self._similarities(self._adapt_images(part, branch), texts)
        return logits

    def features(self, inputs: Tensor, branch: str = "prompts") -> Tensor:
        """Encode images.

        Parameters
        ----------
        inputs : Tensor of shape (B, 3, S, S) or (B, d)
            uint8 pixels or float features, as the encoder takes them.
        branch : {"prompts", "main", "pseudo"}, default="prompts"
            The visual adapter to apply; "prompts" applies none.

        Returns
        -------
        Tensor of shape (B, d), float32
            Unit rows.
        """
        return self._adapt_images(self.encoder.encode_images(inputs), branch)

    def text_features(self, branch: str = "prompts") -> Tensor:
        """Encode the classes.

        Parameters
        ----------
        branch : {"prompts", "main", "pseudo"}, default="prompts"
            "prompts" leaves the text adapter out; both others apply it.

        Returns
        -------
        Tensor of shape (C, d), float32
            Unit rows.
        """
        return self._adapt_texts(self.encoder.encode_texts(), branch)

    def logits(
        self, image_features: Tensor, text_features: Tensor, inference: str = "prompts"
    ) -> Tensor:
        """Compare images with classes.

        Parameters
        ----------
        image_features : Tensor of shape (B, d)
            What :meth:`features` gives without a branch.
        text_features : Tensor of shape (C, d)
            What :meth:`text_features` gives without a branch, encoded once for all images.
        inference : {"prompts", "main", "pseudo", "ensemble"}, default="prompts"
            "prompts" switches all adapters off, as the paper does. "ensemble" averages the
            probabilities of the main and the pseudo branch.

        Returns
        -------
        Tensor of shape (B, C), float32
            Softmax over the classes gives probabilities; those of "ensemble" are the
            logarithms of probabilities.

        Raises
        ------
        ValueError
            If there is no such inference mode.
        """
        if inference not in INFERENCE_MODES:
            raise ValueError(f"inference must be one of {INFERENCE_MODES}, got {inference!r}")
        if inference == "ensemble":
            both = [
                self.logits(image_features, text_features, branch).log_softmax(dim=-1)
                for branch in ("main", "pseudo")
            ]
            return torch.stack(both).logsumexp(dim=0) - math.log(len(both))
        images = self._adapt_images(image_features, inference)
        return self._similarities(images, self._adapt_texts(text_features, inference))

    def _adapt_images(self, features: Tensor, branch: str) -> Tensor:
        adapters = {"main": self.main_adapter, "pseudo": self.pseudo_adapter}
        return _in_float32(adapters[branch], features) if branch != "prompts" else features

    def _adapt_texts(self, features: Tensor, branch: str) -> Tensor:
        return _in_float32(self.text_adapter, features) if branch != "prompts" else features

    def _similarities(self, images: Tensor, texts: Tensor) -> Tensor:
        return self.logit_scale * _in_float32(torch.matmul, images, texts.T)


def _in_float32(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    with torch.autocast(tensors[0].device.type, enabled=False):
        return function(*(tensor.float() for tensor in tensors))
