"""The state of a training on disk: written whole or not at all, read without executing code."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from capkit._files import write_atomically
from capkit.exceptions import CheckpointError, CheckpointMismatchError
from capkit.training.fingerprint import differences, plain
from capkit.training.self_training import SelfTrainingState

__all__ = [
    "CHECKPOINT_NAME",
    "read_checkpoint",
    "read_fingerprint",
    "write_checkpoint",
]

#: File in a training's folder.
CHECKPOINT_NAME = "training.pt"

_FORMAT, _SEAL_BYTES = 4, 16
# What torch.load raises at bytes that it did not write.
_DAMAGE = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    UnpicklingError,
    ValueError,
)


def write_checkpoint(
    path: str | os.PathLike,
    state: SelfTrainingState,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    fingerprint: Mapping[str, Any],
) -> None:
    """Write the whole state of a training in one atomic replacement.

    Parameters
    ----------
    path : path
    state : SelfTrainingState
    module : nn.Module
        Only its ``state_dict`` is written.
    optimizer : torch.optim.Optimizer
    fingerprint : mapping of str to plain values or Tensor
        What the training depends on, see :mod:`~capkit.training.fingerprint`; read back and
        compared by :func:`read_checkpoint`.

    Raises
    ------
    CheckpointError
        If the file cannot be written, for instance because the disk is full.
    """
    stream = io.BytesIO()
    content = {
        "format": _FORMAT,
        "fingerprint": dict(fingerprint),
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": {
            field.name: _to_torch(getattr(state, field.name))
            for field in dataclasses.fields(state)
        },
    }
    torch.save(content, stream)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, stream.getvalue() + _seal(stream.getvalue()))
    except OSError as error:
        raise CheckpointError(
            f"the training checkpoint {path} could not be written: {error}. Training stopped, "
            "so that nothing is computed that would be lost: make room or choose another "
            "checkpoint_dir, and fit again to go on from the last epoch that was written."
        ) from error


def read_fingerprint(path: str | os.PathLike) -> dict[str, Any] | None:
    """Fingerprint of the training that wrote a checkpoint; None where there is no file.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict or None

    Raises
    ------
    CheckpointError
        If the file is damaged.
    """
    return _read(path)["fingerprint"] if Path(path).exists() else None


def read_checkpoint(
    path: str | os.PathLike,
    state: SelfTrainingState,
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    fingerprint: Mapping[str, Any],
) -> bool:
    """Bring a training to where a checkpoint left it.

    Parameters
    ----------
    path : path
    state : SelfTrainingState
        Overwritten.
    module : nn.Module
        Its parameters are overwritten.
    optimizer : torch.optim.Optimizer or None
        Its state is overwritten.
    fingerprint : mapping of str to plain values or Tensor
        Must agree with that of the checkpoint.

    Returns
    -------
    bool
        False if there is no checkpoint; nothing is changed then.

    Raises
    ------
    CheckpointMismatchError
        If the checkpoint is of another training; the difference is named.
    CheckpointError
        If the file is damaged, or its training had diverged.
    """
    if not Path(path).exists():
        return False
    content = _read(path)
    _compare(path, content["fingerprint"], fingerprint)
    _check_finite(path, content["module"])
    try:
        module.load_state_dict(content["module"])
        if optimizer is not None:
            optimizer.load_state_dict(content["optimizer"])
        for name, value in content["state"].items():
            setattr(state, name, value.numpy() if isinstance(value, Tensor) else value)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return True


def _to_torch(value: Any) -> Any:
    # numpy's arrays would have to be unpickled, which executes what the file says.
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else plain(value)


def _check_finite(path: str | os.PathLike, weights: Mapping[str, Tensor]) -> None:
    diverged = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if diverged:
        raise CheckpointError(
            f"the training of the checkpoint {path} had diverged: {diverged[0]} is not finite. "
            "Delete it to train from the start, with a lower learning_rate."
        )


def _seal(content: bytes) -> bytes:
    """What stands behind the content of a file, so that no flipped bit passes for a state."""
    return hashlib.blake2b(content, digest_size=_SEAL_BYTES).digest()


def _read(path: str | os.PathLike) -> dict[str, Any]:
    try:
        whole = Path(path).read_bytes()
        sealed, seal = whole[:-_SEAL_BYTES], whole[-_SEAL_BYTES:]
        if _seal(sealed) != seal:
            raise ValueError("its content is not what was written")
        content = torch.load(io.BytesIO(sealed), map_location="cpu", weights_only=True)
        known = content["format"] == _FORMAT
        if known and not {"fingerprint", "module", "optimizer", "state"} <= content.keys():
            raise ValueError(f"it holds {sorted(content)} alone")
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    if not known:
        raise CheckpointError(
            f"{path} was written in format {content['format']}, expected {_FORMAT}: by another "
            "version of capkit. Delete it to train from the start."
        )
    return content


def _damaged(path: str | os.PathLike, reason: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a training checkpoint of capkit, or is damaged ({reason!s:.200}). "
        "Delete it to train from the start."
    )


def _compare(
    path: str | os.PathLike, found: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    different = differences(found, expected)
    if different:
        said = "; ".join(f"{name} ({difference})" for name, difference in different.items())
        raise CheckpointMismatchError(
            f"the checkpoint {path} belongs to another training. Different: {said}. Use another "
            "checkpoint_dir, or delete the file to train from the start."
        )
