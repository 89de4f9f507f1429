"""CPL: candidate labels and their loss, on numbers worked out by hand."""

import numpy as np
import pytest
import torch
from peer_problems import draw_probabilities, epoch_of, fields_of

from capkit.baselines.cpl import CandidatePseudolabels, candidate_labels, candidate_loss

PROBABILITIES = np.array(
    [
        [0.80, 0.15, 0.05],
        [0.50, 0.30, 0.20],
        [0.20, 0.45, 0.35],
        [0.34, 0.33, 0.33],
    ]
)


def naive_candidates(probabilities, intra_quantile, inter_share):
    """Image by image and class by class."""
    n_images, n_classes = probabilities.shape
    threshold = np.quantile([max(row) for row in probabilities], intra_quantile)
    taken = min(n_images, max(1, round(inter_share * n_images / n_classes)))
    found = np.zeros(probabilities.shape, dtype=bool)
    for i, row in enumerate(probabilities):
        total = 0.0
        for c in sorted(range(n_classes), key=lambda c: -row[c]):
            rank = sum(probabilities[:, c] > row[c])
            found[i, c] = total < threshold and rank < taken
            total += row[c]
    return found


class TestCandidateLabels:
    def test_an_image_chooses_classes_up_to_the_quantile_of_all_confidences(self):
        # Largest probabilities 0.34, 0.45, 0.5 and 0.8: their middle is 0.475.
        expected = [[1, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 0]]
        assert candidate_labels(PROBABILITIES, 0.5, 3.0).astype(int).tolist() == expected

    def test_a_class_chooses_the_images_that_it_is_most_probable_for(self):
        # Two images of each class: 0 and 1, 2 and 3, 2 and 3.
        expected = [[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, 0]]
        assert candidate_labels(PROBABILITIES, 0.5, 1.5).astype(int).tolist() == expected

    def test_an_image_that_no_class_chooses_has_none(self):
        found = candidate_labels(PROBABILITIES, 0.0, 0.75)  # one image of each class
        assert found.astype(int).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(("intra", "inter"), [(0.0, 0.1), (0.6, 0.5), (0.9, 2.0), (1.0, 9.0)])
    def test_is_what_image_and_class_both_choose(self, seed, intra, inter):
        probabilities = draw_probabilities(20, 4, seed)
        found = candidate_labels(probabilities, intra, inter)
        np.testing.assert_array_equal(found, naive_candidates(probabilities, intra, inter))

    def test_the_surest_image_always_has_a_candidate(self):
        probabilities = draw_probabilities(20, 4, seed=0)
        image = probabilities.max(axis=1).argmax()
        assert candidate_labels(probabilities, 0.0, 1e-6)[image].sum() == 1

    def test_an_image_at_the_threshold_itself_is_sure(self):
        """Whatever is lost in rounding when probabilities are added up."""
        generator = np.random.default_rng(0)
        for _ in range(50):
            probabilities = generator.dirichlet(np.ones(5), size=1).astype(np.float32)
            assert candidate_labels(probabilities, 1.0, 5.0).sum() == 1


def test_loss_is_that_of_any_candidate_being_right():
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log() + 7.0
    candidates = torch.tensor([[True, False, True], [False, True, False]])
    expected = [-np.log(0.5 + 0.2), -np.log(0.1)]
    assert candidate_loss(logits, candidates).tolist() == pytest.approx(expected, rel=1e-5)
    everything = torch.ones(2, 3, dtype=torch.bool)
    assert candidate_loss(logits, everything).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_loss_has_a_finite_gradient():
    logits = torch.zeros(1, 3, requires_grad=True)
    candidate_loss(logits, torch.tensor([[True, True, False]])).sum().backward()
    # p - q with q the probabilities among the candidates
    assert logits.grad[0].tolist() == pytest.approx([1 / 3 - 1 / 2, 1 / 3 - 1 / 2, 1 / 3])


def make(labels=None, seen=(), **changes):
    numbers = {"rounds": 2, "intra_quantile": 0.5, "inter_share": 1.5} | changes
    return CandidatePseudolabels(**fields_of(PROBABILITIES, labels, seen), **numbers)


class TestTraining:
    def test_an_image_with_candidates_trains_and_its_likeliest_one_is_its_label(self):
        state = make(intra_quantile=0.0, inter_share=0.75).start()
        assert state.main_labels.tolist() == [0, -1, 1, -1]
        state = make().start()
        assert state.main_labels.tolist() == [0, 0, 1, 1]
        expected = [[False, True, True], [False, True, False]]
        assert state.main_targets(np.array([2, 3])).tolist() == expected

    def test_labeled_images_and_seen_classes_have_no_candidates(self):
        state = make(labels=[0, -1, -1, -1], seen=[0], inter_share=9.0).start()
        assert not state.candidates[0].any()
        assert not state.candidates[:, 0].any()
        # over classes 1 and 2 alone the largest are 0.6, 0.5625 and a half: 0.5625 is the middle
        assert state.candidates[1:, 1:].tolist() == [[True, False], [True, False], [True, True]]

    def test_candidates_are_chosen_anew_at_the_end_of_a_round(self):
        training = make()
        state = training.start()
        first = state.candidates
        assert [e for e in range(1, 5) if training.wants_logits(e)] == [2]
        training.end_epoch(state, epoch_of())
        assert state.candidates is first
        training.end_epoch(state, epoch_of(PROBABILITIES[:, [1, 2, 0]]))
        np.testing.assert_array_equal(state.candidates, first[:, [1, 2, 0]])
        assert state.main_labels.tolist() == [2, 2, 0, 0]

    def test_labeled_images_keep_their_cross_entropy(self):
        outputs = {"labeled": torch.tensor([[0.25, 0.75]]).log(), "main": torch.zeros(1, 2)}
        targets = {"labeled": torch.tensor([0]), "main": torch.tensor([[True, True]])}
        losses = make().losses(outputs, targets, torch.zeros(2, 2))
        assert losses["labeled"].tolist() == pytest.approx([-np.log(0.25)])
        assert losses["main"].tolist() == pytest.approx([0.0], abs=1e-6)
