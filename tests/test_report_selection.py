"""Which images a report shows, worked out by hand."""

import numpy as np
import pytest
from report_samples import PROBABILITIES, gray_images, large_content, small_content

from capkit.report.selection import class_examples, confused_pairs, rows_by_need


def test_examples_of_a_class_are_the_surest():
    # Labels 0, 1, 2, 2, 0, 1 with 0.9, 0.5, 0.4, 0.9, 0.6, 0.9.
    assert [rows.tolist() for rows in class_examples(small_content())] == [[0, 4], [5, 1], [3, 2]]


def test_a_class_has_four_examples_or_as_many_as_it_has_images():
    content = large_content(50, 9, gray_images(50))
    assert [len(rows) for rows in class_examples(content)] == [4] * 9
    assert [len(rows) for rows in class_examples(small_content(labels=np.zeros(6, int)))] == [
        4,
        0,
        0,
    ]


def test_the_pair_of_most_expected_confusions_comes_first():
    # cat-dog: .045 + .225 + .09 + .0016 + .06 + .045 = 0.4666, below half an image;
    # with the second image twice as often it is 0.6916.
    assert confused_pairs(small_content()) == []
    rows = [0, 1, 2, 3, 4, 1]
    content = small_content(probabilities=PROBABILITIES[rows], labels=np.array([0, 1, 2, 2, 0, 1]))
    (pair,) = confused_pairs(content)
    assert (pair.first, pair.second) == (0, 1)
    assert pair.n_expected == pytest.approx(0.045 + 2 * 0.225 + 0.09 + 0.0016 + 0.06)
    assert pair.first_rows.tolist() == [4, 0]  # cats with 0.10 and 0.05 of dog
    assert pair.second_rows.tolist() == [1, 5]  # dogs with 0.45 of cat, both


def test_pictures_are_needed_of_doubtful_images_first_then_of_what_is_shown():
    content = small_content()  # doubtful: 1, 2, 5; examples: 0, 4, 5, 1, 3, 2
    assert rows_by_need(content).tolist() == [1, 2, 5, 0, 4, 3]


def test_a_few_of_each_class_are_ahead_of_the_last_of_many_doubtful_images():
    n_images, n_classes = 3000, 20
    content = large_content(n_images, n_classes, gray_images(n_images))  # 1000 are doubtful
    rows = rows_by_need(content)
    assert np.sort(rows).tolist() == list(range(n_images))
    assert content.is_doubtful[rows[:500]].all()
    shown = set(rows[: 500 + 4 * n_classes].tolist())
    assert all(shown.issuperset(examples.tolist()) for examples in class_examples(content))
