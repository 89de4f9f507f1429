"""What happens around the steps: learning rate, self-training, checkpoint, progress bar."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from skorch.callbacks import Callback

from capkit.margins import MarginCalibrator
from capkit.pseudolabels import main_sample_target, renew_main_samples
from capkit.training.config import TrainingConfig
from capkit.training.net import CAPNet, EpochPredictions
from capkit.training.schedule import learning_rate
from capkit.training.state import SelfTraining, read_checkpoint, write_checkpoint

__all__ = ["Checkpoint", "LearningRate", "ProgressBar", "SelfTrainingUpdate", "class_balance"]


class LearningRate(Callback):
    """Sets the learning rate of every step from :func:`~.schedule.learning_rate`."""

    def on_epoch_begin(self, net: CAPNet, **kwargs) -> None:
        """Find the step that the epoch begins with."""
        self.step_ = net.state.epoch * net.config.steps_per_epoch

    def on_batch_begin(self, net: CAPNet, training: bool = False, **kwargs) -> None:
        """Set the learning rate."""
        config = net.config
        rate = learning_rate(
            self.step_,
            base=config.learning_rate,
            total_steps=config.total_steps,
            warmup_steps=config.warmup_epochs * config.steps_per_epoch,
        )
        for group in net.optimizer_.param_groups:
            group["lr"] = rate
        self.step_ += 1


class SelfTrainingUpdate(Callback):
    """At the end of an epoch: history, margin, and every few epochs the main samples.

    Parameters
    ----------
    calibrator : MarginCalibrator
        Refitted on every epoch's predictions.
    image_features : ndarray of shape (n, d)
        Of all images, from the frozen backbone.
    text_features : ndarray of shape (C, d)
        Of the classes, as aligned.
    n_unlabeled : int
    seen : ndarray of int
        Classes that have labels and so get no margin and no pseudolabels (``trzsl``).
    """

    def __init__(
        self,
        calibrator: MarginCalibrator,
        image_features: np.ndarray,
        text_features: np.ndarray,
        n_unlabeled: int,
        seen: np.ndarray,
    ) -> None:
        self.calibrator = calibrator
        self.image_features = image_features
        self.text_features = text_features
        self.n_unlabeled = n_unlabeled
        self.seen = seen

    def on_epoch_end(self, net: CAPNet, **kwargs) -> None:
        """Update the net's state from the epoch's predictions."""
        state, config = net.state, net.config
        epoch = net.epoch_predictions()
        state.pseudo_labels[epoch.indices] = epoch.labels
        state.confidence[epoch.indices] = epoch.confidence
        labels, confidence = self._this_epoch_only(state, epoch)
        rate = net.optimizer_.param_groups[0]["lr"]
        state.history.append(self._history_row(state, epoch, labels, confidence, rate))
        state.epoch += 1
        self.calibrator.fit_predictions(
            self.image_features, self.text_features, labels, confidence, seen=self.seen
        )
        state.margin_matrix = np.asarray(self.calibrator.margin_matrix_, dtype=np.float32)
        if state.epoch % config.renew_every == 0:
            self._renew_main_samples(state, config, labels, confidence)

    @staticmethod
    def _this_epoch_only(state: SelfTraining, epoch: EpochPredictions):
        drawn = np.zeros(len(state.pseudo_labels), dtype=bool)
        drawn[epoch.indices] = True
        labels = np.where(drawn, state.pseudo_labels, -1)
        return labels, np.where(drawn, state.confidence, 0.0).astype(np.float32)

    def _renew_main_samples(self, state, config: TrainingConfig, labels, confidence) -> None:
        n_classes = len(self.text_features) - len(self.seen)
        target = main_sample_target(
            state.epoch,
            config.epochs,
            config.top_k,
            self.n_unlabeled,
            n_classes,
            growth=config.growth,
            share=config.main_share,
            limit=config.main_limit,
        )
        state.main_labels = renew_main_samples(state.main_labels, labels, confidence, target)

    def _history_row(self, state, epoch: EpochPredictions, labels, confidence, rate):
        above = confidence > self.calibrator.tau
        counts = np.bincount(labels[above], minlength=len(self.text_features))
        margin = state.margin_matrix
        off_diagonal = margin[~np.eye(len(margin), dtype=bool)]
        losses = {f"{name}_loss": value for name, value in epoch.losses.items()}
        return {
            "epoch": state.epoch + 1,
            "loss": sum(epoch.losses.values()),
            **losses,
            "learning_rate": rate,
            "kept": float((epoch.confidence > self.calibrator.tau).mean()),
            "class_counts": counts.tolist(),
            "class_balance": class_balance(np.delete(counts, self.seen)),
            "n_main": int((state.main_labels >= 0).sum()),
            "margin_mean": float(off_diagonal.mean()),
            "margin_max": float(off_diagonal.max()),
        }


class Checkpoint(Callback):
    """Reads the state before the first epoch and writes it after each.

    Parameters
    ----------
    path : path
    fingerprint : mapping of str to JSON values
        What the training depends on.
    write : bool, default=True
        Whether this process is the one that writes.
    """

    def __init__(
        self, path: str | os.PathLike, fingerprint: Mapping[str, Any], write: bool = True
    ) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.write = write

    def on_train_begin(self, net: CAPNet, **kwargs) -> None:
        """Go on from the checkpoint, if there is one."""
        read_checkpoint(self.path, net.state, net.bare_module(), net.optimizer_, self.fingerprint)

    def on_epoch_end(self, net: CAPNet, **kwargs) -> None:
        """Write the state."""
        if self.write:
            write_checkpoint(
                self.path, net.state, net.bare_module(), net.optimizer_, self.fingerprint
            )


class ProgressBar(Callback):
    """A bar of steps with the time left, on the standard error stream."""

    def on_train_begin(self, net: CAPNet, **kwargs) -> None:
        """Show the bar."""
        from tqdm import tqdm

        self.bar_ = tqdm(
            total=net.config.total_steps,
            initial=net.state.epoch * net.config.steps_per_epoch,
            desc="training",
            unit="step",
        )

    def on_batch_end(self, net: CAPNet, **kwargs) -> None:
        """Move the bar on by a step."""
        self.bar_.update()

    def on_epoch_end(self, net: CAPNet, **kwargs) -> None:
        """Show the epoch's numbers."""
        row = net.state.history[-1]
        self.bar_.set_postfix(loss=f"{row['loss']:.3f}", kept=f"{row['kept']:.0%}", refresh=False)

    def close(self) -> None:
        """Leave the bar as it stands; safe where none was shown."""
        if hasattr(self, "bar_"):
            self.bar_.close()


def class_balance(counts: np.ndarray) -> float:
    """Entropy of the share of each class, relative to that of equal shares.

    Parameters
    ----------
    counts : ndarray of shape (C,)
        Number of pseudolabels of each class.

    Returns
    -------
    float
        1 where all classes are equally frequent, 0 where there is only one, or none.
    """
    if len(counts) < 2 or not counts.any():
        return 0.0
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum() / np.log(len(counts)))
