"""How many threads numerical libraries use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from threadpoolctl import threadpool_limits

__all__ = ["one_thread"]

# Numbers up to which an array is small: 100,000 features of CLIP ViT-B/32.
_SMALL = 50_000_000


@contextlib.contextmanager
def one_thread(n_numbers: int = 0) -> Iterator[None]:
    """Let numpy, scikit-learn and torch work in one thread, and put it back afterwards.

    Products of small matrices gain nothing from threads, which wait for each other: on a machine
    that does other work as well they take many times as long.

    Parameters
    ----------
    n_numbers : int, default=0
        Size of the arrays that are worked on; where they are large nothing is changed.
    """
    if n_numbers > _SMALL:
        yield
        return
    before = torch.get_num_threads()
    with threadpool_limits(limits=1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
