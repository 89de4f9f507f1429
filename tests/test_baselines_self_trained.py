"""What the peers that train have in common, on numbers worked out by hand."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from peer_problems import draw_probabilities, epoch_of, fields_of

from capkit.baselines._self_trained import (
    PeerSelfTraining,
    begins_round,
    round_of_epoch,
    top_k_of_each_class,
)
from capkit.training.self_training import SelfTrainingState


@dataclasses.dataclass(frozen=True, eq=False)
class Given(PeerSelfTraining):
    """Main samples that a test gives."""

    main_labels: np.ndarray

    def start(self):
        return SelfTrainingState.before_training(self.main_labels, len(self.text_features))


def offer_by_offer(probabilities, k):
    """Stable matching by deferred acceptance: each class asks down its list, images may change."""
    n_images, n_classes = probabilities.shape
    lists = [sorted(range(n_images), key=lambda i: -probabilities[i, c]) for c in range(n_classes)]
    holder = np.full(n_images, -1)
    asking = [c for c in range(n_classes) for _ in range(k)]
    while asking:
        c = asking.pop()
        if not lists[c]:
            continue
        image = lists[c].pop(0)
        held_by = holder[image]
        if held_by < 0 or probabilities[image, c] > probabilities[image, held_by]:
            holder[image] = c
            asking += [held_by] if held_by >= 0 else []
        else:
            asking.append(c)
    return holder


class TestTopKOfEachClass:
    def test_an_image_is_taken_whatever_it_is_predicted_as(self):
        probabilities = np.array([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1]])
        assert top_k_of_each_class(probabilities, 1).tolist() == [1, -1, 0]

    def test_a_contested_image_goes_to_the_more_probable_class(self):
        # Classes 0 and 1 want image 0, the former more; classes 1 and 2 then want image 1.
        probabilities = np.array([[0.5, 0.45, 0.05], [0.1, 0.3, 0.6], [0.48, 0.22, 0.3]])
        assert top_k_of_each_class(probabilities, 1).tolist() == [0, 2, 1]

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("k", [1, 3, 7, 10])
    def test_is_the_stable_matching(self, seed, k):
        probabilities = draw_probabilities(30, 4, seed)
        chosen = top_k_of_each_class(probabilities, k)
        np.testing.assert_array_equal(chosen, offer_by_offer(probabilities, k))
        if 4 * k <= 30:
            assert np.bincount(chosen[chosen >= 0]).tolist() == [k] * 4
        else:
            assert (chosen >= 0).all()


class TestRounds:
    @pytest.mark.parametrize(
        ("epochs", "rounds", "expected"),
        [
            (6, 3, [1, 1, 2, 2, 3, 3]),
            (5, 2, [1, 1, 1, 2, 2]),
            (3, 1, [1, 1, 1]),
            (4, 4, [1, 2, 3, 4]),
            (2, 4, [1, 3]),  # rounds that have no epoch are passed over
        ],
    )
    def test_are_equally_long(self, epochs, rounds, expected):
        numbers = [round_of_epoch(epoch, epochs, rounds) for epoch in range(epochs)]
        assert numbers == expected
        begins = [begins_round(epoch, epochs, rounds) for epoch in range(1, epochs + 1)]
        changes = [before != after for before, after in pairwise(numbers)]
        assert begins == [*changes, False]  # nothing begins behind the last epoch


class TestPeerSelfTraining:
    labels, main = [0, -1, -1, 2], np.array([-1, 1, -1, -1])

    def make(self, **changes):
        probabilities = [[0.2, 0.2, 0.6], [0.5, 0.25, 0.25], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]]
        return Given(**fields_of(probabilities, self.labels, **changes), main_labels=self.main)

    def test_probabilities_are_of_unlabeled_images(self):
        training = self.make()
        found = training.probabilities(training.zero_shot_logits())
        np.testing.assert_allclose(found, [[0.5, 0.25, 0.25], [0.1, 0.6, 0.3]])

    def test_unseen_classes_alone_share_the_probability(self):
        training = self.make(seen=[0])
        found = training.probabilities(training.zero_shot_logits())
        np.testing.assert_allclose(found, [[0.5, 0.5], [2 / 3, 1 / 3]])
        assert training.for_all_images(np.array([1, -1])).tolist() == [-1, 2, -1, -1]

    def test_losses_are_plain_cross_entropies(self):
        outputs = {
            "labeled": torch.tensor([[0.5, 0.25, 0.25]]).log(),
            "main": torch.tensor([[0.1, 0.6, 0.3], [0.8, 0.1, 0.1]]).log(),
        }
        targets = {"labeled": torch.tensor([1]), "main": torch.tensor([1, 0])}
        margin = torch.full((3, 3), 5.0)
        losses = self.make().losses(outputs, targets, margin)
        assert losses["labeled"].tolist() == pytest.approx([-np.log(0.25)])
        assert losses["main"].tolist() == pytest.approx([-np.log(0.6), -np.log(0.8)])
        assert set(self.make().losses({"main": outputs["main"]}, targets, margin)) == {"main"}

    def test_history_has_the_numbers_of_the_epoch_and_main_samples_stay(self):
        training = self.make()
        state = training.start()
        training.end_epoch(state, epoch_of())
        assert state.history == [
            {
                "epoch": 1,
                "loss": 0.5,
                "main_loss": 0.5,
                "learning_rate": 0.01,
                "class_counts": [0, 1, 0],
                "class_balance": 0.0,
                "n_main": 1,
            }
        ]
        assert state.epoch == 1
        np.testing.assert_array_equal(state.main_labels, self.main)

    def test_no_view_is_drawn_and_no_image_predicted_anew(self):
        training = self.make()
        assert training.views == ()
        assert not any(training.wants_logits(epoch) for epoch in range(1, 5))
