"""Which images train, with which labels: CAPSelfTraining on numbers worked out by hand."""

import dataclasses

import numpy as np
import pytest
import torch

from capkit import MarginCalibrator
from capkit.pseudolabels import main_sample_target
from capkit.training.self_training import (
    CAPSelfTraining,
    EpochPredictions,
    SelfTraining,
    SelfTrainingState,
)

NONE = np.empty(0, dtype=np.int64)
# Six images of unit length; the angle to the class's axis grows from image to image.
ANGLES = np.deg2rad([0, 10, 20, 70, 80, 90])
IMAGES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)
TEXTS = np.eye(2, dtype=np.float32)


def make(**changes):
    fields = {
        "image_features": IMAGES,
        "text_features": TEXTS,
        "logit_scale": 10.0,
        "labels": np.full(6, -1),
        "seen": NONE,
        "aligned": NONE,
        "tau": 0.8,
        "calibrator": MarginCalibrator(m=6.0, tau=0.8),
        "top_k": 2,
        "epochs": 10,
        "renew_every": 2,
        "ramp_fraction": 0.5,
        "max_share": 1.0,
        "max_per_class": 1000,
    }
    return CAPSelfTraining(**fields | changes)


def epoch_of(labels, confidence, indices=None, **changes):
    indices = np.arange(len(labels)) if indices is None else np.array(indices)
    losses = changes.pop("losses", {"main": 0.5, "pseudo": 0.25})
    confidence = np.array(confidence, dtype=np.float32)
    return EpochPredictions(indices, np.array(labels), confidence, losses, learning_rate=0.01)


class TestStart:
    def test_each_class_takes_its_most_confident_images(self):
        assert make().start().main_labels.tolist() == [0, 0, -1, -1, 1, 1]

    def test_an_aligned_class_takes_the_most_similar_images_whatever_they_are_predicted_as(self):
        texts = np.array([[1.0, 0.0], [0.8, 0.6]], dtype=np.float32)  # class 1 at 37 degrees
        start = make(text_features=texts, aligned=np.array([1]), top_k=3).start()
        # nearest to 37 degrees are 20, 10 and 70 degrees; of class 0's own only image 0 is left
        assert start.main_labels.tolist() == [0, 1, 1, 1, -1, -1]

    def test_labeled_images_and_seen_classes_are_left_out(self):
        labels = np.array([0, -1, -1, -1, -1, -1])
        start = make(labels=labels, seen=np.array([0])).start()
        assert start.main_labels[0] == -1
        assert set(start.main_labels[1:]) == {1, -1}

    def test_first_margin_is_zero_and_nothing_is_predicted_yet(self):
        start = make().start()
        assert not start.margin_matrix.any()
        assert (start.pseudo_labels == -1).all()
        assert (start.epoch, start.history) == (0, [])


class TestPseudoLabel:
    def test_confidence_has_to_exceed_tau(self):
        logits = torch.tensor([[0.8, 0.2], [0.1, 0.9]]).log()
        training = make(tau=float(logits.softmax(dim=1)[0, 0]))
        pseudo = training.pseudo_label(logits, torch.arange(2))
        assert pseudo.labels.tolist() == [0, 1]
        assert pseudo.confidence.tolist() == pytest.approx([0.8, 0.9])
        assert pseudo.kept.tolist() == [False, True]

    def test_unseen_classes_alone_share_the_probability(self):
        texts = np.eye(4, dtype=np.float32)
        training = make(text_features=texts, seen=np.array([0, 2]), tau=0.7)
        logits = torch.tensor([[0.6, 0.3, 0.0, 0.1]]).log()
        pseudo = training.pseudo_label(logits, torch.tensor([0]))
        assert pseudo.labels.tolist() == [1]
        assert pseudo.confidence.tolist() == pytest.approx([0.75])
        assert pseudo.kept.tolist() == [True]


class TestLosses:
    def outputs(self):
        weak = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.05, 0.95]]).log()
        return {
            "pseudo": make().pseudo_label(weak, torch.arange(3)),
            "main": torch.zeros(2, 2),
            "strong": torch.zeros(2, 2),
        }

    def test_every_stream_has_the_margin_of_its_targets(self):
        margin = torch.tensor([[0.0, np.log(3.0)], [0.0, 0.0]])
        outputs = self.outputs() | {"labeled": torch.zeros(1, 2)}
        targets = {"main": torch.tensor([0, 1]), "labeled": torch.tensor([0])}
        losses = make().losses(outputs, targets, margin)
        # class 0: log(1 + 3), class 1: log(1 + 1); the strong views are of classes 0 and 1
        assert losses["main"].tolist() == pytest.approx([np.log(4), np.log(2)])
        assert losses["labeled"].tolist() == pytest.approx([np.log(4)])
        assert losses["pseudo"].tolist() == pytest.approx([np.log(4), np.log(2)])

    def test_streams_that_are_not_there_have_none(self):
        losses = make().losses(self.outputs(), {"main": torch.tensor([0, 1])}, torch.zeros(2, 2))
        assert set(losses) == {"main", "pseudo"}


class TestEndOfEpoch:
    def test_history_has_the_numbers_of_the_epoch(self):
        training = make(seen=NONE)
        state = training.start()
        state.margin_matrix = np.array([[9.0, 1.0], [3.0, 9.0]], dtype=np.float32)
        training.end_epoch(state, epoch_of([0, 0, 1, 1], [0.9, 0.7, 0.95, 0.85]))
        assert state.history == [
            {
                "epoch": 1,
                "loss": 0.75,
                "main_loss": 0.5,
                "pseudo_loss": 0.25,
                "learning_rate": 0.01,
                "kept": 0.75,
                "class_counts": [1, 2],
                "class_balance": pytest.approx(0.9183, abs=1e-4),
                "n_main": 4,
                "margin_mean": 2.0,
                "margin_max": 3.0,
            }
        ]
        assert state.epoch == 1

    def test_the_last_prediction_of_an_image_counts(self):
        training = make()
        state = training.start()
        training.end_epoch(state, epoch_of([0, 1, 1], [0.9, 0.95, 0.85], indices=[3, 3, 5]))
        assert state.pseudo_labels.tolist() == [-1, -1, -1, 1, -1, 1]
        assert state.confidence[[3, 5]].tolist() == pytest.approx([0.95, 0.85])
        assert state.history[0]["class_counts"] == [0, 2]
        assert state.history[0]["kept"] == 1.0  # of what was drawn

    def test_predictions_of_earlier_epochs_are_kept_but_set_no_margin(self):
        training = make(renew_every=None)
        state = training.start()
        training.end_epoch(state, epoch_of([0, 0, 0, 1], [0.9] * 4))
        first = state.margin_matrix
        assert first[1, 1] == pytest.approx(6 * (1 - 1 / 3) ** 2)
        training.end_epoch(state, epoch_of([1, 1], [0.9, 0.9], indices=[4, 5]))
        assert state.pseudo_labels.tolist() == [0, 0, 0, 1, 1, 1]
        # class 0 was not predicted in this epoch at all, so it now has the whole margin
        assert state.margin_matrix[0, 0] == pytest.approx(6.0)
        assert not state.margin_matrix[1].any()

    def test_seen_classes_get_no_margin(self):
        training = make(seen=np.array([0]), labels=np.array([0, -1, -1, -1, -1, -1]))
        state = training.start()
        training.end_epoch(state, epoch_of([1, 1], [0.9, 0.9], indices=[4, 5]))
        assert not state.margin_matrix[0].any()

    @pytest.mark.parametrize(("renew_every", "renewed_after"), [(2, {2, 4}), (None, set())])
    def test_main_samples_are_renewed_every_few_epochs(self, renew_every, renewed_after):
        training = make(renew_every=renew_every)
        state = training.start()
        for epoch in (1, 2, 3, 4):
            before = state.main_labels
            labels = [1, 1, 1, 0, 0, 0] if epoch == 2 else [0, 0, 0, 1, 1, 1]
            training.end_epoch(state, epoch_of(labels, [0.9] * 6))
            changed = not np.array_equal(before, state.main_labels)
            assert changed == (epoch in renewed_after)

    def test_most_confident_images_of_a_class_are_its_main_samples(self):
        training = make(renew_every=1, epochs=100, top_k=1)
        state = training.start()
        training.end_epoch(state, epoch_of([0, 0, 0, 1, 1, 1], [0.6, 0.9, 0.7, 0.8, 0.85, 0.5]))
        assert state.main_labels.tolist() == [-1, 0, -1, -1, 1, -1]

    def test_number_of_main_samples_is_of_unseen_classes_and_unlabeled_images(self):
        labels = np.array([0, 0, -1, -1, -1, -1])
        training = make(labels=labels, seen=np.array([0]), renew_every=1, epochs=2, top_k=1)
        state = training.start()
        training.end_epoch(state, epoch_of([1] * 4, [0.9] * 4, indices=[2, 3, 4, 5]))
        target = main_sample_target(
            1, 2, 1, n_unlabeled=4, n_classes=1, ramp_fraction=0.5, max_share=1.0
        )
        assert target == 4
        assert (state.main_labels == 1).sum() == target

    def test_the_limits_of_the_renewal_are_kept(self):
        for changes, expected in (({}, 6), ({"max_share": 0.5}, 3), ({"max_per_class": 2}, 2)):
            numbers = {"top_k": 1, "renew_every": 5, "text_features": TEXTS}
            training = make(**numbers | changes, labels=np.full(12, -1))
            training = dataclasses.replace(training, image_features=np.tile(IMAGES, (2, 1)))
            state = training.start()
            state.epoch = 4  # after the fifth of ten epochs the ramp is over
            training.end_epoch(state, epoch_of([0] * 12, [0.9] * 12))
            assert (state.main_labels == 0).sum() == expected


def test_another_method_is_a_short_subclass():
    """Candidate labels in place of one: what a training asks is enough to say it."""

    @dataclasses.dataclass(eq=False)
    class Candidates(SelfTrainingState):
        sets: np.ndarray | None = None

        def main_targets(self, indices):
            return self.sets[indices]

    class Partial(CAPSelfTraining):
        def start(self):
            fields = dataclasses.asdict(super().start())
            return Candidates(**fields, sets=np.array([[1.0, 1.0], [1.0, 0.0]])[[0, 1] * 3])

        def losses(self, outputs, targets, margin):
            inside = (outputs["main"].softmax(dim=1) * targets["main"]).sum(dim=1)
            return {"main": -inside.log()}

    training = Partial(**{f.name: getattr(make(), f.name) for f in dataclasses.fields(make())})
    state = training.start()
    targets = {"main": torch.from_numpy(state.main_targets(np.array([0, 1])))}
    losses = training.losses({"main": torch.zeros(2, 2)}, targets, torch.zeros(2, 2))
    assert losses["main"].tolist() == pytest.approx([0.0, np.log(2)])


def test_the_interface_cannot_be_used_half_filled_in():
    with pytest.raises(TypeError, match="abstract"):
        SelfTraining()
