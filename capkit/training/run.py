"""One training from its data to its last state, in this process or on several devices."""

from __future__ import annotations

import dataclasses
import os
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from capkit._seeding import seeded
from capkit.backbones import load_backbone
from capkit.exceptions import CapkitError, CheckpointError
from capkit.training.callbacks import Checkpoint, LearningRate, ProgressBar, SelfTrainingUpdate
from capkit.training.config import TrainingConfig
from capkit.training.feature_views import make_feature_view
from capkit.training.module import DualAdapterModule, FeatureEncoder, PromptedEncoder
from capkit.training.net import AcceleratedCAPNet, CAPNet, PseudoLabeler
from capkit.training.state import CHECKPOINT_NAME, SelfTraining, read_checkpoint
from capkit.training.streams import ThreeStreams, TrainingImages
from capkit.training.views import make_strong_view

if TYPE_CHECKING:
    from accelerate import Accelerator

    from capkit.backbones import Backbone
    from capkit.margins import MarginCalibrator

__all__ = ["TrainingTask", "train"]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingTask:
    """All that a training needs; picklable, so that other processes can run it.

    Parameters
    ----------
    config : TrainingConfig
    images : TrainingImages
        Inputs and labels.
    image_features : ndarray of shape (n, d)
        Of the frozen backbone.
    text_features : ndarray of shape (C, d)
        As aligned.
    logit_scale : float
    main_labels : ndarray of shape (n,), int64
        Classes of the first main samples, -1 for the other images.
    calibrator : MarginCalibrator
        Unfitted.
    seen : ndarray of int
        Labeled classes of ``trzsl``; empty in the other paradigms.
    fingerprint : mapping of str to JSON values
        What a checkpoint must agree with.
    device : str
    backbone : str or None, default=None
        Name of the backbone whose prompts are trained.
    prompts : sequence of str or None, default=None
        The text behind each class, for prompt tuning.
    shift : ndarray of shape (C, d) or None, default=None
        Added to the text tower's features, for classes that were aligned without a text.
    checkpoint_dir : path or None, default=None
    n_devices : int, default=1
    verbose : int, default=0
    """

    config: TrainingConfig
    images: TrainingImages
    image_features: np.ndarray
    text_features: np.ndarray
    logit_scale: float
    main_labels: np.ndarray
    calibrator: MarginCalibrator
    seen: np.ndarray
    fingerprint: Mapping[str, Any]
    device: str
    backbone: str | None = None
    prompts: Sequence[str] | None = None
    shift: np.ndarray | None = None
    checkpoint_dir: str | os.PathLike | None = None
    n_devices: int = 1
    verbose: int = 0

    @property
    def pseudo_labeler(self) -> PseudoLabeler:
        """Rule of the pseudolabels: unlabeled images belong to classes that are not seen."""
        if not len(self.seen):
            return PseudoLabeler(self.calibrator.tau)
        unseen = np.setdiff1d(np.arange(len(self.text_features)), self.seen)
        return PseudoLabeler(self.calibrator.tau, torch.from_numpy(unseen))

    def new_state(self) -> SelfTraining:
        """State before the first epoch."""
        return SelfTraining.start(self.main_labels, n_classes=len(self.text_features))

    def build_module(self, device: str) -> DualAdapterModule:
        """Untrained module, the same for the same seed."""
        # Loading takes the registry's lock and then the generator's: not the other way round here.
        backbone = None if self.backbone is None else load_backbone(self.backbone, device=device)
        with seeded(self.config.seed):
            return DualAdapterModule(
                self._build_encoder(backbone),
                self.logit_scale,
                adapter_dim=self.config.adapter_dim,
                adapter_weight=self.config.adapter_weight,
                keep_strong=self.pseudo_labeler,
            )

    def _build_encoder(self, backbone: Backbone | None) -> nn.Module:
        if backbone is None:
            return FeatureEncoder(torch.tensor(self.text_features))
        return PromptedEncoder(
            backbone,
            self.prompts,
            shift=None if self.shift is None else torch.tensor(self.shift),
            context=self.config.prompt_init,
            prompt_length=self.config.prompt_length,
            prompt_depth=self.config.prompt_depth,
        )


def train(task: TrainingTask) -> tuple[SelfTraining, DualAdapterModule]:
    """Run a training to its end, or what is left of it.

    Parameters
    ----------
    task : TrainingTask

    Returns
    -------
    state : SelfTraining
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
        return _train_in_processes(task)
    with tempfile.TemporaryDirectory(prefix="capkit-") as folder:
        return _train_in_processes(dataclasses.replace(task, checkpoint_dir=folder))


def _train_here(task: TrainingTask, accelerator: Accelerator | None = None) -> CAPNet:
    config, state = task.config, task.new_state()
    rank = 0 if accelerator is None else accelerator.process_index
    device = task.device if accelerator is None else str(accelerator.device)
    progress = [ProgressBar()] if task.verbose and rank == 0 else []
    arguments = dict(
        module=task.build_module(device),
        criterion=None,  # the loss is in get_loss
        state=state,
        config=config,
        pseudo_labeler=task.pseudo_labeler,
        max_epochs=config.epochs,
        batch_size=config.batch_size,
        iterator_train=ThreeStreams,
        iterator_train__steps=config.steps_per_epoch,
        iterator_train__seed=config.seed,
        iterator_train__state=state,
        iterator_train__strong_view=_strong_view(config),
        train_split=None,
        callbacks=[LearningRate(), *_epoch_end_callbacks(task, rank), *progress],
        verbose=0,
        **_optimizer(config),
    )
    if accelerator is None:
        net = CAPNet(device=device, **arguments)
    else:
        net = AcceleratedCAPNet(
            accelerator=accelerator,
            iterator_train__rank=rank,
            iterator_train__n_processes=accelerator.num_processes,
            **arguments,
        )
    try:
        return net.fit(task.images)
    finally:
        for bar in progress:
            bar.close()


def _epoch_end_callbacks(task: TrainingTask, rank: int) -> list:
    # In this order: the checkpoint holds what the update has made of the epoch.
    callbacks = [
        SelfTrainingUpdate(
            task.calibrator,
            task.image_features,
            task.text_features,
            len(task.images.unlabeled),
            task.seen,
        )
    ]
    if task.checkpoint_dir is not None:
        path = Path(task.checkpoint_dir) / CHECKPOINT_NAME
        callbacks.append(Checkpoint(path, task.fingerprint, write=rank == 0))
    return callbacks


def _strong_view(config: TrainingConfig) -> Callable[[Tensor], Tensor]:
    if config.tuning == "adapter":
        return make_feature_view(config.augment)
    return make_strong_view(config.augment)


def _optimizer(config: TrainingConfig) -> dict[str, Any]:
    common = {"lr": config.learning_rate, "optimizer__weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        momentum = {"optimizer__momentum": config.momentum}
        return {"optimizer": torch.optim.SGD, **momentum, **common}
    betas = {"optimizer__betas": (config.momentum, 0.999)}
    return {"optimizer": torch.optim.AdamW, **betas, **common}


def _train_in_processes(task: TrainingTask) -> tuple[SelfTraining, DualAdapterModule]:
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
    state, module = task.new_state(), task.build_module(task.device).to(task.device)
    path = Path(task.checkpoint_dir) / CHECKPOINT_NAME
    if not read_checkpoint(path, state, module, None, task.fingerprint):
        raise CheckpointError(f"the training's processes left no checkpoint in {path}")
    return state, module.eval()


def _work(rank: int, task: TrainingTask, port: int, errors) -> None:
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
