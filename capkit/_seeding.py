"""Seeding torch's global generator without a trace."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

__all__ = ["seeded"]

_lock = threading.RLock()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's global generator, and put it back afterwards.

    Transforms and initialisers draw from that generator alone. There is one for all threads, so
    that a search which fits in threads has to take turns.

    Parameters
    ----------
    seed : int
    """
    with _lock, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
