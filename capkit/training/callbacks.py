"""What happens around the steps: learning rate, self-training, checkpoint, progress bar."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any, TypeAlias, TypeGuard

from skorch.callbacks import Callback

from capkit.training.checkpoint import read_checkpoint, write_checkpoint
from capkit.training.net import CAPNet

__all__ = [
    "Callbacks",
    "Checkpoint",
    "LearningRate",
    "ProgressBar",
    "SelfTrainingUpdate",
    "check_callbacks",
]

#: A user's own: objects, or pairs of a name and an object.
Callbacks: TypeAlias = Sequence[Callback | tuple[str, Callback]]


def check_callbacks(callbacks: Callbacks | None) -> None:
    """Raise if skorch could not call these.

    Parameters
    ----------
    callbacks : sequence of skorch callbacks or of pairs of a name and one, or None

    Raises
    ------
    TypeError
        If one of them is something else.
    ValueError
        If two have the same name.
    """
    named = [item for item in callbacks or () if _is_pair(item)]
    for item in callbacks or ():
        callback = item[1] if _is_pair(item) else item
        if isinstance(callback, type) and issubclass(callback, Callback):
            raise TypeError(
                f"expected callbacks as objects, got the class {callback.__name__}: add () "
                "behind its name."
            )
        if not isinstance(callback, Callback):
            raise TypeError(
                "expected callbacks as objects of skorch.callbacks.Callback, or pairs of a name "
                f"and one, got {item!r:.80}."
            )
    names = [name for name, _ in named]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"expected callbacks of different names, got two named {name!r}.")


def _is_pair(item: object) -> TypeGuard[tuple[str, Callback]]:
    return isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], str)


class LearningRate(Callback):
    """Sets the learning rate of every step, see :meth:`~.schedule.Schedule.rate`."""

    def on_epoch_begin(self, net: CAPNet, **kwargs) -> None:
        """Find the step that the epoch begins with."""
        self.step_ = net.state.epoch * net.schedule.steps_per_epoch

    def on_batch_begin(self, net: CAPNet, training: bool = False, **kwargs) -> None:
        """Set the learning rate."""
        rate = net.schedule.rate(self.step_)
        for group in net.optimizer_.param_groups:
            group["lr"] = rate
        self.step_ += 1


class SelfTrainingUpdate(Callback):
    """At the end of an epoch: history, margin and main samples."""

    def on_epoch_end(self, net: CAPNet, dataset_train=None, **kwargs) -> None:
        """Update the net's state from the epoch's predictions, and show loggers its numbers."""
        net.self_training.end_epoch(net.state, net.epoch_predictions(dataset_train))
        for name, value in net.state.history[-1].items():
            if isinstance(value, Number):  # loggers take no lists
                net.history.record(name, value)


class Checkpoint(Callback):
    """Reads the state before the first epoch, and writes it then and after each.

    Parameters
    ----------
    path : path
    fingerprint : mapping of str to plain values
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
        """Go on from the checkpoint; without one, see that it can be written."""
        training = net.state, net.bare_module(), net.optimizer_
        if not read_checkpoint(self.path, *training, self.fingerprint):
            self.on_epoch_end(net)

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
            total=net.schedule.total_steps,
            initial=net.state.epoch * net.schedule.steps_per_epoch,
            desc="training",
            unit="step",
        )

    def on_batch_end(self, net: CAPNet, **kwargs) -> None:
        """Move the bar on by a step."""
        self.bar_.update()

    def on_epoch_end(self, net: CAPNet, **kwargs) -> None:
        """Show the epoch's numbers."""
        row = net.state.history[-1]
        shown = {"loss": f"{row['loss']:.3f}"}
        if "kept" in row:
            shown["kept"] = f"{row['kept']:.0%}"
        self.bar_.set_postfix(shown, refresh=False)

    def close(self) -> None:
        """Leave the bar as it stands; safe where none was shown."""
        if hasattr(self, "bar_"):
            self.bar_.close()
