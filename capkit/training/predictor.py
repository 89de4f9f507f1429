"""What is left of a training for prediction, and how it predicts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from capkit._seeding import seeded
from capkit.training.module import DualAdapterModule, Encoder

__all__ = [
    "adapted_features",
    "build_predictor",
    "encode_batches",
    "export_adapters",
    "predict_logits",
]

_ADAPTERS = ("text_adapter", "main_adapter", "pseudo_adapter")


@torch.no_grad()
def export_adapters(module: DualAdapterModule) -> dict[str, np.ndarray]:
    """Take the adapters' parameters out of a trained module.

    Parameters
    ----------
    module : DualAdapterModule

    Returns
    -------
    dict of str to ndarray
        ``"text_adapter.fc1.weight"`` and so on.
    """
    return {
        f"{adapter}.{name}": value.float().cpu().numpy()
        for adapter in _ADAPTERS
        for name, value in getattr(module, adapter).state_dict().items()
    }


def build_predictor(
    weights: Mapping[str, np.ndarray],
    encoder: Encoder,
    *,
    logit_scale: float,
    adapter_weight: float,
    device: str,
) -> DualAdapterModule:
    """Put adapters that were exported around a trained encoder.

    Parameters
    ----------
    weights : mapping of str to ndarray
        With those of :func:`export_adapters`.
    encoder : Encoder
        With trained parameters.
    logit_scale : float
    adapter_weight : float
        Residual weight of the adapters.
    device : str

    Returns
    -------
    DualAdapterModule
        In evaluation mode; its parameters need no gradient.
    """
    with seeded(0):  # the first weights are replaced: that they are drawn must not show
        module = DualAdapterModule(
            encoder,
            logit_scale,
            adapter_dim=len(weights["main_adapter.fc1.bias"]),
            adapter_weight=adapter_weight,
        )
    for adapter in _ADAPTERS:
        prefix = f"{adapter}."
        getattr(module, adapter).load_state_dict(
            {
                name.removeprefix(prefix): torch.tensor(value)
                for name, value in weights.items()
                if name.startswith(prefix)
            }
        )
    return module.to(device).eval().requires_grad_(False)


@torch.no_grad()
def encode_batches(module: DualAdapterModule, inputs: Tensor, batch_size: int) -> Tensor:
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


@torch.no_grad()
def predict_logits(module: DualAdapterModule, features: Tensor, inference: str) -> np.ndarray:
    """Logits of images.

    Parameters
    ----------
    module : DualAdapterModule
    features : Tensor of shape (n, d)
        What :func:`encode_batches` gives.
    inference : str
        One of :data:`~.module.INFERENCE_MODES`.

    Returns
    -------
    ndarray of shape (n, C), float32
    """
    return module.logits(features, module.text_features(), inference).cpu().numpy()


@torch.no_grad()
def adapted_features(module: DualAdapterModule, features: Tensor, inference: str) -> np.ndarray:
    """Features that are compared with the classes.

    Parameters
    ----------
    module : DualAdapterModule
    features : Tensor of shape (n, d)
        What :func:`encode_batches` gives.
    inference : str
        One of :data:`~.module.INFERENCE_MODES`.

    Returns
    -------
    ndarray of shape (n, d), float32
        Unit rows; of "ensemble" the normalised mean of the two branches.
    """
    adapters = {
        "no_adapters": (),
        "main": (module.main_adapter,),
        "pseudo": (module.pseudo_adapter,),
        "ensemble": (module.main_adapter, module.pseudo_adapter),
    }[inference]
    if adapters:
        adapted = torch.stack([adapter(features) for adapter in adapters]).mean(dim=0)
        features = F.normalize(adapted, dim=-1)
    return features.cpu().numpy()
