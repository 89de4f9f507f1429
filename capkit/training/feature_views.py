"""The strong view where the images are features: there are no pixels left to crop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["make_feature_view"]


def make_feature_view(augment: float | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make a strong view of features.

    Parameters
    ----------
    augment : float or callable
        Length of a random vector of normal entries that is added to each unit row, before it is
        normalised again: 0.5 turns a feature by about 27 degrees. Or a transform of one
        feature, from Tensor (d,) to Tensor (d,). Draws from torch's global generator.

    Returns
    -------
    callable
        Tensor (B, d) -> Tensor (B, d).

    Examples
    --------
    >>> import torch
    >>> view = make_feature_view(0.0)
    >>> view(torch.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if callable(augment):
        return lambda features: torch.stack([augment(feature) for feature in features])

    def add_noise(features: Tensor) -> Tensor:
        noise = torch.randn_like(features) * (augment / features.shape[1] ** 0.5)
        return F.normalize(features + noise, dim=1)

    return add_noise
