"""One training from its data to its last state, in this process or on several devices."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import multiprocessing
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from capkit._seeding import seeded
from capkit._threads import one_thread
from capkit.exceptions import CapkitError, CheckpointError
from capkit.training.callbacks import (
    Callbacks,
    Checkpoint,
    LearningRate,
    ProgressBar,
    SelfTrainingUpdate,
)
from capkit.training.checkpoint import CHECKPOINT_NAME, read_checkpoint
from capkit.training.module import DualAdapterModule, Encoder
from capkit.training.net import AcceleratedCAPNet, CAPNet
from capkit.training.schedule import Schedule
from capkit.training.self_training import SelfTraining, SelfTrainingState
from capkit.training.streams import ThreeStreams, TrainingImages

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["TrainingTask", "check_devices", "train"]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingTask:
    """All that a training needs; picklable, so that other processes can run it.

    Parameters
    ----------
    schedule : Schedule
    seed : int
        Of the first weights, the batches and the views.
    images : TrainingImages
        Inputs and labels.
    strong_view : callable
        From the positions (B,) of images to a Tensor of their strong views.
    load_encoder : callable
        From the name of a device to a function that builds an untrained
        :class:`~.module.Encoder` there.
    logit_scale : float
    adapter_dim : int
    adapter_weight : float
        0 leaves the adapters out.
    self_training : SelfTraining
        Which images train, with which labels.
    fingerprint : mapping of str to plain values or Tensor
        What a checkpoint must agree with.
    device : str
    pseudo_adapter : bool, default=True
        Whether strong views have an adapter of their own.
    checkpoint_dir : path or None, default=None
        This training's own folder.
    n_devices : int, default=1
    one_thread : bool, default=False
        Whether a process trains in one thread, as its steps are small.
    verbose : int, default=0
    callbacks : sequence of skorch callbacks, default=()
        A user's own, or pairs of a name and one; called by the first process after all others.
    """

    schedule: Schedule
    seed: int
    images: TrainingImages
    strong_view: Callable[[np.ndarray], Tensor]
    load_encoder: Callable[[str], Callable[[], Encoder]]
    logit_scale: float
    adapter_dim: int
    adapter_weight: float
    self_training: SelfTraining
    fingerprint: Mapping[str, Any]
    device: str
    pseudo_adapter: bool = True
    checkpoint_dir: str | os.PathLike | None = None
    n_devices: int = 1
    one_thread: bool = False
    verbose: int = 0
    callbacks: Callbacks = ()

    def build_module(self, device: str) -> DualAdapterModule:
        """Untrained module, the same for the same seed."""
        # Loading takes the registry's lock and then the generator's: not the other way round.
        build_encoder = self.load_encoder(device)
        with seeded(self.seed):
            return DualAdapterModule(
                build_encoder(),
                self.logit_scale,
                adapter_dim=self.adapter_dim,
                adapter_weight=self.adapter_weight,
                pseudo_adapter=self.pseudo_adapter,
            )


def train(task: TrainingTask) -> tuple[SelfTrainingState, DualAdapterModule]:
    """Run a training to its end, or what is left of it.

    Parameters
    ----------
    task : TrainingTask

    Returns
    -------
    state : SelfTrainingState
    module : DualAdapterModule
        Trained, on the device of the task.

    Raises
    ------
    TrainingDivergedError, OutOfMemoryError, CheckpointError, CheckpointMismatchError
        See :mod:`capkit.exceptions`.
    KeyboardInterrupt
        If the user stops it.
    """
    if task.n_devices == 1:
        net = _train_here(task)
        return net.state, net.module_.eval()
    if task.checkpoint_dir is not None:
        return _train_in_processes(task, Path(task.checkpoint_dir))
    with tempfile.TemporaryDirectory(prefix="capkit-") as folder:
        task = dataclasses.replace(task, checkpoint_dir=folder)
        return _train_in_processes(task, Path(folder))


def check_devices(n_devices: int, batch_size: int) -> None:
    """Raise if a training cannot be spread over this many processes.

    Parameters
    ----------
    n_devices : int
    batch_size : int
        Images of a stream in a step, over all devices.

    Raises
    ------
    ValueError
        If they cannot share a batch.
    ImportError
        If there are several and accelerate is missing.
    """
    if n_devices == 1:
        return
    if batch_size % n_devices:
        raise ValueError(
            f"expected batch_size to be a multiple of n_devices={n_devices}, got {batch_size}: "
            "each device takes an equal part."
        )
    if importlib.util.find_spec("accelerate") is None:
        raise ImportError(
            f"n_devices={n_devices} needs accelerate, which is not installed. "
            "Run: python -m pip install accelerate"
        )


def _train_here(task: TrainingTask, accelerator: Accelerator | None = None) -> CAPNet:
    schedule, state = task.schedule, task.self_training.start()
    rank = 0 if accelerator is None else accelerator.process_index
    device = task.device if accelerator is None else str(accelerator.device)
    progress = [ProgressBar()] if task.verbose and rank == 0 else []
    of_user = task.callbacks if rank == 0 else ()
    arguments = dict(
        module=task.build_module(device),
        criterion=None,  # the loss is in get_loss
        state=state,
        schedule=schedule,
        self_training=task.self_training,
        max_epochs=schedule.epochs,
        batch_size=schedule.batch_size,
        iterator_train=ThreeStreams,
        iterator_train__steps=schedule.steps_per_epoch,
        iterator_train__seed=task.seed,
        iterator_train__state=state,
        iterator_train__strong_view=task.strong_view,
        iterator_train__views=task.self_training.views,
        train_split=None,
        callbacks=[LearningRate(), *_epoch_end_callbacks(task, rank), *progress, *of_user],
        verbose=0,
        **schedule.optimizer_arguments(),
    )
    if accelerator is None:
        net = CAPNet(device=device, **arguments)
    else:
        net = AcceleratedCAPNet(
            accelerator=accelerator,
            iterator_train__rank=rank,
            iterator_train__n_processes=accelerator.num_processes,
            callbacks__print_log__sink=print,  # which is silent; accelerate's own never is
            **arguments,
        )
    try:
        with one_thread() if task.one_thread else contextlib.nullcontext():
            return net.fit(task.images)
    finally:
        for bar in progress:
            bar.close()


def _epoch_end_callbacks(task: TrainingTask, rank: int) -> list:
    # In this order: the checkpoint holds what the update has made of the epoch.
    callbacks: list = [SelfTrainingUpdate()]
    if task.checkpoint_dir is not None:
        path = Path(task.checkpoint_dir) / CHECKPOINT_NAME
        callbacks.append(Checkpoint(path, task.fingerprint, write=rank == 0))
    return callbacks


def _train_in_processes(
    task: TrainingTask, folder: Path
) -> tuple[SelfTrainingState, DualAdapterModule]:
    """Train on several devices; what they learned comes back through the last checkpoint."""
    import torch.multiprocessing

    context = torch.multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    processes = torch.multiprocessing.spawn(
        _work, (task, _free_port(), errors), nprocs=task.n_devices, join=False
    )
    try:
        while not processes.join():
            pass
    except (
        torch.multiprocessing.ProcessRaisedException,
        torch.multiprocessing.ProcessExitedException,
    ):
        if not errors.empty():
            raise errors.get() from None
        raise
    except BaseException:
        for process in processes.processes:
            process.terminate()
        raise
    state = task.self_training.start()
    module = task.build_module(task.device).to(task.device)
    path = folder / CHECKPOINT_NAME
    if not read_checkpoint(path, state, module, None, task.fingerprint):
        raise CheckpointError(f"the training's processes left no checkpoint in {path}")
    return state, module.eval()


def _work(rank: int, task: TrainingTask, port: int, errors) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(task.n_devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    from accelerate import Accelerator

    try:
        _train_here(task, Accelerator(cpu=torch.device(task.device).type == "cpu"))
    except CapkitError as error:
        errors.put(error)
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # it was spawned
    wait([parent.sentinel])
    os._exit(1)  # nobody waits for this training; an exception would end this thread alone


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
