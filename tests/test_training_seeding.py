"""The global generator is seeded for one thread at a time, and left as it was."""

import threading

import torch

from capkit.training.seeding import seeded


def draw(seed):
    with seeded(seed):
        return torch.rand(3)


def test_a_seed_gives_what_the_generator_gives():
    torch.testing.assert_close(draw(7), torch.rand(3, generator=torch.manual_seed(7)))


def test_the_generator_is_left_as_it_was():
    before = torch.random.get_rng_state()
    draw(7)
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
