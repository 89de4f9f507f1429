"""The skorch net: the sum of the streams' losses, and a step that stops with a reason."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import torch
from skorch import NeuralNet
from skorch.hf import AccelerateMixin
from skorch.utils import to_tensor
from torch import Tensor

from capkit._memory import is_out_of_memory
from capkit.exceptions import OutOfMemoryError, TrainingDivergedError
from capkit.training.predictor import encode_batches, predict_logits
from capkit.training.schedule import Schedule
from capkit.training.self_training import EpochPredictions, SelfTraining, SelfTrainingState
from capkit.training.streams import TrainingImages

__all__ = ["AcceleratedCAPNet", "CAPNet"]


class CAPNet(NeuralNet):
    """Dual-adapter training (method, section 3): the sum of the streams' losses.

    The loss is in :meth:`get_loss` and the step around it in :meth:`train_step`, because
    accelerate's mixin replaces ``train_step_single``.

    Parameters
    ----------
    *args, **kwargs
        Of :class:`skorch.NeuralNet`.
    state : SelfTrainingState
    schedule : Schedule
    self_training : SelfTraining
        Gives the loss of each sample.
    """

    def __init__(
        self,
        *args,
        state: SelfTrainingState,
        schedule: Schedule,
        self_training: SelfTraining,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.state = state
        self.schedule = schedule
        self.self_training = self_training

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
        self.fit_loop(X, y, epochs=self.schedule.epochs - self.state.epoch)
        self.notify("on_train_end", X=X, y=y)
        return self

    def on_epoch_begin(self, net, **kwargs):
        """Take over the state's margin and begin a new collection of predictions."""
        super().on_epoch_begin(net, **kwargs)
        device = next(self.module_.parameters()).device
        self.margin_ = torch.from_numpy(self.state.margin_matrix).to(device)
        self.predictions_ = []
        self.losses_ = []

    def on_epoch_end(self, net, **kwargs):
        """See that the epoch's last step, which no loss follows, has not diverged.

        Raises
        ------
        TrainingDivergedError
            If a trained weight or, after the last epoch, a logit is not finite.
        """
        super().on_epoch_end(net, **kwargs)
        module = self.bare_module()
        for name, weight in module.named_parameters():
            if not torch.isfinite(weight).all():
                self._raise_diverged(f"{name} is not finite after", len(self.losses_))
        if self.state.epoch + 1 == self.schedule.epochs and not _gives_logits(module):
            self._raise_diverged("the adapters give no finite logits after", len(self.losses_))

    def infer(self, x, **fit_params):
        """Run the module on its device, its towers in bfloat16 on a GPU."""
        device = next(self.module_.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return self.module_(
                **to_tensor(x, device), pseudo_label=self.self_training.pseudo_label, **fit_params
            )

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
        losses = self.self_training.losses(y_pred, y_true, self.margin_)
        parts = {name: self._mean(values) for name, values in losses.items()}
        loss = torch.stack(list(parts.values())).sum()
        self._check_finite(loss, parts)
        if "pseudo" in y_pred:
            pseudo = y_pred["pseudo"]
            self.predictions_.append((y_true["unlabeled"], pseudo.labels, pseudo.confidence))
        self.losses_.append({name: part.detach() for name, part in parts.items()})
        return loss

    def _mean(self, losses: Tensor) -> Tensor:
        # The mean over the samples of all processes: gradients are averaged over the processes,
        # so a mean over this one's samples would weigh one by how few its process has.
        n_samples = self.sum_over_processes(torch.tensor(len(losses), device=losses.device))
        return losses.sum() * self.n_processes / n_samples.clamp(min=1)

    def _check_finite(self, loss: Tensor, parts: dict[str, Tensor]) -> None:
        if torch.isfinite(loss):
            return
        values = ", ".join(f"{name} {part.item():g}" for name, part in parts.items())
        self._raise_diverged(f"the loss became {loss.item()} ({values}) in", len(self.losses_) + 1)

    def _raise_diverged(self, what: str, step: int) -> NoReturn:
        step += self.state.epoch * self.schedule.steps_per_epoch
        raise TrainingDivergedError(
            f"{what} step {step} of {self.schedule.total_steps} (epoch {self.state.epoch + 1}) at "
            f"learning rate {self.optimizer_.param_groups[0]['lr']:g}. Lower learning_rate (it is "
            f"{self.schedule.learning_rate:g}), raise warmup_epochs or lower m."
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
                f"{self.schedule.batch_size}) or prompt_length, or use tuning='adapter', which "
                f"runs no tower. The device said: {str(error).splitlines()[0]}"
            ) from error

    def epoch_predictions(self, images: TrainingImages) -> EpochPredictions:
        """Collect the epoch's predictions and losses from all processes.

        Parameters
        ----------
        images : TrainingImages
            Unlabeled ones are predicted anew where the self-training asks for it.

        Returns
        -------
        EpochPredictions
        """
        losses = {}
        for name in self.losses_[0]:
            mean = torch.stack([parts[name] for parts in self.losses_]).mean()
            losses[name] = (self.sum_over_processes(mean) / self.n_processes).item()
        rate = self.optimizer_.param_groups[0]["lr"]
        wanted = self.self_training.wants_logits(self.state.epoch + 1)
        logits = self._predict_unlabeled(images) if wanted else None
        indices, labels, confidence = self._drawn_predictions()
        return EpochPredictions(indices, labels, confidence, losses, rate, logits)

    def _drawn_predictions(self) -> list[np.ndarray]:
        """Indices, labels and confidence of the weak views of the epoch."""
        if not self.predictions_:
            return [np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)]
        steps, columns = len(self.predictions_), []
        for column in zip(*self.predictions_, strict=True):
            # (process, step, image) -> the order of the joined batches.
            gathered = self.gather(torch.stack(column))
            gathered = gathered.reshape(self.n_processes, steps, -1).transpose(0, 1)
            columns.append(gathered.reshape(-1).cpu().numpy())
        return columns

    def _predict_unlabeled(self, images: TrainingImages) -> np.ndarray:
        """Logits of all unlabeled images by the main branch; each process computes all."""
        module, rows, size = self.bare_module(), images.unlabeled, self.schedule.batch_size
        # a batch of inputs at a time: those of all images may not fit into memory
        batches = (images.inputs[batch] for batch in torch.from_numpy(rows).split(size))
        features = torch.cat([encode_batches(module, batch, size) for batch in batches])
        logits = np.zeros((len(images), len(self.margin_)), dtype=np.float32)
        logits[rows] = predict_logits(module, features, "main")
        return logits

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


@torch.no_grad()
def _gives_logits(module: torch.nn.Module) -> bool:
    """Whether both branches give finite logits, of the classes' own features."""
    texts = module.text_features()
    branches = ("main", "pseudo")
    return all(bool(module.logits(texts, texts, name).isfinite().all()) for name in branches)


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
