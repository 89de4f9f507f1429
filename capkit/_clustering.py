"""Clusters of image features that lose images and clusters, round by round.

Mismatch detection clusters what is left of the images again and again. The two classes here have
one interface: :class:`ScratchClusters` runs K-Means anew every round, as the method says;
:class:`WarmClusters` goes on from the centres that are left and updates only what changed.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from capkit._arrays import unit_rows

__all__ = ["ScratchClusters", "WarmClusters"]

# Share of a cluster's mean squared radius that its centre may lag behind the mean of its images.
# It bounds the work: a centre that moved less is left where it is, until its moves add up.
_TOLERANCE = 1e-3

_ABSENT = -1  # label of an image that was removed


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

    @property
    def n_clusters(self) -> int:
        """Number of clusters, at most that of images."""
        return len(self.centers)

    def center(self, cluster: int) -> np.ndarray:
        """One of the rows of :attr:`centers`."""
        return self.centers[cluster]

    def shrink(self, removed: np.ndarray) -> None:
        """Take images away and cluster the others into one cluster less.

        Parameters
        ----------
        removed : ndarray of int
            Positions in :attr:`images`.
        """
        self.images = np.delete(self.images, removed)
        self._cluster(self.n_clusters - 1)

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


class _MergeCosts:
    """Cost of merging any two clusters, with the cheapest partner of each kept up to date.

    A refresh costs a few rows, not the whole matrix: as everything here, it is linear in the
    number of clusters for each cluster that changed.

    Parameters
    ----------
    n_clusters : int
    """

    def __init__(self, n_clusters: int):
        self._costs = np.full((n_clusters, n_clusters), np.inf, dtype=np.float32)
        self._partner = np.zeros(n_clusters, dtype=np.int64)
        self._lowest = np.full(n_clusters, np.inf, dtype=np.float32)

    def refresh(self, clusters: np.ndarray, costs: np.ndarray) -> None:
        """Replace the costs of some clusters.

        Parameters
        ----------
        clusters : ndarray of shape (n_changed,), dtype int
        costs : ndarray of shape (n_changed, n_clusters)
            Of merging each of them with each cluster; infinite for what cannot be merged.
        """
        self._costs[clusters] = costs
        self._costs[:, clusters] = costs.T
        best = costs.argmin(axis=0)
        lower = costs[best, np.arange(costs.shape[1])]
        nearer = lower < self._lowest
        lost = np.isin(self._partner, clusters) & ~nearer
        self._lowest[nearer], self._partner[nearer] = lower[nearer], clusters[best[nearer]]
        lost[clusters] = True
        again = np.flatnonzero(lost)
        self._partner[again] = self._costs[again].argmin(axis=1)
        self._lowest[again] = self._costs[again, self._partner[again]]

    def cheapest_pair(self) -> tuple[int, int]:
        """The two clusters that cost least to merge."""
        first = int(self._lowest.argmin())
        return first, int(self._partner[first])


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

    For the same reason K-Means starts with more clusters than are wanted and gives up the
    cheapest: a centre that two classes share would stay shared in the rounds to come. With these
    to spare, one start from images drawn at random is as good as several of k-means++, which
    cost more than all the rest.

    Still each clustering is one of many that K-Means could have found, and a class that it
    happens to blur would stay blurred, where clustering from scratch gives it a new chance in
    every round. So what is left is clustered anew each time that a share of the clusters is gone.
    These clusterings shrink geometrically: all of them cost a few times as much as the first.
    With few clusters left, that share is a single one; those rounds, which decide what is left
    over, are the rounds of :class:`ScratchClusters`.

    A cluster that was given up keeps its slot, infinitely far from everything, until half of the
    slots are free; the attributes show the clusters that are left.

    Parameters and attributes as of :class:`ScratchClusters`.

    Parameters
    ----------
    features : ndarray of shape (n_images, n_features), dtype float32
    text_features : ndarray of shape (n_classes, n_features), dtype float32
    n_clusters : int
    n_init, max_iter : int
        Of K-Means without spare clusters; with them there is one start, of few iterations.
    random_state : RandomState
    """

    # Lloyd iterations after each round; what is still moving goes on moving in the next round.
    _SETTLE_ITERATIONS = 5

    # Clusters that K-Means starts with, for each one that is wanted.
    _SPARE = 2

    # Lloyd iterations with all of them, of which giving up the spare ones brings more.
    _SPARE_ITERATIONS = 20

    # Share of the spare clusters that are given up before the others settle.
    _SPARE_AT_ONCE = 0.2

    # Share of the clusters, but at least one, after whose loss all are clustered anew.
    _LOST = 1 / 6

    def __init__(self, features, text_features, n_clusters, *, n_init, max_iter, random_state):
        self._n_init = n_init
        self._max_iter = max_iter
        self._random_state = random_state
        self._features = features
        self._texts = text_features
        self._ids = np.arange(len(features))
        self._cluster(min(n_clusters, len(features)))

    @property
    def images(self) -> np.ndarray:
        """Indices of the images that are left, ascending."""
        return self._ids[self._labels != _ABSENT]

    @property
    def labels(self) -> np.ndarray:
        """Cluster of each image that is left."""
        rank = np.cumsum(self._alive) - 1
        return rank[self._labels[self._labels != _ABSENT]]

    @property
    def n_clusters(self) -> int:
        """Number of clusters that are left."""
        return int(self._alive.sum())

    @property
    def centers(self) -> np.ndarray:
        """Unit-norm centres."""
        return unit_rows(self._means[self._alive])

    @property
    def similarity(self) -> np.ndarray:
        """Cosine similarity of texts and centres."""
        norms = np.sqrt(2 * self._half_squares[self._alive])
        products = self._text_products[self._alive]
        products /= np.where(norms > 0, norms, 1)[:, None]
        return products.T

    def center(self, cluster: int) -> np.ndarray:
        """One of the rows of :attr:`centers`."""
        return unit_rows(self._means[[np.flatnonzero(self._alive)[cluster]]])[0]

    def shrink(self, removed: np.ndarray) -> None:
        """Take images away, give up one cluster, and let the others settle.

        Parameters
        ----------
        removed : ndarray of int
            Positions in :attr:`images`.
        """
        self._remove(np.flatnonzero(self._labels != _ABSENT)[removed])
        n_clusters = min(self.n_clusters - 1, self._n_left)
        if 0 < n_clusters <= self._anew_below:
            self._forget_absent()
            self._cluster(n_clusters)
            return
        self._follow_means()
        while self.n_clusters > n_clusters:
            self._give_up_cheapest()
        self._settle()

    def _cluster(self, n_clusters: int) -> None:
        """Cluster the images that are left, none of which may be absent from the books."""
        lost = max(1, int(self._LOST * n_clusters))
        self._anew_below = n_clusters - lost
        if lost == 1:
            n_slots, init = n_clusters, "k-means++"
            n_init, max_iter = self._n_init, self._max_iter
        else:
            n_slots, init = min(self._SPARE * n_clusters, len(self._features)), "random"
            n_init, max_iter = 1, min(self._max_iter, self._SPARE_ITERATIONS)
        k_means = _k_means(
            self._features,
            n_slots,
            init=init,
            n_init=n_init,
            max_iter=max_iter,
            random_state=self._random_state,
        )
        self._start_from(k_means)
        squares = np.einsum("ij,ij->i", self._features, self._features)
        self._tolerance = _TOLERANCE * float(np.mean(squares - 2 * self._scores))
        while (spare := self.n_clusters - n_clusters) > 0:
            for _ in range(math.ceil(self._SPARE_AT_ONCE * spare)):
                self._give_up_cheapest()
                self._follow_means()
            self._settle()

    # -- the books: which images a cluster has, their sum and number, and where its centre is

    def _start_from(self, k_means: KMeans) -> None:
        """Open the books for a clustering of the images that are left."""
        self._n_left = len(self._features)
        self._labels = np.full(self._n_left, _ABSENT, dtype=np.int64)
        self._open_slots(k_means.cluster_centers_)
        self._join(np.arange(self._n_left), k_means.labels_)
        # Larger is nearer: x.mu - |mu|^2 / 2 orders the centres of an image as distances do.
        self._scores = (
            np.einsum("ij,ij->i", self._features, self._means[self._labels])
            - self._half_squares[self._labels]
        )
        self._moved[:] = False

    def _open_slots(self, means: np.ndarray) -> None:
        n_slots, n_features = means.shape
        self._alive = np.ones(n_slots, dtype=bool)
        self._counts = np.zeros(n_slots, dtype=np.int64)
        self._sums = np.zeros((n_slots, n_features))
        self._means = np.empty((n_slots, n_features), dtype=np.float32)
        self._half_squares = np.empty(n_slots, dtype=np.float32)
        self._text_products = np.empty((n_slots, len(self._texts)), dtype=np.float32)
        self._moved = np.zeros(n_slots, dtype=bool)  # since images were last reassigned
        self._changed = np.zeros(n_slots, dtype=bool)  # lost or took images since means followed
        self._outdated = np.ones(n_slots, dtype=bool)  # costs of merging are of another state
        self._merge_costs = _MergeCosts(n_slots)
        self._place(np.arange(n_slots), means)

    def _place(self, clusters: np.ndarray, positions: np.ndarray) -> None:
        """Put centres somewhere and refresh what depends on them."""
        positions = positions.astype(np.float32, copy=False)
        self._means[clusters] = positions
        self._half_squares[clusters] = 0.5 * np.einsum("ij,ij->i", positions, positions)
        self._text_products[clusters] = positions @ self._texts.T
        self._moved[clusters] = True
        self._outdated[clusters] = True

    def _join(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Enter images that are in no cluster."""
        self._enter(rows, labels, 1)
        self._labels[rows] = labels

    def _leave(self, rows: np.ndarray) -> None:
        """Take images out of their clusters."""
        self._enter(rows, self._labels[rows], -1)
        self._labels[rows] = _ABSENT

    def _enter(self, rows: np.ndarray, labels: np.ndarray, sign: int) -> None:
        if not len(rows):
            return
        order = labels.argsort(kind="stable")
        touched, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
        self._sums[touched] += sign * np.add.reduceat(self._features[rows[order]], starts, axis=0)
        self._counts[touched] += sign * counts
        self._changed[touched] = True
        self._outdated[touched] = True

    def _remove(self, rows: np.ndarray) -> None:
        self._leave(rows)
        self._scores[rows] = np.inf  # no centre is nearer: an absent image never moves
        self._n_left -= len(rows)
        if self._n_left < len(self._labels) // 2:  # copying at each halving costs 2 n in all
            self._forget_absent()

    def _forget_absent(self) -> None:
        left = self._labels != _ABSENT
        self._features, self._ids = self._features[left], self._ids[left]
        self._labels, self._scores = self._labels[left], self._scores[left]

    # -- clusters that are given up

    def _give_up_cheapest(self) -> None:
        """Give up the smaller one of the two clusters that cost least to merge."""
        outdated = np.flatnonzero(self._outdated & self._alive)
        if len(outdated):
            self._merge_costs.refresh(outdated, self._costs_of_merging(outdated))
            self._outdated[outdated] = False
        self._drop(min(self._merge_costs.cheapest_pair(), key=lambda slot: self._counts[slot]))

    def _costs_of_merging(self, clusters: np.ndarray) -> np.ndarray:
        """By how much the sum of squared distances grows (Ward's criterion)."""
        halves = np.where(self._alive, self._half_squares, 0)
        counts = self._counts.astype(np.float32)
        products = self._means[clusters] @ self._means.T
        squares = 2 * (halves[clusters, None] + halves - products)
        both = counts[clusters, None] + counts
        costs = counts[clusters, None] * counts / np.maximum(both, 1) * squares
        costs[:, ~self._alive] = np.inf
        costs[np.arange(len(clusters)), clusters] = np.inf
        return costs

    def _drop(self, cluster: int) -> None:
        """Give up a cluster; its images go to the nearest of the others."""
        stranded = np.flatnonzero(self._labels == cluster)
        self._leave(stranded)
        self._alive[cluster] = False
        self._means[cluster], self._half_squares[cluster] = 0, np.inf
        self._moved[cluster] = self._changed[cluster] = False
        never = np.full((1, len(self._alive)), np.inf, dtype=np.float32)
        self._merge_costs.refresh(np.array([cluster]), never)
        if len(stranded) and self._alive.any():
            self._join(stranded, self._nearest(stranded))
        if 2 * self.n_clusters <= len(self._alive):
            self._close_free_slots()

    def _close_free_slots(self) -> None:
        rank = np.append(np.cumsum(self._alive) - 1, _ABSENT)  # the last one serves label -1
        self._labels = rank[self._labels]
        alive = self._alive
        for name in (
            "_alive",
            "_counts",
            "_sums",
            "_means",
            "_half_squares",
            "_text_products",
            "_moved",
            "_changed",
        ):
            setattr(self, name, getattr(self, name)[alive])
        self._outdated = self._alive.copy()
        self._merge_costs = _MergeCosts(len(self._alive))

    # -- Lloyd's iterations, where anything moves

    def _settle(self) -> None:
        for _ in range(self._SETTLE_ITERATIONS):
            self._fill_empty()
            self._follow_means()
            if not self._moved.any():
                break
            self._reassign()

    def _follow_means(self) -> None:
        """Move the centres that lag behind the mean of their images."""
        changed = np.flatnonzero(self._changed & (self._counts > 0))
        means = (self._sums[changed] / self._counts[changed, None]).astype(np.float32)
        lag = means - self._means[changed]
        lags = np.einsum("ij,ij->i", lag, lag) > self._tolerance
        self._place(changed[lags], means[lags])
        self._changed[:] = False

    def _nearest(self, rows: np.ndarray) -> np.ndarray:
        scores = self._features[rows] @ self._means.T - self._half_squares
        self._scores[rows] = scores.max(axis=1)
        return scores.argmax(axis=1)

    def _fill_empty(self) -> None:
        """Give each empty cluster the image that is farthest from its own centre."""
        for cluster in np.flatnonzero(self._alive & (self._counts == 0)):
            farthest = int(self._scores.argmin())
            if self._counts[self._labels[farthest]] < 2:
                return
            row = np.array([farthest])
            self._leave(row)
            self._join(row, np.array([cluster]))
            self._place(np.array([cluster]), self._features[row])
            self._scores[farthest] = self._half_squares[cluster]

    def _reassign(self) -> None:
        """Let each image change to the nearest centre, looking only where one moved."""
        moved = np.flatnonzero(self._moved)
        scores = self._features @ self._means[moved].T - self._half_squares[moved]
        every = np.arange(len(scores))
        best = scores.argmax(axis=1)
        best_score = scores[every, best]

        column = np.full(len(self._alive) + 1, -1)  # the last one serves the absent, label -1
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
        self._leave(changed)
        self._join(changed, labels[changed])
        self._moved[:] = False
