"""Figures grow with what is in them."""

import numpy as np
import pytest

from capkit.inspection._plotting import (
    axes_for_rows,
    label_rows,
    label_size,
    largest,
    split_axes,
    with_note,
)

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_largest_leaves_out_what_is_no_number_and_keeps_the_order_of_equals():
    values = np.array([1.0, np.nan, 3.0, 3.0, 2.0])
    assert largest(values, None, "n").tolist() == [2, 3, 4, 0]
    assert largest(values, 2, "n").tolist() == [2, 3]


def test_note_is_there_only_where_something_is_left_out():
    assert with_note("recall", 3, 3, "classes") == "recall"
    assert with_note("recall", 3, 9, "classes") == "recall\n3 of 9 classes"


def test_text_of_many_rows_in_given_axes_is_small_and_of_few_as_usual():
    _, ax = plt.subplots(figsize=(4, 4))
    assert label_size(ax, 5) == 10
    assert label_size(ax, 40) == pytest.approx(0.8 * 4 * 0.77 * 72 / 40)
    assert label_size(ax, 10_000) == 3


def test_a_name_with_dollars_is_drawn_as_it_is():
    ax = axes_for_rows(["a $5 or $10 note"])
    label_rows(ax, ["a $5 or $10 note"])
    ax.figure.canvas.draw()
    assert ax.get_yticklabels()[0].get_parse_math() is False
    assert ax.get_yticklabels()[0].get_text() == "a $5 or $10 note"


def test_panels_have_the_heights_that_are_asked_for():
    panels = split_axes(None, [3, 1])
    panels[0].figure.canvas.draw()
    heights = [panel.get_window_extent().height for panel in panels]
    assert heights[0] == pytest.approx(3 * heights[1])
