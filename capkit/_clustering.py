"""Clusters of image features that lose images and clusters, round by round.

Mismatch detection clusters what is left of the images again and again. The two classes here have
one interface: :class:`ScratchClusters` runs K-Means anew every round, as the method says;
:class:`WarmClusters` goes on from the centres that are left and updates only what changed.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

__all__ = ["ScratchClusters", "WarmClusters", "unit_rows"]

# Share of a cluster's mean squared radius that its centre may lag behind the mean of its images.
# It bounds the work: a centre that moved less is left where it is, until its moves add up.
_TOLERANCE = 1e-3

# Clusters that the warm form starts with, for each one that is wanted.
_SPARE = 2.0

_ABSENT = -1  # label of an image that was removed


def unit_rows(array: np.ndarray) -> np.ndarray:
    """Scale rows to norm one; rows of zeros stay.

    Parameters
    ----------
    array : ndarray of shape (n, d)

    Returns
    -------
    ndarray of shape (n, d)
    """
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    return np.divide(array, norms, out=np.zeros_like(array), where=norms > 0)


def _k_means(features, n_clusters, *, init, n_init, max_iter, random_state) -> KMeans:
    k_means = KMeans(
        n_clusters, init=init, n_init=n_init, max_iter=max_iter, random_state=random_state
    )
    with warnings.catch_warnings():
        # Fewer distinct images than clusters: some clusters stay empty, which callers allow for.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return k_means.fit(features)


class ScratchClusters:
    """K-Means anew on the images that are left, as often as images are removed.

    Parameters
    ----------
    features : ndarray of shape (n_images, n_features), dtype float32
    text_features : ndarray of shape (n_classes, n_features), dtype float32
        Their similarity to the centres is kept up to date.
    n_clusters : int
    n_init, max_iter : int
        As of :class:`sklearn.cluster.KMeans`.
    random_state : RandomState

    Attributes
    ----------
    images : ndarray of shape (n_left,)
        Indices of the images that are left.
    labels : ndarray of shape (n_left,)
        Cluster of each of them.
    centers : ndarray of shape (n_clusters, n_features)
        Unit-norm centres.
    similarity : ndarray of shape (n_classes, n_clusters)
        Cosine similarity of texts and centres.
    """

    def __init__(self, features, text_features, n_clusters, *, n_init, max_iter, random_state):
        self._features = features
        self._texts = text_features
        self._options = {"n_init": n_init, "max_iter": max_iter, "random_state": random_state}
        self.images = np.arange(len(features))
        self._cluster(n_clusters)

    def shrink(self, removed: np.ndarray) -> None:
        """Take images away and cluster the others into one cluster less.

        Parameters
        ----------
        removed : ndarray of int
            Positions in :attr:`images`.
        """
        self.images = np.delete(self.images, removed)
        self._cluster(len(self.centers) - 1)

    def _cluster(self, n_clusters: int) -> None:
        n_clusters = min(n_clusters, len(self.images))
        if n_clusters:
            left = self._features[self.images]
            k_means = _k_means(left, n_clusters, init="k-means++", **self._options)
            self.labels, centers = k_means.labels_, k_means.cluster_centers_
        else:
            self.labels, centers = np.empty(0, np.int32), self._features[:0]
        self.centers = unit_rows(centers)
        self.similarity = self._texts @ self.centers.T


class WarmClusters:
    """K-Means that goes on from the centres that are left, in time linear in what changed.

    Sums and counts of the clusters follow every image that leaves or changes cluster. A centre
    is moved to its mean once it lags by more than a tolerance, and then only the similarities to
    moved centres are computed: an image whose own centre stood still can only change to a moved
    one, and an image whose centre came nearer needs no look at the others either.

    The cluster that is given up is the smaller one of the two that cost least to merge (Ward's
    criterion). Mostly that is the matched one, which just lost its images. But if a second class
    shares that cluster, its images keep the centre, and the spare one of a class that K-Means had
    split in two is given up instead, as clustering from scratch would do.

    For the same reason the first K-Means starts with more clusters than are wanted and gives up
    the cheapest: a centre that two classes share would stay shared in every round to come. With
    these to spare, images drawn at random are starts as good as k-means++'s, which cost more
    than all the rest.

    Parameters and attributes as of :class:`ScratchClusters`.

    Parameters
    ----------
    features : ndarray of shape (n_images, n_features), dtype float32
    text_features : ndarray of shape (n_classes, n_features), dtype float32
    n_clusters : int
    n_init, max_iter : int
    random_state : RandomState
    """

    # Lloyd iterations after each round; what is still moving goes on moving in the next round.
    _SETTLE_ITERATIONS = 5

    def __init__(self, features, text_features, n_clusters, *, n_init, max_iter, random_state):
        wanted = min(n_clusters, len(features))
        n_clusters = min(math.ceil(_SPARE * n_clusters), len(features))
        k_means = _k_means(
            features,
            n_clusters,
            init="random",
            n_init=n_init,
            max_iter=max_iter,
            random_state=random_state,
        )
        self._features = features
        self._texts = text_features
        self._ids = np.arange(len(features))
        self._labels = k_means.labels_.astype(np.int64)
        self._n_left = len(features)
        self._counts = np.bincount(self._labels, minlength=n_clusters)
        self._sums = self._sums_by(self._labels, self._ids, n_clusters)

        n_features = features.shape[1]
        self._means = np.empty((n_clusters, n_features), dtype=np.float32)
        self._half_squares = np.empty(n_clusters, dtype=np.float32)
        self._products = np.empty((n_clusters, n_clusters), dtype=np.float32)
        self._text_products = np.empty((len(text_features), n_clusters), dtype=np.float32)
        self._moved = np.zeros(n_clusters, dtype=bool)
        self._place(np.arange(n_clusters), k_means.cluster_centers_)
        # Larger is nearer: x.mu - |mu|^2 / 2 orders the centres of an image as distances do.
        self._scores = (
            np.einsum("ij,ij->i", features, self._means[self._labels])
            - self._half_squares[self._labels]
        )
        squares = np.einsum("ij,ij->i", features, features)
        self._tolerance = _TOLERANCE * float(np.mean(squares - 2 * self._scores))
        self._moved[:] = False
        while len(self._counts) > wanted:
            self._drop(self._cheapest())
            self._settle()

    @property
    def images(self) -> np.ndarray:
        """Indices of the images that are left, ascending."""
        return self._ids[self._labels != _ABSENT]

    @property
    def labels(self) -> np.ndarray:
        """Cluster of each image that is left."""
        return self._labels[self._labels != _ABSENT]

    @property
    def centers(self) -> np.ndarray:
        """Unit-norm centres."""
        return unit_rows(self._means)

    @property
    def similarity(self) -> np.ndarray:
        """Cosine similarity of texts and centres."""
        norms = np.sqrt(2 * self._half_squares)
        return self._text_products / np.where(norms > 0, norms, 1)

    def shrink(self, removed: np.ndarray) -> None:
        """Take images away, give up one cluster, and let the others settle.

        Parameters
        ----------
        removed : ndarray of int
            Positions in :attr:`images`.
        """
        self._remove(np.flatnonzero(self._labels != _ABSENT)[removed])
        self._follow_means()
        n_clusters = min(len(self._counts) - 1, self._n_left)
        while len(self._counts) > n_clusters:
            self._drop(self._cheapest())
        self._settle()

    def _settle(self) -> None:
        """Run a few Lloyd iterations, where anything moves."""
        for _ in range(self._SETTLE_ITERATIONS):
            self._fill_empty()
            self._follow_means()
            if not self._moved.any():
                break
            self._reassign()

    def _sums_by(self, labels: np.ndarray, rows: np.ndarray, n_clusters: int) -> np.ndarray:
        membership = sparse.csr_array(
            (np.ones(len(rows), np.float32), (labels, np.arange(len(rows)))),
            shape=(n_clusters, len(rows)),
        )
        return (membership @ self._features[rows]).astype(np.float64)

    def _place(self, clusters: np.ndarray, positions: np.ndarray) -> None:
        """Put centres somewhere and refresh what depends on them."""
        self._means[clusters] = positions
        self._half_squares[clusters] = 0.5 * np.einsum("ij,ij->i", positions, positions)
        products = self._means[clusters] @ self._means.T
        self._products[clusters] = products
        self._products[:, clusters] = products.T
        self._text_products[:, clusters] = self._texts @ self._means[clusters].T
        self._moved[clusters] = True

    def _remove(self, rows: np.ndarray) -> None:
        labels = self._labels[rows]
        self._counts -= np.bincount(labels, minlength=len(self._counts))
        self._sums -= self._sums_by(labels, rows, len(self._counts))
        self._labels[rows] = _ABSENT
        self._scores[rows] = np.inf  # no centre is nearer: an absent image never moves
        self._n_left -= len(rows)
        if self._n_left < len(self._labels) // 2:  # copying at each halving costs 2 n in all
            left = self._labels != _ABSENT
            self._features, self._ids = self._features[left], self._ids[left]
            self._labels, self._scores = self._labels[left], self._scores[left]

    def _relabel(self, rows: np.ndarray, labels: np.ndarray) -> None:
        n_clusters = len(self._counts)
        before = self._labels[rows]
        self._counts += np.bincount(labels, minlength=n_clusters)
        self._counts -= np.bincount(before, minlength=n_clusters)
        self._sums += self._sums_by(labels, rows, n_clusters)
        self._sums -= self._sums_by(before, rows, n_clusters)
        self._labels[rows] = labels

    def _follow_means(self) -> None:
        """Move the centres that lag behind the mean of their images."""
        means = (self._sums / np.maximum(self._counts, 1)[:, None]).astype(np.float32)
        lag = means - self._means
        lags = (np.einsum("ij,ij->i", lag, lag) > self._tolerance) & (self._counts > 0)
        clusters = np.flatnonzero(lags)
        self._place(clusters, means[clusters])

    def _cheapest(self) -> int:
        """Smaller one of the two clusters that cost least, in squared distance, to merge."""
        halves, counts = self._half_squares, self._counts.astype(np.float32)
        distances = 2 * (halves[:, None] + halves - self._products)
        weights = counts[:, None] * counts / np.maximum(counts[:, None] + counts, 1)
        costs = weights * distances
        np.fill_diagonal(costs, np.inf)
        pair = np.unravel_index(costs.argmin(), costs.shape)
        return int(min(pair, key=lambda cluster: counts[cluster]))

    def _drop(self, cluster: int) -> None:
        """Give up a cluster; its images go to the nearest of the others."""
        orphans = np.flatnonzero(self._labels == cluster)
        self._labels -= self._labels > cluster
        for name in ("_means", "_half_squares", "_counts", "_sums", "_moved"):
            setattr(self, name, np.delete(getattr(self, name), cluster, axis=0))
        self._products = np.delete(np.delete(self._products, cluster, axis=0), cluster, axis=1)
        self._text_products = np.delete(self._text_products, cluster, axis=1)
        if len(orphans) and len(self._counts):
            labels = self._nearest(orphans)
            self._counts += np.bincount(labels, minlength=len(self._counts))
            self._sums += self._sums_by(labels, orphans, len(self._counts))
            self._labels[orphans] = labels

    def _nearest(self, rows: np.ndarray) -> np.ndarray:
        scores = self._features[rows] @ self._means.T - self._half_squares
        self._scores[rows] = scores.max(axis=1)
        return scores.argmax(axis=1)

    def _fill_empty(self) -> None:
        """Give each empty cluster the image that is farthest from its own centre."""
        for cluster in np.flatnonzero(self._counts == 0):
            farthest = int(self._scores.argmin())
            if self._counts[self._labels[farthest]] < 2:
                return
            self._relabel(np.array([farthest]), np.array([cluster]))
            self._place(np.array([cluster]), self._features[[farthest]])
            self._scores[farthest] = self._half_squares[cluster]

    def _reassign(self) -> None:
        """Let each image change to the nearest centre, looking only where one moved."""
        moved = np.flatnonzero(self._moved)
        scores = self._features @ self._means[moved].T - self._half_squares[moved]
        every = np.arange(len(scores))
        best = scores.argmax(axis=1)
        best_score = scores[every, best]

        column = np.full(len(self._counts) + 1, -1)  # the last one serves the absent, label -1
        column[moved] = np.arange(len(moved))
        own = column[self._labels]
        own_score = np.where(own >= 0, scores[every, own], self._scores)
        labels = np.where(best_score > own_score, moved[best], self._labels)

        # Own centre moved away: one that stood still may be nearer now, so look at all.
        left_behind = np.flatnonzero((own >= 0) & (own_score < self._scores))
        self._scores = np.maximum(best_score, own_score)
        if len(left_behind):
            labels[left_behind] = self._nearest(left_behind)
        changed = np.flatnonzero(labels != self._labels)
        self._relabel(changed, labels[changed])
        self._moved[:] = False
