"""Tests of the learning rate."""

import pytest

from capkit.training.schedule import learning_rate


def rates(total_steps, warmup_steps, base=0.8):
    return [
        learning_rate(step, base=base, total_steps=total_steps, warmup_steps=warmup_steps)
        for step in range(total_steps)
    ]


def test_warms_up_linearly_and_falls_on_a_cosine():
    # cosine at 0, 1/4, 1/2, 3/4 of the way down: (1 + cos(pi x)) / 2
    expected = [0.2, 0.4, 0.6, 0.8, 0.8, 0.682842712, 0.4, 0.117157288]
    assert rates(total_steps=8, warmup_steps=4) == pytest.approx(expected)


def test_without_warm_up_it_starts_at_the_base():
    assert rates(total_steps=2, warmup_steps=0) == pytest.approx([0.8, 0.4])


def test_a_warm_up_longer_than_the_training_is_cut():
    assert rates(total_steps=2, warmup_steps=50) == pytest.approx([0.4, 0.8])
