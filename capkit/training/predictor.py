"""What is left of a training for prediction: class features, visual prompts and adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from capkit._seeding import seeded
from capkit.backbones.prompting import PromptedTowers
from capkit.training.module import DualAdapterModule, FeatureEncoder, PromptedEncoder

if TYPE_CHECKING:
    from capkit.backbones import Backbone

__all__ = ["build_predictor", "export_weights", "predict_features"]

_ADAPTERS = ("text_adapter", "main_adapter", "pseudo_adapter")


class _TrainedEncoder(nn.Module):
    """An image tower with trained prompts, and the class features that the text tower gave."""

    def __init__(self, backbone: Backbone, visual_prompts: Tensor, text_features: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.towers = PromptedTowers(backbone.model)
        self.dim = text_features.shape[1]
        self.register_buffer("visual_prompts", visual_prompts)
        self.register_buffer("text_features", text_features)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode pixels (B, 3, S, S), uint8, to unit rows (B, d)."""
        normalized = self.backbone.normalize(pixels)
        return self.towers.encode_image(normalized, list(self.visual_prompts))

    def encode_texts(self) -> Tensor:
        """Return the class features (C, d)."""
        return self.text_features


@torch.no_grad()
def export_weights(module: DualAdapterModule) -> dict[str, np.ndarray]:
    """Take from a trained module what prediction needs.

    The text prompts and the layers that make the visual prompts are not: the texts are encoded
    here, once for all. A prediction never runs the text tower.

    Parameters
    ----------
    module : DualAdapterModule

    Returns
    -------
    dict of str to ndarray
        ``text_features`` (C, d), before the text adapter; ``visual_prompts``
        (depth, n, width), with prompt tuning; and the adapters' parameters.
    """
    weights = {"text_features": module.text_features()}
    if isinstance(module.encoder, PromptedEncoder):
        _, visual_prompts = module.encoder.prompts()
        weights["visual_prompts"] = torch.stack(visual_prompts)
    for adapter in _ADAPTERS:
        for name, value in getattr(module, adapter).state_dict().items():
            weights[f"{adapter}.{name}"] = value
    return {name: value.float().cpu().numpy() for name, value in weights.items()}


def build_predictor(
    weights: Mapping[str, np.ndarray],
    *,
    logit_scale: float,
    adapter_weight: float,
    device: str,
    backbone: Backbone | None = None,
) -> DualAdapterModule:
    """Put a module for prediction together from what :func:`export_weights` gave.

    Parameters
    ----------
    weights : mapping of str to ndarray
    logit_scale : float
    adapter_weight : float
        Residual weight of the adapters.
    device : str
    backbone : Backbone or None, default=None
        Needed where there are visual prompts.

    Returns
    -------
    DualAdapterModule
        In evaluation mode; its parameters need no gradient.
    """
    tensors = {name: torch.tensor(value) for name, value in weights.items()}
    text_features = tensors["text_features"]
    if "visual_prompts" in tensors:
        encoder = _TrainedEncoder(backbone, tensors["visual_prompts"], text_features)
    else:
        encoder = FeatureEncoder(text_features)
    with seeded(0):  # the first weights are replaced: that they are drawn must not show
        module = DualAdapterModule(
            encoder,
            logit_scale,
            adapter_dim=len(tensors["main_adapter.fc1.bias"]),
            adapter_weight=adapter_weight,
        )
    for adapter in _ADAPTERS:
        prefix = f"{adapter}."
        getattr(module, adapter).load_state_dict(
            {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
        )
    return module.to(device).eval().requires_grad_(False)


@torch.no_grad()
def predict_features(module: DualAdapterModule, inputs: Tensor, batch_size: int) -> Tensor:
    """Encode images in batches, no adapter applied.

    Parameters
    ----------
    module : DualAdapterModule
    inputs : Tensor of shape (n, S, S, 3), uint8, or (n, d), float32
    batch_size : int

    Returns
    -------
    Tensor of shape (n, d)
        Unit rows, on the module's device.
    """
    device = next(module.parameters()).device
    parts = []
    for batch in inputs.split(batch_size):
        if batch.ndim == 4:
            batch = batch.permute(0, 3, 1, 2)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            parts.append(module.features(batch.to(device)).float())
    return torch.cat(parts)
