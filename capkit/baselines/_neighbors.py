"""Nearest neighbours by cosine similarity, a block of similarities at a time."""

from __future__ import annotations

import numpy as np

__all__ = ["nearest_neighbors", "same_image"]

# Number of similarities in memory at a time: 8 MiB in float32.
_BLOCK = 2**21
# Squared distance of two unit features up to which they count as the same image encoded twice: the
# last digits of a feature depend on its batch.
_SAME = 1e-10


def nearest_neighbors(
    features: np.ndarray, others: np.ndarray, k: int, *, leave_out_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` most similar rows of `others`, or all of them if there are fewer.

    Parameters
    ----------
    features : ndarray of shape (n, d)
        Unit rows.
    others : ndarray of shape (m, d)
        Unit rows.
    k : int
    leave_out_self : bool, default=False
        Whether `others` are the same rows, in which case no row is its own neighbour.

    Returns
    -------
    neighbors : ndarray of shape (n, k), dtype int64
        Rows of `others`, the most similar first.
    similarities : ndarray of shape (n, k)
    """
    k = min(k, len(others) - leave_out_self)
    neighbors = np.empty((len(features), k), dtype=np.int64)
    similarities = np.empty((len(features), k), dtype=np.result_type(features, others))
    step = max(1, _BLOCK // max(1, len(others)))
    for start in range(0, len(features) if k else 0, step):
        block = features[start : start + step] @ others.T
        rows = np.arange(len(block))
        if leave_out_self:
            block[rows, start + rows] = -np.inf
        nearest = np.argpartition(-block, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(block, nearest, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        neighbors[start : start + step] = np.take_along_axis(nearest, order, axis=1)
        similarities[start : start + step] = np.take_along_axis(values, order, axis=1)
    return neighbors, similarities


def same_image(
    features: np.ndarray, others: np.ndarray, neighbors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows that are also in `others`, up to rounding.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    others : ndarray of shape (m, d)
    neighbors : ndarray of shape (n, k)
        Rows of `others` to look at, as :func:`nearest_neighbors` gives them.

    Returns
    -------
    rows, places : ndarray of shape (n_known,)
        Rows of `features` and of `others` that are the same.
    """
    nearest = np.zeros(len(features), dtype=np.int64)
    smallest = np.full(len(features), np.inf)
    for column in neighbors.T:
        # in float64: a similarity near one has lost the digits that tell images apart
        difference = features.astype(np.float64) - others[column]
        distance = (difference**2).sum(axis=1)
        closer = distance < smallest
        nearest[closer], smallest[closer] = column[closer], distance[closer]
    rows = np.flatnonzero(smallest <= _SAME)
    return rows, nearest[rows]
