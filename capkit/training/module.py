"""The trainable part of CAP: the dual adapters around an encoder, which may train too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from capkit.training.adapters import Adapter
from capkit.training.self_training import PseudoLabels

__all__ = ["INFERENCE_MODES", "DualAdapterModule", "Encoder"]

#: Which adapters predict: none, the main branch's, the pseudo branch's, or both branches.
INFERENCE_MODES = ("no_adapters", "main", "pseudo", "ensemble")


class Encoder(nn.Module):
    """Interface of what stands before the adapters; each way of tuning has one.

    Attributes
    ----------
    dim : int
        Width ``d`` of the features.
    """

    dim: int

    def encode_images(self, inputs: Tensor) -> Tensor:
        """Encode a batch of inputs to unit rows (B, d)."""
        raise NotImplementedError

    def encode_texts(self) -> Tensor:
        """Encode the classes to unit rows (C, d)."""
        raise NotImplementedError


class DualAdapterModule(nn.Module):
    """Dual-adapter training around an encoder (the paper, section 3.3).

    Main branch: text adapter and main adapter; labeled images, main samples and the weak view.
    Pseudo branch: text adapter and pseudo adapter; the strong view. One pass through the text
    tower and one gradient pass through the image tower serve a whole step.

    Parameters
    ----------
    encoder : Encoder
        Made by a way of tuning; its parameters, if it has any, train with the adapters.
    logit_scale : float
        ``s``, the frozen factor between cosine similarities and logits.
    adapter_dim : int, default=128
        Width inside the adapters.
    adapter_weight : float, default=0.01
        Residual weight of the adapters; 0 leaves them out.
    pseudo_adapter : bool, default=True
        Whether the strong view has an adapter of its own. Without it, the main adapter's is
        the pseudo branch too, in training and in prediction.

    Notes
    -----
    Towers run in the precision of a surrounding ``torch.autocast``; adapters and logits are
    always float32, because the logit scale magnifies rounding errors a hundredfold.
    """

    def __init__(
        self,
        encoder: Encoder,
        logit_scale: float,
        *,
        adapter_dim: int = 128,
        adapter_weight: float = 0.01,
        pseudo_adapter: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.logit_scale = logit_scale
        self.text_adapter = Adapter(encoder.dim, adapter_dim, adapter_weight)
        self.main_adapter = Adapter(encoder.dim, adapter_dim, adapter_weight)
        self.pseudo_adapter = self.main_adapter
        if pseudo_adapter:
            self.pseudo_adapter = Adapter(encoder.dim, adapter_dim, adapter_weight)

    def forward(
        self,
        weak: Tensor | None = None,
        strong: Tensor | None = None,
        unlabeled: Tensor | None = None,
        *,
        pseudo_label: Callable[[Tensor, Tensor], PseudoLabels],
        main: Tensor | None = None,
        labeled: Tensor | None = None,
    ) -> dict[str, Any]:
        """Compute the logits of one training step, and the pseudolabels.

        Parameters
        ----------
        weak, strong : Tensor of shape (B, 3, S, S) or (B, d), or None, default=None
            Two views of the same unlabeled images: uint8 pixels or float features, as the
            encoder takes them; where these are drawn.
        unlabeled : Tensor of shape (B,), int64, or None, default=None
            Which images these are.
        pseudo_label : callable
            From the weak view's logits (B, C) and which images they are of to
            :class:`~.self_training.PseudoLabels`. Strong views that are not kept have no loss, so
            they are not encoded at all.
        main, labeled : Tensor of shape (B, 3, S, S) or (B, d), or None, default=None
            Main samples and labeled images, where there are any.

        Returns
        -------
        dict of str
            ``"pseudo"``, the :class:`~.self_training.PseudoLabels` that the weak view gave,
            without gradient; ``"strong"``, the logits (n_kept, C) of the rows that they keep;
            and the logits (B, C) of ``"main"`` and ``"labeled"``: each where it was given.
        """
        texts = self.text_features("main")
        outputs: dict[str, Any] = {}
        given = {"labeled": labeled, "main": main}
        if weak is not None:
            with torch.no_grad():
                weak_logits = self._similarities(self.features(weak, "main"), texts)
            outputs["pseudo"] = pseudo = pseudo_label(weak_logits, unlabeled)
            given["strong"] = None if strong is None else strong[pseudo.kept]
        batches = {name: batch for name, batch in given.items() if batch is not None}
        rows = torch.cat(list(batches.values()))
        # Towers take no empty batch: an image that is dropped again stands in for none.
        encoded = rows if len(rows) or weak is None else weak[:1]
        together = self.encoder.encode_images(encoded)[: len(rows)]
        parts = together.split([len(batch) for batch in batches.values()])
        for name, part in zip(batches, parts, strict=True):
            branch = "pseudo" if name == "strong" else "main"
            outputs[name] = self._similarities(self._adapt_images(part, branch), texts)
        return outputs

    def features(self, inputs: Tensor, branch: str = "no_adapters") -> Tensor:
        """Encode images.

        Parameters
        ----------
        inputs : Tensor of shape (B, 3, S, S) or (B, d)
            uint8 pixels or float features, as the encoder takes them.
        branch : {"no_adapters", "main", "pseudo"}, default="no_adapters"
            The visual adapter to apply; "no_adapters" applies none.

        Returns
        -------
        Tensor of shape (B, d), float32
            Unit rows.
        """
        return self._adapt_images(self.encoder.encode_images(inputs), branch)

    def text_features(self, branch: str = "no_adapters") -> Tensor:
        """Encode the classes.

        Parameters
        ----------
        branch : {"no_adapters", "main", "pseudo"}, default="no_adapters"
            "no_adapters" leaves the text adapter out; both others apply it.

        Returns
        -------
        Tensor of shape (C, d), float32
            Unit rows.
        """
        return self._adapt_texts(self.encoder.encode_texts(), branch)

    def logits(
        self, image_features: Tensor, text_features: Tensor, inference: str = "no_adapters"
    ) -> Tensor:
        """Compare images with classes.

        Parameters
        ----------
        image_features : Tensor of shape (B, d)
            What :meth:`features` gives without a branch.
        text_features : Tensor of shape (C, d)
            What :meth:`text_features` gives without a branch, encoded once for all images.
        inference : {"no_adapters", "main", "pseudo", "ensemble"}, default="no_adapters"
            "no_adapters" switches all adapters off, as the paper does. "ensemble" averages the
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
        return _in_float32(adapters[branch], features) if branch != "no_adapters" else features

    def _adapt_texts(self, features: Tensor, branch: str) -> Tensor:
        return _in_float32(self.text_adapter, features) if branch != "no_adapters" else features

    def _similarities(self, images: Tensor, texts: Tensor) -> Tensor:
        return self.logit_scale * _in_float32(torch.matmul, images, texts.T)


def _in_float32(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    with torch.autocast(tensors[0].device.type, enabled=False):
        return function(*(tensor.float() for tensor in tensors))
