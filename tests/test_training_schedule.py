"""Tests of the learning rate."""

import pytest
import torch

from capkit.training.schedule import Schedule, learning_rate


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


def make_schedule(**changes):
    numbers = {
        "epochs": 4,
        "steps_per_epoch": 2,
        "batch_size": 8,
        "optimizer": "sgd",
        "learning_rate": 0.8,
        "momentum": 0.5,
        "weight_decay": 0.25,
        "warmup_epochs": 2,
    }
    return Schedule(**numbers | changes)


def test_schedule_counts_its_warm_up_in_epochs():
    schedule = make_schedule()
    assert schedule.total_steps == 8
    assert [schedule.rate(step) for step in range(8)] == pytest.approx(
        rates(total_steps=8, warmup_steps=4)
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_optimizer_gets_its_numbers(optimizer):
    arguments = make_schedule(optimizer=optimizer).optimizer_arguments()
    options = {
        name.removeprefix("optimizer__"): value
        for name, value in arguments.items()
        if name != "optimizer"
    }
    made = arguments["optimizer"]([torch.nn.Parameter(torch.zeros(1))], **options)
    group = made.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.8, 0.25)
    assert group.get("momentum", group.get("betas")) in (0.5, (0.5, 0.999))
    assert type(made).__name__.lower() == optimizer
