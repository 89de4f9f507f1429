"""How long and how fast a training runs; the learning rate is a pure function of the step."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

__all__ = ["Schedule", "learning_rate"]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Numbers of one training (method, section 3).

    Parameters
    ----------
    epochs : int
    steps_per_epoch : int
    batch_size : int
        Images of each stream in a step, over all processes.
    optimizer : {"sgd", "adamw"}
    learning_rate : float
        At the end of the warm-up.
    momentum : float
        Of SGD; the first beta of AdamW.
    weight_decay : float
    warmup_epochs : int
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    warmup_epochs: int

    @property
    def total_steps(self) -> int:
        """Number of optimiser steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0 over all epochs."""
        return learning_rate(
            step,
            base=self.learning_rate,
            total_steps=self.total_steps,
            warmup_steps=self.warmup_epochs * self.steps_per_epoch,
        )

    def optimizer_arguments(self) -> dict[str, Any]:
        """What a skorch net takes to build the optimiser."""
        common = {"lr": self.learning_rate, "optimizer__weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            momentum = {"optimizer__momentum": self.momentum}
            return {"optimizer": torch.optim.SGD, **momentum, **common}
        betas = {"optimizer__betas": (self.momentum, 0.999)}
        return {"optimizer": torch.optim.AdamW, **betas, **common}


def learning_rate(step: int, *, base: float, total_steps: int, warmup_steps: int) -> float:
    """Linear warm-up to `base`, then half a cosine down to zero (method, section 3).

    Parameters
    ----------
    step : int
        Number of the step that is about to be made, from 0 to ``total_steps - 1``.
    base : float
        Learning rate at the end of the warm-up.
    total_steps : int
        Number of steps of the whole training, warm-up included.
    warmup_steps : int
        Number of steps of the warm-up; cut to `total_steps`.

    Returns
    -------
    float

    Examples
    --------
    >>> [learning_rate(s, base=0.1, total_steps=6, warmup_steps=2) for s in (0, 1, 2, 4)]
    [0.05, 0.1, 0.1, 0.05]
    """
    warmup_steps = min(warmup_steps, total_steps)
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return 0.5 * base * (1.0 + math.cos(math.pi * progress))
