"""The three streams of a training step: labeled images, main samples, unlabeled images.

Every batch is a pure function of the seed, the epoch and the step, so that there is no sampler
to save: a resumed training draws what the uninterrupted one draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from capkit._seeding import seeded

if TYPE_CHECKING:
    from capkit.training.self_training import SelfTrainingState

__all__ = ["ThreeStreams", "TrainingImages", "epoch_positions"]

# Positions in the seed sequence; each source of randomness has its own.
_LABELED, _MAIN, _UNLABELED, _STRONG_VIEW = range(4)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingImages(Dataset):
    """The images of a training and what is known of them.

    Parameters
    ----------
    inputs : Tensor of shape (n, height, width, 3), uint8, or (n, d), float32
        Pixels for prompt tuning, features for adapter tuning.
    labels : ndarray of shape (n,), int64
        Class of each labeled image, -1 where unlabeled.
    """

    inputs: Tensor
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, indices: np.ndarray) -> Tensor:
        """Inputs of some images; pixels as the module takes them, (B, 3, height, width)."""
        chosen = self.inputs[torch.from_numpy(indices)]
        return chosen.permute(0, 3, 1, 2) if chosen.ndim == 4 else chosen

    @property
    def labeled(self) -> np.ndarray:
        """Indices of the labeled images."""
        return np.flatnonzero(self.labels >= 0)

    @property
    def unlabeled(self) -> np.ndarray:
        """Indices of the unlabeled images."""
        return np.flatnonzero(self.labels < 0)


def epoch_positions(n: int, steps: int, batch_size: int, key: tuple[int, ...]) -> np.ndarray:
    """Positions that a stream of `n` items gives at every step of an epoch.

    The stream is one random permutation after the other, so every item comes equally often, and
    a stream shorter than a batch repeats.

    Parameters
    ----------
    n : int
        Number of items, at least 1.
    steps : int
        Steps of the epoch.
    batch_size : int
    key : tuple of int
        Seed of this stream in this epoch.

    Returns
    -------
    ndarray of shape (steps, batch_size), dtype int64
    """
    generator = np.random.default_rng(key)
    length = steps * batch_size
    permutations = [generator.permutation(n) for _ in range(-(-length // n))]
    return np.concatenate(permutations)[:length].reshape(steps, batch_size)


class ThreeStreams:
    """Batches of one epoch; skorch's ``iterator_train``.

    A batch is ``(inputs, targets)``, two dictionaries. ``inputs`` has the keyword arguments of
    :class:`~capkit.training.module.DualAdapterModule`: ``weak``, ``strong``, the indices of the
    unlabeled images of these two views as ``unlabeled``, where they are drawn, and, where there
    are such images, ``main`` and ``labeled``. ``targets`` has what these two learn, and
    ``unlabeled`` again.

    Parameters
    ----------
    images : TrainingImages
    batch_size : int
        Images of each stream in a step, over all processes.
    steps : int
        Steps of an epoch.
    seed : int
    state : SelfTrainingState
        Gives the epoch and the main samples.
    strong_view : callable
        From the positions (B,) of images to a Tensor of their strong views; draws from torch's
        global generator.
    views : tuple of str, default=("weak", "strong")
        Views of unlabeled images to draw.
    rank : int, default=0
        Number of this process among `n_processes`, each of which gets an equal part of every
        batch: the parts in the order of the processes make the batch of a single one.
    n_processes : int, default=1
    """

    def __init__(
        self,
        images: TrainingImages,
        *,
        batch_size: int,
        steps: int,
        seed: int,
        state: SelfTrainingState,
        strong_view: Callable[[np.ndarray], Tensor],
        views: tuple[str, ...] = ("weak", "strong"),
        rank: int = 0,
        n_processes: int = 1,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.state = state
        self.strong_view = strong_view
        self.views = views
        part = batch_size // n_processes
        self.part = slice(rank * part, (rank + 1) * part)
        self.labeled = images.labeled
        self.unlabeled = images.unlabeled

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        epoch = self.state.epoch
        unlabeled = self._draw(self.unlabeled, epoch, _UNLABELED)
        main = self._draw(np.flatnonzero(self.state.main_labels >= 0), epoch, _MAIN)
        labeled = self._draw(self.labeled, epoch, _LABELED)
        for step in range(self.steps):
            inputs: dict[str, Tensor] = {}
            targets: dict[str, np.ndarray] = {}
            if "weak" in self.views:
                weak = unlabeled[step, self.part]
                inputs["weak"] = self.images[weak]
                inputs["unlabeled"] = torch.from_numpy(weak)
                targets["unlabeled"] = weak
            if "strong" in self.views:
                inputs["strong"] = self._strong(unlabeled[step], epoch, step)
            if main.size:
                rows = main[step, self.part]
                inputs["main"] = self.images[rows]
                targets["main"] = self.state.main_targets(rows)
            if labeled.size:
                rows = labeled[step, self.part]
                inputs["labeled"] = self.images[rows]
                targets["labeled"] = self.images.labels[rows]
            yield inputs, {name: torch.from_numpy(values) for name, values in targets.items()}

    def _draw(self, images: np.ndarray, epoch: int, stream: int) -> np.ndarray:
        if not len(images):
            return images
        key = (self.seed, epoch, stream)
        return images[epoch_positions(len(images), self.steps, self.batch_size, key)]

    def _strong(self, unlabeled: np.ndarray, epoch: int, step: int) -> Tensor:
        # Each process draws the views of the whole batch and keeps its part of them: the views
        # do not depend on how many processes there are.
        key = [self.seed, epoch, step, _STRONG_VIEW]
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        with seeded(seed):
            return self.strong_view(unlabeled)[self.part]
