"""Helpers for arrays, by hand."""

import numpy as np
import pytest

from capkit._arrays import unit_rows


def test_unit_rows_leaves_zeros():
    np.testing.assert_allclose(unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unit_rows_keeps_the_type_and_the_given_array(dtype):
    given = np.array([[3.0, -4.0], [0.0, 2.0]], dtype=dtype)
    rows = unit_rows(given)
    assert rows.dtype == dtype
    np.testing.assert_allclose(rows, [[0.6, -0.8], [0, 1]])
    assert given.tolist() == [[3.0, -4.0], [0.0, 2.0]]


@pytest.mark.filterwarnings("error")
def test_unit_rows_of_no_rows():
    assert unit_rows(np.empty((0, 3))).shape == (0, 3)
