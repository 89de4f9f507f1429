"""Choosing rows so that classes have given sizes."""

from __future__ import annotations

import numpy as np

__all__ = ["long_tail"]


def long_tail(
    target: np.ndarray,
    imbalance_ratio: float,
    random_state: np.random.RandomState,
    largest: int | None = None,
) -> np.ndarray:
    """Choose positions so that class sizes fall geometrically from largest to smallest.

    Parameters
    ----------
    target : ndarray of shape (n,), dtype int
        Classes from 0, each of which occurs.
    imbalance_ratio : float
        The largest class over the smallest, at least 1.
    random_state : RandomState instance
        Draws the order of the classes, and the images that stay.
    largest : int or None, default=None
        Size of the largest class, at most that of the smallest in `target`. None: the largest of
        which every class can give its part.

    Returns
    -------
    ndarray of int
        Ascending.

    Raises
    ------
    ValueError
        If the ratio is below 1 or not finite.
    """
    if not (np.isfinite(imbalance_ratio) and imbalance_ratio >= 1):
        raise ValueError(
            "imbalance_ratio is expected to be a finite number of at least 1 (the largest class "
            f"over the smallest), got {imbalance_ratio!r}."
        )
    counts = np.bincount(target)
    parts = float(imbalance_ratio) ** -np.linspace(0, 1, len(counts))
    order = random_state.permutation(len(counts))
    top = (counts[order] / parts).min() if largest is None else largest
    sizes = np.maximum(1, np.rint(top * parts)).astype(int)
    chosen = [
        random_state.permutation(np.flatnonzero(target == label))[:size]
        for label, size in zip(order, sizes, strict=True)
    ]
    return np.sort(np.concatenate(chosen))
