"""The search for nearest neighbours that peers share."""

import tracemalloc

import numpy as np
import pytest

from capkit.baselines import _neighbors as module
from capkit.baselines._neighbors import nearest_neighbors, same_image


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return unit(rng.standard_normal((50, 6))), unit(rng.standard_normal((30, 6)))


@pytest.mark.parametrize("k", [1, 4, 30, 40])
@pytest.mark.parametrize("block", [1, 100, 2**22])
def test_finds_the_most_similar_first(features, k, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    neighbors, similarities = nearest_neighbors(*features, k)
    every = features[0] @ features[1].T
    np.testing.assert_array_equal(neighbors, np.argsort(-every, axis=1)[:, :k])
    np.testing.assert_allclose(similarities, -np.sort(-every, axis=1)[:, :k])


@pytest.mark.parametrize("block", [1, 100, 2**22])
def test_a_row_is_not_its_own_neighbor_but_an_equal_one_is(block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    rows = np.eye(3)[[0, 1, 0, 2]]
    neighbors, similarities = nearest_neighbors(rows, rows, 1, leave_out_self=True)
    assert neighbors[[0, 2], 0].tolist() == [2, 0]
    assert similarities[:, 0].tolist() == [1, 0, 1, 0]
    assert nearest_neighbors(rows, rows, 9, leave_out_self=True)[0].shape == (4, 3)
    assert nearest_neighbors(rows[:1], rows[:1], 3, leave_out_self=True)[0].shape == (1, 0)


def test_knows_an_image_again_up_to_rounding(features):
    others = features[1].astype(np.float32)
    images = np.vstack([features[0][:5], np.nextafter(others[[7, 3]], np.float32(2))])
    images = np.vstack([images, unit(others[[4]] + 0.001)]).astype(np.float32)
    neighbors, _ = nearest_neighbors(images, others, 3)
    rows, places = same_image(images, others, neighbors)
    assert rows.tolist() == [5, 6]
    assert places.tolist() == [7, 3]


def test_all_similarities_are_never_held_at_a_time():
    rows = unit(np.random.default_rng(0).standard_normal((6000, 4)).astype(np.float32))
    tracemalloc.start()
    nearest_neighbors(rows, rows, 3, leave_out_self=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000**2 * 4 * 0.5
