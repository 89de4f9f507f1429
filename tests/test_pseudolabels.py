"""Choice of pseudolabels and main samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capkit import pseudolabels
from capkit.pseudolabels import (
    class_balance,
    main_sample_target,
    renew_main_samples,
    top_k_pseudo_labels,
)


def test_takes_the_most_confident_images_of_each_class():
    probabilities = [[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]]
    assert top_k_pseudo_labels(probabilities, k=2).tolist() == [0, -1, 0, 1, 1]
    assert top_k_pseudo_labels(probabilities, k=1).tolist() == [0, -1, -1, 1, -1]


def test_a_class_that_nobody_predicts_gets_no_image():
    assert top_k_pseudo_labels([[0.9, 0.1], [0.8, 0.2]], k=5).tolist() == [0, 0]


def test_mismatched_class_takes_the_most_similar_images_whatever_they_are_predicted_as():
    probabilities = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]
    similarities = [[0.3, 0.1], [0.3, 0.29], [0.3, 0.2], [0.3, 0.25]]
    labels = top_k_pseudo_labels(probabilities, 2, similarities, mismatched=[1])
    # Images 1 and 3 are the most similar to class 1; class 0 takes two of the others.
    assert labels.tolist() == [0, 1, 0, 1]


def test_mismatched_class_does_not_take_images_only_because_they_are_predicted_as_it():
    probabilities = [[0.1, 0.9], [0.2, 0.8]]
    similarities = [[0.1, 0.2], [0.1, 0.4]]
    labels = top_k_pseudo_labels(probabilities, 1, similarities, mismatched=[1])
    assert labels.tolist() == [-1, 1]


def test_contested_image_goes_to_the_more_similar_class_and_the_other_goes_on():
    # Both mismatched classes like image 0 best; class 1 more so. Class 0 goes on to image 2.
    similarities = np.array([[0.8, 0.9], [0.1, 0.2], [0.5, 0.3]])
    labels = top_k_pseudo_labels(np.eye(3, 2), 1, similarities, mismatched=[0, 1])
    assert labels.tolist() == [1, -1, 0]


def test_each_class_may_have_a_number_of_its_own():
    probabilities = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]]
    assert top_k_pseudo_labels(probabilities, [2, 1]).tolist() == [0, 0, -1, 1]
    similarities = np.array([[0.1, 0.4], [0.1, 0.3], [0.1, 0.2], [0.1, 0.1]])
    labels = top_k_pseudo_labels(probabilities, [2, 1], similarities, mismatched=[1])
    assert labels.tolist() == [1, 0, -1, -1]
    with pytest.raises(ValueError, match="one or one a class"):
        top_k_pseudo_labels(probabilities, [2, 1, 1])


def test_ties_go_to_the_lower_image_then_to_the_lower_class():
    labels = top_k_pseudo_labels(np.full((4, 2), 0.5), k=3)
    assert labels.tolist() == [0, 0, 0, -1]
    same = np.full((4, 2), 0.5)
    labels = top_k_pseudo_labels(same, 1, same, mismatched=[0, 1])
    assert labels.tolist() == [0, 1, -1, -1]


def test_nothing_to_choose_from():
    assert top_k_pseudo_labels(np.empty((0, 3)), k=2).tolist() == []
    assert top_k_pseudo_labels([[0.4, 0.6]], k=0).tolist() == [-1]


@settings(max_examples=60, deadline=None)
@given(
    similarities=st.integers(1, 12).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=n, max_size=n
        )
    ),
    k=st.integers(0, 4),
    mismatched=st.sets(st.integers(0, 2)),
)
def test_no_image_and_mismatched_class_would_rather_have_each_other(similarities, k, mismatched):
    similarities = np.array(similarities, dtype=float)
    labels = top_k_pseudo_labels(
        similarities / 4, k, similarities=similarities, mismatched=sorted(mismatched)
    )
    chosen = labels[labels >= 0]
    assert np.bincount(chosen, minlength=3).max() <= k
    for column in mismatched:
        mine = np.flatnonzero(labels == column)
        worst = similarities[mine, column].min() if len(mine) == k and k else -1.0
        for image in np.setdiff1d(np.arange(len(labels)), mine):
            has = labels[image]
            satisfied = similarities[image, has] if has in mismatched else -1.0
            prefers = k > 0 and similarities[image, column] > max(worst, satisfied)
            assert not prefers


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"k": -1}, "expected k of at least 0, one or one a class, got -1"),
        ({"k": 1, "mismatched": [0]}, "similarities are needed"),
        (
            {"k": 1, "mismatched": [0], "similarities": np.eye(3)},
            r"expected similarities of shape",
        ),
        (
            {"k": 1, "mismatched": [2], "similarities": np.eye(2)},
            r"mismatched classes between 0 and 1, got \[2\]",
        ),
    ],
)
def test_refuses_what_does_not_fit(kwargs, message):
    with pytest.raises(ValueError, match=message):
        top_k_pseudo_labels(np.eye(2), **kwargs)


def test_refuses_probabilities_of_one_dimension():
    with pytest.raises(ValueError, match="two dimensions"):
        top_k_pseudo_labels(np.ones(3), k=1)


# -- the growth schedule


def test_target_grows_linearly_from_k_to_four_fifths_of_a_class():
    # 6300 / 45 = 140 images a class, 0.8 * 140 = 112, reached after 0.7 * 50 = 35 epochs.
    schedule = [main_sample_target(epoch, 50, 16, 6300, 45) for epoch in (0, 5, 35, 50)]
    assert schedule == [16, 29, 112, 112]  # 16 + 96 * 5 / 35 = 29.7


def test_target_is_at_most_a_thousand():
    assert main_sample_target(50, 50, 16, 100_000, 10) == 1000


def test_target_with_a_shorter_ramp():
    # Reached after 0.6 * 50 = 30 epochs.
    assert main_sample_target(15, 50, 6, 1060, 10, ramp_fraction=0.6) == 45  # 6 + (84.8 - 6) / 2


def test_target_with_a_smaller_share_and_with_a_smaller_limit():
    # 106 images a class, and 0.6 * 106 = 63.6.
    assert main_sample_target(50, 50, 6, 1060, 10, max_share=0.6) == 63
    assert main_sample_target(50, 50, 6, 1060, 10, max_per_class=40) == 40


def test_target_never_shrinks_where_images_are_few():
    # 0.8 * 10 = 8 images are less than k.
    assert [main_sample_target(epoch, 50, 16, 100, 10) for epoch in (0, 25, 50)] == [16, 16, 16]


# -- renewal


def test_renewal_takes_the_epoch_s_most_confident_first():
    predicted, confidence = [0, 0, 0, 1], [0.86, 0.99, 0.9, 0.95]
    renewed = renew_main_samples([-1, -1, -1, -1], predicted, confidence, target=2)
    assert renewed.tolist() == [-1, 0, 0, 1]


def test_renewal_fills_up_with_old_samples():
    current = [0, 0, 0, -1, 1]
    predicted, confidence = [-1, -1, -1, 0, -1], [0.0, 0.0, 0.0, 0.9, 0.0]
    renewed = renew_main_samples(current, predicted, confidence, target=3)
    # Image 3 first, then two of the old ones, lower index first; class 1 keeps its own.
    assert renewed.tolist() == [0, 0, -1, 0, 1]


def test_renewal_moves_an_old_sample_to_the_class_that_takes_it_now():
    renewed = renew_main_samples([0, 0], [-1, 1], [0.0, 0.9], target=5)
    assert renewed.tolist() == [0, 1]


def test_renewal_drops_the_old_sample_that_the_epoch_contradicts_most():
    # Class 0 has room for one of its old images. All are predicted as class 1 now, which is full
    # with image 3: the one of the weakest contradiction stays.
    current, predicted = [0, 0, 0, -1], [1, 1, 1, 1]
    confidence = [0.95, 0.87, 0.9, 0.99]
    renewed = renew_main_samples(current, predicted, confidence, target=1)
    assert renewed.tolist() == [-1, 0, -1, 1]


def test_renewal_prefers_old_samples_without_a_label_to_contradicted_ones():
    current, predicted = [0, 0, -1], [1, -1, 1]
    renewed = renew_main_samples(current, predicted, [0.86, 0.0, 0.99], target=1)
    assert renewed.tolist() == [-1, 0, 1]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(-1, 2), st.integers(-1, 2), st.floats(0.5, 1.0)), max_size=20
    ),
    target=st.integers(0, 5),
)
def test_renewed_samples_have_a_reason_and_no_class_too_many(rows, target):
    current, predicted, confidence = (
        (np.array(column) for column in zip(*rows, strict=True))
        if (rows)
        else (np.empty(0, int), np.empty(0, int), np.empty(0))
    )
    renewed = renew_main_samples(current, predicted, confidence, target)
    taken = renewed >= 0
    assert np.all((renewed == current)[taken] | (renewed == predicted)[taken])
    assert np.bincount(renewed[taken], minlength=3).max() <= target
    for label in range(3):
        wanted = min(target, int(np.sum(predicted == label)))
        assert np.sum((renewed == label) & (predicted == label)) >= wanted


def test_renewal_refuses_different_lengths():
    with pytest.raises(ValueError, match="one shape"):
        renew_main_samples([0, 0], [1], [0.9], target=1)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([5, 5, 5], 1.0), ([7, 0, 0], 0.0), ([0, 0], 0.0), ([4], 0.0), ([1, 1, 0, 0], 0.5)],
)
def test_balance_is_one_for_equal_classes_and_zero_for_one_alone(counts, expected):
    assert class_balance(np.array(counts)) == pytest.approx(expected)


def pair_by_pair(similarities, k):
    """The most similar pair first, ties by image and class, while both are free."""
    n_images, n_classes = similarities.shape
    pairs = [(-similarities[i, c], i, c) for i in range(n_images) for c in range(n_classes)]
    chosen, room = [-1] * n_images, list(np.broadcast_to(k, n_classes))
    for _, i, c in sorted(pairs):
        if chosen[i] < 0 and room[c]:
            chosen[i], room[c] = c, room[c] - 1
    return chosen


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 2, 6, 11, 25, [3, 0, 40, 7, 1]])
def test_every_mismatched_class_takes_its_images_pair_by_pair(k, ties):
    """Few of many images, where only the top of each list is looked at, all, and in between."""
    for seed in range(4):
        similarities = np.random.default_rng(seed).normal(size=(60, 5))
        similarities[:, 0] += 1.0  # one class is similar to most
        if ties:
            similarities = similarities.round()
        k = k if np.ndim(k) == 0 else np.array(k)
        labels = top_k_pseudo_labels(similarities, k, similarities, mismatched=range(5))
        assert labels.tolist() == pair_by_pair(similarities, k)


def test_pairs_that_are_looked_at_in_parts_are_looked_at_in_order(monkeypatch):
    similarities = np.random.default_rng(0).normal(size=(60, 5)).round(1)
    monkeypatch.setattr(pseudolabels, "_PAIRS", 7)
    labels = top_k_pseudo_labels(similarities, 9, similarities, mismatched=range(5))
    assert labels.tolist() == pair_by_pair(similarities, 9)
