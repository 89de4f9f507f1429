"""What a training knows between two epochs, and its checkpoint on disk."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from capkit._files import write_atomically
from capkit.exceptions import CheckpointError, CheckpointMismatchError

__all__ = [
    "CHECKPOINT_NAME",
    "SelfTraining",
    "read_checkpoint",
    "read_fingerprint",
    "write_checkpoint",
]

#: File in the user's ``checkpoint_dir``.
CHECKPOINT_NAME = "training.safetensors"

_FORMAT = 1
_ARRAYS = ("main_labels", "margin_matrix", "pseudo_labels", "confidence")


@dataclasses.dataclass(eq=False)
class SelfTraining:
    """Pseudolabels, main samples and margin; changed at the end of every epoch.

    Parameters
    ----------
    main_labels : ndarray of shape (n,), int64
        Pseudolabel of each main sample, the unlabeled images that train the main branch; -1 for
        the other images.
    margin_matrix : ndarray of shape (C, C), float32
        Margin of the epoch that comes; zero in the first.
    pseudo_labels : ndarray of shape (n,), int64
        Last weak-view prediction of each image, -1 where there is none.
    confidence : ndarray of shape (n,), float32
        Its probability.
    epoch : int, default=0
        Epochs completed.
    history : list of dict
        One row of numbers for each completed epoch.
    """

    main_labels: np.ndarray
    margin_matrix: np.ndarray
    pseudo_labels: np.ndarray
    confidence: np.ndarray
    epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @classmethod
    def start(cls, main_labels: np.ndarray, n_classes: int) -> SelfTraining:
        """State before the first epoch: main samples, no margin, no predictions."""
        return cls(
            main_labels=main_labels,
            margin_matrix=np.zeros((n_classes, n_classes), dtype=np.float32),
            pseudo_labels=np.full(len(main_labels), -1, dtype=np.int64),
            confidence=np.zeros(len(main_labels), dtype=np.float32),
        )


def write_checkpoint(
    path: str | os.PathLike,
    state: SelfTraining,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    fingerprint: Mapping[str, Any],
) -> None:
    """Write the whole state of a training in one atomic replacement.

    Parameters
    ----------
    path : path
    state : SelfTraining
    module : nn.Module
        Only its ``state_dict`` is written.
    optimizer : torch.optim.Optimizer
    fingerprint : mapping of str to JSON values
        What the training depends on; read back and compared by :func:`read_checkpoint`.

    Raises
    ------
    CheckpointError
        If the file cannot be written, for instance because the disk is full.
    """
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    slots, groups = _flatten_optimizer(optimizer.state_dict(), tensors)
    tensors |= {f"state.{name}": torch.from_numpy(getattr(state, name)) for name in _ARRAYS}
    header = {
        "format": _FORMAT,
        "fingerprint": dict(fingerprint),
        "epoch": state.epoch,
        "history": state.history,
        "optimizer_state": slots,
        "optimizer_groups": groups,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save(tensors, metadata={"capkit": json.dumps(header)}))
    except OSError as error:
        raise CheckpointError(
            f"the training checkpoint {path} could not be written: {error}. Training stopped, "
            "so that nothing is computed that would be lost: make room or choose another "
            "checkpoint_dir, and fit again to go on from the last epoch that was written."
        ) from error


def read_fingerprint(path: str | os.PathLike) -> dict[str, Any] | None:
    """Fingerprint of the training that wrote a checkpoint; None where there is no file.

    Raises
    ------
    CheckpointError
        If the file is damaged.
    """
    return _read_header(path)["fingerprint"] if Path(path).exists() else None


def read_checkpoint(
    path: str | os.PathLike,
    state: SelfTraining,
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    fingerprint: Mapping[str, Any],
) -> bool:
    """Bring a training to where a checkpoint left it.

    Parameters
    ----------
    path : path
    state : SelfTraining
        Overwritten.
    module : nn.Module
        Its parameters are overwritten.
    optimizer : torch.optim.Optimizer or None
        Its state is overwritten.
    fingerprint : mapping of str to JSON values
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
    header = _read_header(path)
    _compare(path, header["fingerprint"], fingerprint)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    module.load_state_dict(_under("module.", tensors))
    if optimizer is not None:
        optimizer.load_state_dict(_unflatten_optimizer(header, tensors))
    for name, value in _under("state.", tensors).items():
        setattr(state, name, value.numpy())
    state.epoch = header["epoch"]
    state.history = header["history"]
    return True


def _read_header(path: str | os.PathLike) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["capkit"])
        known = header["format"] == _FORMAT
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a training checkpoint of capkit, or is damaged ({error}). Delete it "
            "to train from the start."
        ) from error
    if not known:
        raise CheckpointError(
            f"{path} was written in format {header['format']}, expected {_FORMAT}: by another "
            "version of capkit. Delete it to train from the start."
        )
    return header


def _compare(path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    # Through JSON once, as the one on disk went: tuples become lists, numpy's floats floats.
    expected = json.loads(json.dumps(expected))
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


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _flatten_optimizer(state_dict: Mapping[str, Any], tensors: dict[str, Tensor]):
    """Move an optimiser's tensors to `tensors`; what is left is JSON."""
    slots: dict[str, dict[str, Any]] = {}
    for index, values in state_dict["state"].items():
        slots[str(index)] = {}
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                slots[str(index)][key] = value
    return slots, state_dict["param_groups"]


def _unflatten_optimizer(header: Mapping[str, Any], tensors: Mapping[str, Tensor]):
    state = {int(index): dict(values) for index, values in header["optimizer_state"].items()}
    for name, value in _under("optimizer.", tensors).items():
        index, key = name.split(".", 1)
        state[int(index)][key] = value
    return {"state": state, "param_groups": header["optimizer_groups"]}
