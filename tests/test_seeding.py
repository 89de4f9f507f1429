"""The global generator is seeded for one thread at a time, and left as it was."""

import threading

import numpy as np
import pytest
import torch

from capkit import CAPClassifier
from capkit._seeding import seeded
from capkit.backbones import registry
from capkit.tuning import AdapterTuning, PromptTuning


def draw(seed):
    with seeded(seed):
        return torch.rand(3)


def test_a_seed_gives_what_the_generator_gives():
    torch.testing.assert_close(draw(7), torch.rand(3, generator=torch.manual_seed(7)))


def test_the_generator_is_left_as_it_was():
    before = torch.random.get_rng_state()
    draw(7)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("tuning", [AdapterTuning, PromptTuning])
def test_a_fit_and_a_prediction_leave_the_generator_as_it_was(
    tuning, random_backbone, monkeypatch
):
    monkeypatch.setattr(registry, "_loaded", {})  # loading a backbone is a part of it
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    classifier = CAPClassifier(
        backbone=random_backbone,
        tuning=tuning(epochs=1, steps_per_epoch=2, batch_size=4),
        pseudo_labels="zero_shot",
    )
    before = torch.random.get_rng_state()
    classifier.fit(images, class_names=["ring", "bar", "cross"]).predict(images)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_other_threads_wait():
    other = threading.Thread(target=draw, args=(8,))
    with seeded(7):
        other.start()
        other.join(timeout=0.1)
        assert other.is_alive()
        drawn = torch.rand(3)
    other.join()
    assert torch.equal(drawn, draw(7))
