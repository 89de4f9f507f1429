"""GRIP: how many images, by which model, in each round."""

import numpy as np
import pytest
from peer_problems import draw_probabilities, epoch_of, fields_of

from capkit.baselines.grip import GrowingPseudolabels


def make(n_images=24, n_classes=3, rounds=4, epochs=8, **changes):
    probabilities = draw_probabilities(n_images, n_classes, seed=0)
    return GrowingPseudolabels(**fields_of(probabilities, epochs=epochs, **changes), rounds=rounds)


def run(training, predictions=None):
    """Main samples of each round, with these predictions at the end of every one."""
    state = training.start()
    chosen = [state.main_labels]
    for epoch in range(1, training.epochs + 1):
        wanted = training.wants_logits(epoch)
        if wanted and predictions is None:
            predictions = draw_probabilities(len(training.labels), len(training.classes), seed=1)
        training.end_epoch(state, epoch_of(predictions if wanted else None))
        if wanted:
            chosen.append(state.main_labels)
    return chosen


def counts_of(chosen):
    return [np.bincount(labels[labels >= 0], minlength=3).tolist() for labels in chosen]


def test_a_round_takes_its_share_of_the_images_of_each_class():
    # 24 images, 3 classes, 4 rounds: 2, 4, 6 and 8 of each class
    assert counts_of(run(make())) == [[2] * 3, [4] * 3, [6] * 3, [8] * 3]


@pytest.mark.parametrize("n_images", [23, 25, 5])
def test_every_image_is_taken_in_the_last_round_also_where_shares_are_uneven(n_images):
    *_, last = run(make(n_images=n_images))
    assert (last >= 0).all()
    counts = np.bincount(last, minlength=3)
    assert counts.max() == -(-n_images // 3)


def test_every_class_has_an_image_in_the_first_round_however_few_there_are():
    first, *_ = run(make(n_images=6, rounds=6, epochs=6))
    assert counts_of([first]) == [[1] * 3]


def test_the_first_round_is_chosen_by_zero_shot_and_others_by_the_model_as_it_is():
    training = make(n_images=4, n_classes=2, rounds=2, epochs=2)
    turned = training.image_features[:, ::-1]
    first, second = run(training, np.exp(turned))
    third = training.start().main_labels  # a start is always the same
    np.testing.assert_array_equal(first, third)
    zero_shot, _ = run(training, np.exp(training.image_features))
    np.testing.assert_array_equal(zero_shot, first)
    taken = first >= 0
    assert taken.sum() == 2
    np.testing.assert_array_equal(second[taken], 1 - first[taken])


def test_rounds_begin_evenly_and_none_behind_the_last_epoch():
    training = make()
    assert [e for e in range(1, 9) if training.wants_logits(e)] == [2, 4, 6]


def test_labeled_images_and_seen_classes_are_left_out():
    labels = [0] * 4 + [-1] * 20
    training = make(labels=labels, seen=[0])
    predictions = draw_probabilities(24, 3, seed=2)
    # 20 images, 2 classes, 4 rounds: 2.5, 5, 7.5 and 10 of each class
    chosen = run(training, predictions)
    assert counts_of(chosen) == [[0, 3, 3], [0, 5, 5], [0, 8, 8], [0, 10, 10]]
    assert all((labels[:4] == -1).all() for labels in chosen)
