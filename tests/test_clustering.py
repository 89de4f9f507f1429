"""Warm clusters keep their books, and agree with K-Means where it is sure of itself."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from capkit import ConceptSpace
from capkit._arrays import unit_rows
from capkit._clustering import ScratchClusters, WarmClusters, _MergeCosts
from capkit.datasets import make_concept_space


class WarmToTheEnd(WarmClusters):
    """Goes on from the centres that are left as long as there are any."""

    _LOST = 1.0


WARM = pytest.mark.parametrize("clusters_class", [WarmClusters, WarmToTheEnd])
ALL = pytest.mark.parametrize("clusters_class", [WarmClusters, WarmToTheEnd, ScratchClusters])


def make_clusters(clusters_class, space, n_clusters=None, seed=0):
    return clusters_class(
        space.image_features,
        space.text_features,
        space.n_classes if n_clusters is None else n_clusters,
        n_init=5,
        max_iter=100,
        random_state=np.random.RandomState(seed),
    )


@pytest.fixture
def problem():
    return make_concept_space(600, 12, 48, n_mismatched=0, random_state=3)


def assert_books_are_right(clusters, space):
    """What is kept up to date equals what one computes anew."""
    features = space.image_features[clusters.images]
    n_clusters = len(clusters.centers)
    counts = np.bincount(clusters.labels, minlength=n_clusters)
    alive = clusters._alive
    np.testing.assert_array_equal(clusters._counts[alive], counts)
    sums = np.array([features[clusters.labels == j].sum(axis=0) for j in range(n_clusters)])
    np.testing.assert_allclose(clusters._sums[alive], sums, atol=1e-3)
    np.testing.assert_allclose(
        clusters.similarity, space.text_features @ clusters.centers.T, atol=1e-5
    )
    means = clusters._means[alive]
    np.testing.assert_allclose(clusters._half_squares[alive], 0.5 * (means**2).sum(1), atol=1e-6)
    assert len(alive) < 2 * alive.sum()


@WARM
def test_books_are_right_in_every_round(problem, clusters_class):
    clusters = make_clusters(clusters_class, problem.space)
    rng = np.random.default_rng(0)
    assert_books_are_right(clusters, problem.space)
    for n_clusters in range(11, 0, -1):
        removed = rng.permutation(len(clusters.images))[:45]
        kept = np.delete(clusters.images, removed)
        clusters.shrink(removed)
        np.testing.assert_array_equal(clusters.images, kept)
        assert clusters.n_clusters == len(clusters.centers) == n_clusters
        assert_books_are_right(clusters, problem.space)
    clusters.shrink(np.arange(45))
    assert clusters.n_clusters == 0


def test_what_is_left_is_clustered_anew_each_time_that_a_sixth_is_gone():
    anew = []

    class Recording(WarmClusters):
        def _cluster(self, n_clusters):
            anew.append((n_clusters, len(self._features)))
            super()._cluster(n_clusters)

    space = make_concept_space(300, 26, 48, n_mismatched=0, random_state=3).space
    clusters = make_clusters(Recording, space)
    for _ in range(26):
        clusters.shrink(np.arange(10))
    rounds = [26, 22, 19, 16, 14, 12, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert anew == [(left, 40 + 10 * left) for left in rounds]


def test_few_clusters_are_those_of_the_literal_form():
    space = make_concept_space(300, 11, 48, n_mismatched=0, random_state=3).space
    warm, scratch = (make_clusters(cls, space) for cls in (WarmClusters, ScratchClusters))
    for _ in range(10):
        np.testing.assert_array_equal(warm.labels, scratch.labels)
        np.testing.assert_allclose(warm.centers, scratch.centers, atol=1e-6)
        for clusters in (warm, scratch):
            clusters.shrink(np.arange(9))


def test_settled_images_are_with_their_nearest_centre(problem):
    clusters = make_clusters(WarmToTheEnd, problem.space)
    for cluster in (4, 2, 0):
        clusters.shrink(np.flatnonzero(clusters.labels == cluster))
    features = problem.space.image_features[clusters.images]
    distances = ((features[:, None] - clusters._means[clusters._alive]) ** 2).sum(axis=2)
    np.testing.assert_allclose(
        distances[np.arange(len(features)), clusters.labels], distances.min(axis=1), atol=1e-5
    )


@ALL
def test_removing_a_class_leaves_the_clusters_of_the_others(problem, clusters_class):
    clusters = make_clusters(clusters_class, problem.space)
    assert adjusted_rand_score(problem.target, clusters.labels) > 0.95
    for label in range(5):
        clusters.shrink(np.flatnonzero(problem.target[clusters.images] == label))
        assert adjusted_rand_score(problem.target[clusters.images], clusters.labels) > 0.95


def test_cluster_that_keeps_images_stays_and_two_halves_become_one():
    # Four blobs on the sphere; the last two are the nearest to each other.
    rng = np.random.default_rng(0)
    directions = np.array([[1, 0, 0], [1, 0.3, 0], [0, 0, 1], [0, 0.15, 1]])
    blobs = np.repeat(np.arange(4), 20)
    features = unit_rows(unit_rows(directions)[blobs] + 0.01 * rng.standard_normal((80, 3)))
    space = ConceptSpace(features, unit_rows(directions), ["a", "b", "c", "d"])
    clusters = make_clusters(WarmToTheEnd, space)
    assert adjusted_rand_score(blobs, clusters.labels) == 1
    # Half of the first blob leaves. What is left of it is dearer to hand over than the halves.
    clusters.shrink(np.arange(10))
    expected = np.array([0, 1, 2, 2])[blobs[10:]]
    assert adjusted_rand_score(expected, clusters.labels) == 1


def test_cluster_that_loses_all_images_is_given_up(problem):
    clusters = make_clusters(WarmToTheEnd, problem.space)
    before, labels = clusters.centers, clusters.labels
    clusters.shrink(np.flatnonzero(labels == 7))
    np.testing.assert_allclose(clusters.centers, np.delete(before, 7, axis=0), atol=1e-5)


def test_empty_cluster_takes_the_farthest_image(problem):
    space = problem.space
    clusters = make_clusters(WarmToTheEnd, space)
    # Two classes leave at once and only one cluster is given up: the other centre is free.
    gone = np.flatnonzero(np.isin(problem.target, [0, 1]))
    clusters.shrink(gone)
    assert np.bincount(clusters.labels, minlength=11).min() > 0


@ALL
def test_no_more_clusters_than_images(problem, clusters_class):
    few = problem.space[:3]
    clusters = make_clusters(clusters_class, few, n_clusters=3)
    assert len(clusters.centers) == 3
    clusters.shrink(np.array([0, 1]))
    assert len(clusters.centers) == 1 and clusters.labels.tolist() == [0]
    clusters.shrink(np.array([0]))
    assert len(clusters.centers) == 0 and len(clusters.images) == 0
    assert clusters.similarity.shape == (12, 0)


@ALL
@pytest.mark.filterwarnings("error")
def test_copies_of_one_image(clusters_class):
    space = make_concept_space(1, 4, 16, n_mismatched=0, random_state=0).space
    space = space[np.zeros(9, dtype=int)]
    clusters = make_clusters(clusters_class, space)
    for n_clusters in (3, 2, 1):
        clusters.shrink(np.array([0, 1]))
        assert len(clusters.centers) == n_clusters
        assert np.isfinite(clusters.similarity).all()


def test_cheapest_pair_is_right_after_any_refresh():
    rng = np.random.default_rng(0)
    costs = np.full((9, 9), np.inf)
    merge_costs = _MergeCosts(9)
    for _ in range(200):
        changed = rng.permutation(9)[: rng.integers(1, 5)]
        rows = rng.random((len(changed), 9))
        rows[rng.random(rows.shape) < 0.3] = np.inf
        rows[:, changed] = np.inf  # of each other too, so that rows and columns agree
        costs[changed], costs[:, changed] = rows, rows.T
        merge_costs.refresh(changed, rows)
        assert costs[merge_costs.cheapest_pair()] == costs.min()
