"""Where in a user's ``checkpoint_dir`` a training keeps its state: each in a folder of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state
from torch import Tensor

from capkit.exceptions import CheckpointError
from capkit.training.checkpoint import CHECKPOINT_NAME, read_fingerprint
from capkit.training.fingerprint import differences, digest_of, plain

__all__ = ["TrainingFolder", "check_folder", "choose_folder", "draw_seed"]


class TrainingFolder(NamedTuple):
    """A training's own folder.

    Attributes
    ----------
    path : Path
        Which may not exist yet.
    seed : int
        Of the training that is there, or is to be.
    known : mapping of str to plain values or Tensor
        What the training depends on, as far as it is known before the fit.
    """

    path: Path
    seed: int
    known: Mapping[str, Any]

    @property
    def is_begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.path / CHECKPOINT_NAME).exists()


def check_folder(checkpoint_dir: str | os.PathLike) -> None:
    """Make a folder, and make sure that it can be written to.

    Parameters
    ----------
    checkpoint_dir : path

    Raises
    ------
    CheckpointError
        If it cannot be.
    """
    try:
        Path(checkpoint_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(checkpoint_dir)) as probe:
            probe.write(b"probe")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise CheckpointError(
            f"checkpoint_dir={os.fspath(checkpoint_dir)!r} could not be written to: {error}. "
            "Nothing has been encoded or trained: make room, or name a folder that can be "
            "written to."
        ) from error


def choose_folder(
    checkpoint_dir: str | os.PathLike,
    known: Mapping[str, Any],
    random_state: int | np.random.RandomState | None,
) -> TrainingFolder:
    """Find the folder of a training that was begun before, or name a new one.

    A folder is named by what is known before the fit. What cannot be compared exactly, as
    features differ in their last bits, is not looked up by its name but compared, so that a
    training is found again; and as it is in the name too, trainings that run at the same time
    have two folders.

    Parameters
    ----------
    checkpoint_dir : path
    known : mapping of str to plain values or Tensor
        What the training depends on, as far as it is known; becomes a part of its fingerprint.
    random_state : int, RandomState instance or None
        None takes the seed of a training that was begun, the last one of several.

    Returns
    -------
    TrainingFolder

    Raises
    ------
    CheckpointError
        If a checkpoint that may be this training's is damaged.
    """
    seed = None if random_state is None else draw_seed(random_state)
    exact = {name: value for name, value in known.items() if not isinstance(value, Tensor)}
    name = digest_of(exact)
    begun: list[tuple[int, Path, int]] = []
    for path in Path(checkpoint_dir).glob(f"{name}-*/{CHECKPOINT_NAME}"):
        found = read_fingerprint(path) or {}
        same = not differences({part: found.get(part) for part in known}, known)
        if same and seed in (None, found.get("seed")):
            begun.append((path.stat().st_mtime_ns, path.parent, found["seed"]))
    if begun:
        _, path, seed = max(begun)
        return TrainingFolder(path, seed, known)
    seed = draw_seed(random_state) if seed is None else seed
    own = digest_of(plain({**known, "seed": seed}))
    return TrainingFolder(Path(checkpoint_dir) / f"{name}-{own}", seed, known)


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Seed of a training.

    Parameters
    ----------
    random_state : int, RandomState instance or None

    Returns
    -------
    int
        The integer itself, or one that is drawn.
    """
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
