"""Helpers for arrays that no other module owns."""

from __future__ import annotations

import numpy as np

__all__ = ["unit_rows"]


def unit_rows(array: np.ndarray) -> np.ndarray:
    """Scale rows to norm one; rows of zeros stay.

    Parameters
    ----------
    array : ndarray of shape (n, d), of floats

    Returns
    -------
    ndarray of shape (n, d)
    """
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    return np.divide(array, norms, out=np.zeros_like(array), where=norms > 0)
