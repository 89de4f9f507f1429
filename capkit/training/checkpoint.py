"""The state of a training on disk: written whole or not at all, read without executing code."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import nn

from capkit._files import write_atomically
from capkit.exceptions import CheckpointError, CheckpointMismatchError
from capkit.training.self_training import SelfTrainingState

__all__ = [
    "CHECKPOINT_NAME",
    "digest",
    "plain",
    "read_checkpoint",
    "read_fingerprint",
    "write_checkpoint",
]

#: File in the user's ``checkpoint_dir``.
CHECKPOINT_NAME = "training.pt"

_FORMAT, _SEAL_BYTES = 3, 16
# What torch.load raises at bytes that it did not write.
_DAMAGE = (RuntimeError, OSError, LookupError, ValueError, TypeError, EOFError, UnpicklingError)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


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
    fingerprint : mapping of str to plain values
        What the training depends on, see :func:`plain`; read back and compared by
        :func:`read_checkpoint`.

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
    fingerprint : mapping of str to plain values
        Must equal that of the checkpoint.

    Returns
    -------
    bool
        False if there is no checkpoint; nothing is changed then.

    Raises
    ------
    CheckpointMismatchError
        If the checkpoint is of another training; the difference is named.
    CheckpointError
        If the file is damaged.
    """
    if not Path(path).exists():
        return False
    content = _read(path)
    _compare(path, content["fingerprint"], fingerprint)
    module.load_state_dict(content["module"])
    if optimizer is not None:
        optimizer.load_state_dict(content["optimizer"])
    for name, value in content["state"].items():
        setattr(state, name, value.numpy() if isinstance(value, torch.Tensor) else value)
    return True


def plain(value: Any) -> Any:
    """Turn a parameter into what JSON and a checkpoint can hold and two runs can compare.

    Parameters
    ----------
    value : object

    Returns
    -------
    None, bool, int, float, str, list or dict
        Of a function its full name, of any other object its ``repr`` without its address.

    Examples
    --------
    >>> import numpy as np
    >>> plain({"tau": np.float64(0.5), "betas": (0.9, 0.999), "view": len})
    {'tau': 0.5, 'betas': [0.9, 0.999], 'view': 'builtins.len'}
    """
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return _ADDRESS.sub("", repr(value))


def digest(array: np.ndarray) -> str:
    """Hash of an array's content.

    Parameters
    ----------
    array : ndarray

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    content = np.ascontiguousarray(array)
    return hashlib.blake2b(content.data, digest_size=16).hexdigest()


def _to_torch(value: Any) -> Any:
    # numpy's arrays would have to be unpickled, which executes what the file says.
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else plain(value)


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
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path} is not a training checkpoint of capkit, or is damaged ({error!s:.200}). "
            "Delete it to train from the start."
        ) from error
    if not known:
        raise CheckpointError(
            f"{path} was written in format {content['format']}, expected {_FORMAT}: by another "
            "version of capkit. Delete it to train from the start."
        )
    return content


def _compare(path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    differences = [
        f"{name} ({found.get(name)!r:.60} in the checkpoint, {expected.get(name)!r:.60} now)"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]
    if differences:
        raise CheckpointMismatchError(
            f"the checkpoint {path} belongs to another training. Different: "
            f"{'; '.join(differences)}. Use another checkpoint_dir, or delete the file to train "
            "from the start."
        )
