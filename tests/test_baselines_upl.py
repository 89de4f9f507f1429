"""UPL: which images stand for each class."""

from peer_problems import fields_of

from capkit.baselines.upl import SurestPredictions

PROBABILITIES = [
    [0.7, 0.2, 0.1],
    [0.9, 0.06, 0.04],
    [0.8, 0.1, 0.1],
    [0.2, 0.5, 0.3],
    [0.45, 0.15, 0.4],
]


def choose(k, labels=None, seen=()):
    training = SurestPredictions(**fields_of(PROBABILITIES, labels, seen), top_k=k)
    return training.start().main_labels.tolist()


def test_the_surest_of_the_images_predicted_as_a_class_are_taken():
    assert choose(2) == [-1, 0, 0, 1, -1]
    assert choose(9) == [0, 0, 0, 1, 0]


def test_a_class_that_nothing_is_predicted_as_has_none():
    assert 2 not in choose(9)


def test_labeled_images_are_not_pseudolabeled():
    assert choose(1, labels=[-1, 0, -1, 1, -1]) == [-1, -1, 0, -1, -1]


def test_unlabeled_images_go_to_unlabeled_classes_alone_in_trzsl():
    # Over classes 1 and 2: image 2 has a half each, image 4 is class 2's with 0.73.
    labels = [0, 0, -1, -1, -1]
    assert choose(1, labels, seen=[0]) == [-1, -1, -1, 1, 2]
    assert choose(9, labels, seen=[0]) == [-1, -1, 1, 1, 2]
