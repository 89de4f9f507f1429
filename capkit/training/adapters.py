"""The residual adapters on the features of the frozen towers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Adapter"]


class Adapter(nn.Module):
    """A small residual network on output features: d -> hidden -> ReLU -> d.

    It takes and gives unit rows: ``normalize(x + weight * fc2(relu(fc1(x))))``. Acting on the
    normalised features rather than on the tower's raw output gives the residual weight the same
    meaning for every backbone, whatever the length of its features, and lets prompt tuning and
    adapter tuning (on cached, normalised features) share one adapter.

    The second layer starts at zero, so that an untrained adapter is the identity and training
    starts from the backbone's own predictions.

    Parameters
    ----------
    dim : int
        Width ``d`` of the features.
    hidden : int, default=128
        Width in between.
    weight : float, default=0.01
        Residual weight, >= 0.

    Examples
    --------
    >>> import torch
    >>> adapter = Adapter(4, hidden=8)
    >>> features = torch.eye(2, 4)
    >>> bool((adapter(features) == features).all())
    True
    """

    def __init__(self, dim: int, hidden: int = 128, weight: float = 0.01) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.weight = weight
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Adapt unit rows (B, d); the result has unit rows too."""
        residual = self.fc2(F.relu(self.fc1(features)))
        return F.normalize(features + self.weight * residual, dim=-1)
