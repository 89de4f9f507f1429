"""The learning rate as a pure function of the step, so that resuming is exact."""

from __future__ import annotations

import math

__all__ = ["learning_rate"]


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
