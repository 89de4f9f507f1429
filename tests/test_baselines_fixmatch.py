"""FixMatch: what is kept of the weak views, and what stands in for labels that are missing."""

import numpy as np
import pytest
import torch
from peer_problems import epoch_of, fields_of

from capkit.baselines import FixMatchClassifier
from capkit.baselines.fixmatch import ConfidentWeakViews
from capkit.datasets import make_concept_space
from capkit.tuning import AdapterTuning

PROBABILITIES = [
    [0.7, 0.2, 0.1],
    [0.6, 0.3, 0.1],
    [0.2, 0.5, 0.3],
    [0.1, 0.4, 0.5],
    [0.3, 0.3, 0.4],
]


def make(labels=None, seen=(), tau=0.6, top_k=1):
    return ConfidentWeakViews(**fields_of(PROBABILITIES, labels, seen), tau=tau, top_k=top_k)


class TestStandIns:
    def test_without_labels_every_class_has_its_most_probable_images(self):
        assert make().start().main_labels.tolist() == [0, -1, 1, 2, -1]

    def test_a_class_with_labeled_images_has_none(self):
        state = make(labels=[0, -1, 1, -1, -1]).start()
        assert state.main_labels.tolist() == [-1, -1, -1, 2, -1]

    def test_unlabeled_classes_alone_have_them_in_trzsl(self):
        state = make(labels=[0, 0, -1, -1, -1], seen=[0]).start()
        # over classes 1 and 2 alone: 0.625 and 0.375, 0.44 and 0.56, 0.43 and 0.57
        assert state.main_labels.tolist() == [-1, -1, 1, -1, 2]

    def test_none_are_chosen_where_none_are_asked_for(self):
        assert (make(top_k=0).start().main_labels == -1).all()


class TestPseudoLabel:
    def test_confidence_has_to_exceed_tau(self):
        logits = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7]]).log()
        training = make(tau=float(logits.softmax(dim=1)[0, 0]))
        pseudo = training.pseudo_label(logits, torch.arange(2))
        assert pseudo.labels.tolist() == [0, 2]
        assert pseudo.confidence.tolist() == pytest.approx([0.6, 0.7])
        assert pseudo.kept.tolist() == [False, True]

    def test_unseen_classes_alone_share_the_probability(self):
        logits = torch.tensor([[0.6, 0.3, 0.1]]).log()
        pseudo = make(labels=[0, -1, -1, -1, -1], seen=[0]).pseudo_label(logits, torch.tensor([1]))
        assert pseudo.labels.tolist() == [1]
        assert pseudo.confidence.tolist() == pytest.approx([0.75])


def test_strong_views_learn_what_the_weak_ones_say():
    training = make(tau=0.5)
    weak = torch.tensor([[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.1, 0.1, 0.8]]).log()
    outputs = {
        "pseudo": training.pseudo_label(weak, torch.arange(3)),
        "strong": torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]).log(),
        "main": torch.zeros(1, 3),
    }
    losses = training.losses(outputs, {"main": torch.tensor([1])}, torch.full((3, 3), 5.0))
    assert losses["pseudo"].tolist() == pytest.approx([-np.log(0.5), -np.log(0.1)])
    assert losses["main"].tolist() == pytest.approx([np.log(3)])


def test_last_confident_predictions_are_the_pseudolabels():
    training = make()
    state = training.start()
    training.end_epoch(state, epoch_of(None, [0, 4, 4], [0, 1, 2], [0.9, 0.9, 0.7]))
    assert training.pseudo_labels(state).tolist() == [0, -1, -1, -1, 2]
    assert state.history[0]["class_counts"] == [1, 0, 1]
    assert state.history[0]["kept"] == 1.0  # of what was drawn
    training.end_epoch(state, epoch_of(None, [0, 1], [1, 1], [0.5, 0.7]))
    assert training.pseudo_labels(state).tolist() == [-1, 1, -1, -1, 2]
    assert state.history[1]["kept"] == 0.5
    assert state.history[1]["n_main"] == 3


def test_with_nothing_but_strong_views_training_begins_at_the_models_own_predictions():
    """No stand-ins, no labels, and at first no view that is kept."""
    space = make_concept_space(n_images=40, n_classes=4, n_features=16, random_state=0).space
    tuning = AdapterTuning(epochs=2, steps_per_epoch=2, batch_size=8)
    classifier = FixMatchClassifier(tau=1.0, top_k=0, tuning=tuning, random_state=0).fit(space)
    assert [row["loss"] for row in classifier.history_] == [0.0, 0.0]
    np.testing.assert_allclose(classifier.predict_proba(space).sum(axis=1), 1.0)
    order = np.argsort(space.class_names)
    np.testing.assert_allclose(
        classifier.predict_proba(space), space.predict_proba()[:, order], atol=1e-4
    )
