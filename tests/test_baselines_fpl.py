"""FPL: which images stand for each class."""

import numpy as np
from peer_problems import draw_probabilities, epoch_of, fields_of

from capkit.baselines.fpl import FewPseudolabels


def test_every_class_has_exactly_k_images_even_one_that_nothing_is_predicted_as():
    probabilities = draw_probabilities(30, 4, seed=0)
    probabilities[:, 3] = probabilities.min(axis=1) / 2
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    start = FewPseudolabels(**fields_of(probabilities), top_k=5).start()
    assert (probabilities.argmax(axis=1) != 3).all()
    assert np.bincount(start.main_labels[start.main_labels >= 0]).tolist() == [5] * 4
    assert not start.margin_matrix.any()


def test_labeled_images_are_not_pseudolabeled():
    probabilities = [[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6]]
    start = FewPseudolabels(**fields_of(probabilities, [0, -1, 1, -1]), top_k=1).start()
    assert start.main_labels.tolist() == [-1, 0, -1, 1]


def test_unlabeled_images_go_to_unlabeled_classes_alone_in_trzsl():
    # Over classes 1 and 2 alone, image 1 is of class 1 with 0.75 and image 2 with 0.56.
    probabilities = [[0.6, 0.2, 0.2], [0.8, 0.15, 0.05], [0.1, 0.5, 0.4]]
    fields = fields_of(probabilities, [0, -1, -1], seen=[0])
    assert FewPseudolabels(**fields, top_k=1).start().main_labels.tolist() == [-1, 1, 2]


def test_images_are_chosen_once():
    training = FewPseudolabels(**fields_of([[0.9, 0.1], [0.2, 0.8]]), top_k=1)
    state = training.start()
    training.end_epoch(state, epoch_of())
    assert state.main_labels.tolist() == [0, 1]
    assert training.pseudo_labels(state).tolist() == [0, 1]
