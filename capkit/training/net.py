"""The skorch net: CAP's loss, and a step that stops with a reason."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from skorch import NeuralNet
from skorch.hf import AccelerateMixin
from skorch.utils import to_tensor
from torch import Tensor

from capkit.exceptions import OutOfMemoryError, TrainingDivergedError
from capkit.margins import margin_cross_entropy
from capkit.training.config import TrainingConfig
from capkit.training.state import SelfTraining

__all__ = ["AcceleratedCAPNet", "CAPNet", "EpochPredictions", "PseudoLabeler", "is_out_of_memory"]

_LOSSES = ("labeled", "main", "pseudo")


@dataclasses.dataclass(frozen=True)
class PseudoLabeler:
    """From the logits of the weak view to pseudolabels.

    Parameters
    ----------
    tau : float
        Confidence above which a pseudolabel trains the pseudo branch.
    classes : Tensor of shape (n_allowed,) or None, default=None
        The only classes that unlabeled images may belong to; None means all. The probabilities
        are over these.
    """

    tau: float
    classes: Tensor | None = None

    def predict(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Confidence and class index of each row of logits (B, C)."""
        if self.classes is None:
            confidence, labels = logits.softmax(dim=1).max(dim=1)
            return confidence, labels
        classes = self.classes.to(logits.device)
        confidence, position = logits[:, classes].softmax(dim=1).max(dim=1)
        return confidence, classes[position]

    def __call__(self, logits: Tensor) -> Tensor:
        """Whether each row's confidence is above `tau`, shape (B,), bool."""
        return self.predict(logits)[0] > self.tau


@dataclasses.dataclass(frozen=True)
class EpochPredictions:
    """Weak-view predictions and losses of one epoch, over all processes.

    Parameters
    ----------
    indices : ndarray of shape (n_drawn,), int64
        The unlabeled images in the order in which they were drawn.
    labels : ndarray of shape (n_drawn,), int64
    confidence : ndarray of shape (n_drawn,), float32
    losses : dict of str to float
        Mean of each part of the loss over the steps.
    """

    indices: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    losses: dict[str, float]


class CAPNet(NeuralNet):
    """Dual-adapter training (method, section 3): the sum of the streams' losses.

    The loss is in :meth:`get_loss` and the step around it in :meth:`train_step`, because
    accelerate's mixin replaces ``train_step_single``.

    Parameters
    ----------
    *args, **kwargs
        Of :class:`skorch.NeuralNet`.
    state : SelfTraining
    config : TrainingConfig
    pseudo_labeler : PseudoLabeler
    """

    def __init__(
        self,
        *args,
        state: SelfTraining,
        config: TrainingConfig,
        pseudo_labeler: PseudoLabeler,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.state = state
        self.config = config
        self.pseudo_labeler = pseudo_labeler

    def initialize_criterion(self):
        """Do without a criterion, which accelerate would wrap: the loss is in get_loss."""
        self.criterion_ = None
        return self

    def partial_fit(self, X, y=None, classes=None, **fit_params):
        """Train for the epochs that are left; an interrupt is passed on.

        skorch swallows a KeyboardInterrupt and returns the net as if it were fitted.
        """
        if not self.initialized_:
            self.initialize()
        self.notify("on_train_begin", X=X, y=y)
        self.fit_loop(X, y, epochs=self.config.epochs - self.state.epoch)
        self.notify("on_train_end", X=X, y=y)
        return self

    def on_epoch_begin(self, net, **kwargs):
        """Take over the state's margin and begin a new collection of predictions."""
        super().on_epoch_begin(net, **kwargs)
        device = next(self.module_.parameters()).device
        self.margin_ = torch.from_numpy(self.state.margin_matrix).to(device)
        self.predictions_ = []
        self.losses_ = []

    def infer(self, x, **fit_params):
        """Run the module on its device, its towers in bfloat16 on a GPU."""
        device = next(self.module_.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return self.module_(**to_tensor(x, device), **fit_params)

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Sum of the mean losses of the streams (method, section 3).

        Parameters
        ----------
        y_pred : dict of str to Tensor
            What :class:`~capkit.training.module.DualAdapterModule` returns.
        y_true : dict of str to Tensor
            Targets of :class:`~capkit.training.streams.ThreeStreams`.
        X, training
            Not used.

        Returns
        -------
        Tensor of shape ()

        Raises
        ------
        TrainingDivergedError
            If the loss is NaN or infinite.
        """
        y_true = {name: target.to(self.margin_.device) for name, target in y_true.items()}
        parts = {
            name: margin_cross_entropy(y_pred[name], y_true[name], self.margin_)
            for name in ("labeled", "main")
            if name in y_pred
        }
        confidence, labels = self.pseudo_labeler.predict(y_pred["weak"])
        parts["pseudo"] = self._kept_mean(y_pred["strong"], labels, y_pred["kept"])
        loss = torch.stack(list(parts.values())).sum()
        self._check_finite(loss, parts)
        self.predictions_.append((y_true["unlabeled"], labels, confidence))
        self.losses_.append({name: part.detach() for name, part in parts.items()})
        return loss

    def _kept_mean(self, logits: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
        # The mean over what all processes kept: gradients are averaged over the processes, so
        # a mean over this one's images would weigh an image by how few its process kept.
        losses = margin_cross_entropy(logits, labels[kept], self.margin_, reduction="none")
        n_kept = self.sum_over_processes(kept.sum())
        return losses.sum() * self.n_processes / n_kept.clamp(min=1)

    def _check_finite(self, loss: Tensor, parts: dict[str, Tensor]) -> None:
        if torch.isfinite(loss):
            return
        step = len(self.losses_) + self.state.epoch * self.config.steps_per_epoch
        values = ", ".join(f"{name} {part.item():g}" for name, part in parts.items())
        raise TrainingDivergedError(
            f"the loss became {loss.item()} in step {step + 1} of {self.config.total_steps} "
            f"(epoch {self.state.epoch + 1}; {values}) at learning rate "
            f"{self.optimizer_.param_groups[0]['lr']:g}. Lower learning_rate (it is "
            f"{self.config.learning_rate:g}), raise warmup_epochs or lower m."
        )

    def train_step(self, batch, **fit_params):
        """Make one optimiser step.

        Raises
        ------
        OutOfMemoryError
            If the step does not fit into memory; the sizes and the remedy are named.
        """
        try:
            return super().train_step(batch, **fit_params)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            sizes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in batch[0].items())
            raise OutOfMemoryError(
                f"a training step does not fit into the memory of {self.margin_.device}: "
                f"{len(self.margin_)} classes, batches {sizes}. Lower batch_size (it is "
                f"{self.config.batch_size}) or prompt_length, or use tuning='adapter', which "
                f"runs no tower. The device said: {str(error).splitlines()[0]}"
            ) from error

    def epoch_predictions(self) -> EpochPredictions:
        """Collect the epoch's predictions and losses from all processes."""
        steps = len(self.predictions_)
        columns = []
        for column in zip(*self.predictions_, strict=True):
            # (process, step, image) -> the order of the joined batches.
            gathered = self.gather(torch.stack(column))
            gathered = gathered.reshape(self.n_processes, steps, -1).transpose(0, 1)
            columns.append(gathered.reshape(-1).cpu().numpy())
        losses = {}
        for name in self.losses_[0]:
            mean = torch.stack([parts[name] for parts in self.losses_]).mean()
            losses[name] = (self.sum_over_processes(mean) / self.n_processes).item()
        indices, labels, confidence = columns
        return EpochPredictions(indices, labels, confidence, losses)

    @property
    def n_processes(self) -> int:
        """Number of processes that train together."""
        return 1

    def sum_over_processes(self, value: Tensor) -> Tensor:
        """Sum of every process's value; there is one process here."""
        return value

    def gather(self, values: Tensor) -> Tensor:
        """Every process's values, one after the other; there is one process here."""
        return values

    def bare_module(self) -> torch.nn.Module:
        """The module without what accelerate wraps around it."""
        return self.module_


class AcceleratedCAPNet(AccelerateMixin, CAPNet):
    """:class:`CAPNet` as one of several processes, each with its own device.

    Parameters
    ----------
    *args, **kwargs
        Of :class:`CAPNet`, and `accelerator`.
    """

    @property
    def n_processes(self) -> int:
        """Number of processes that train together."""
        return self.accelerator.num_processes

    def sum_over_processes(self, value: Tensor) -> Tensor:
        """Sum of every process's value."""
        return self.accelerator.reduce(value, reduction="sum")

    def gather(self, values: Tensor) -> Tensor:
        """Every process's values, one after the other."""
        return self.accelerator.gather(values)

    def bare_module(self) -> torch.nn.Module:
        """The module without what accelerate wraps around it."""
        return self.accelerator.unwrap_model(self.module_)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory ran out, on a GPU or on the CPU.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    bool
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
