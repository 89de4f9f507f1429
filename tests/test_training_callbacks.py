"""What happens around the steps of a training."""

import types

import pytest
import torch
from torch import nn

from capkit.training import callbacks
from capkit.training.callbacks import Checkpoint, LearningRate, ProgressBar, SelfTrainingUpdate


class Net:
    """What callbacks see of a net."""

    def __init__(self, epoch=0):
        self.state = types.SimpleNamespace(epoch=epoch, history=[{"loss": 0.5, "kept": 0.25}])
        self.schedule = types.SimpleNamespace(
            steps_per_epoch=3, total_steps=9, rate=lambda step: step / 10
        )
        self.optimizer_ = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=99.0)

    def bare_module(self):
        return "module"

    def epoch_predictions(self, images):
        return f"predictions of {images}"


def test_each_step_has_its_own_learning_rate_also_after_resuming():
    net, callback = Net(epoch=2), LearningRate()
    callback.on_epoch_begin(net)
    rates = []
    for _ in range(3):
        callback.on_batch_begin(net, training=True)
        rates.append(net.optimizer_.param_groups[0]["lr"])
    assert rates == pytest.approx([0.6, 0.7, 0.8])


def test_end_of_an_epoch_is_the_self_trainings_affair():
    net, asked = Net(), []
    net.self_training = types.SimpleNamespace(end_epoch=lambda *given: asked.append(given))
    SelfTrainingUpdate().on_epoch_end(net, dataset_train="images")
    assert asked == [(net.state, "predictions of images")]


@pytest.mark.parametrize("there_is_one", [True, False])
@pytest.mark.parametrize("write", [True, False])
def test_every_process_reads_the_checkpoint_and_one_writes_it(monkeypatch, write, there_is_one):
    calls, net = [], Net()
    given = ("path", net.state, "module", net.optimizer_, {"seed": 1})

    def note(name):
        return lambda *arguments: calls.append(name) or (arguments == given and there_is_one)

    for name in ("read_checkpoint", "write_checkpoint"):
        monkeypatch.setattr(callbacks, name, note(name))
    callback = Checkpoint("path", {"seed": 1}, write=write)
    callback.on_train_begin(net)
    # a disk that is full is found before the first epoch
    assert calls == ["read_checkpoint"] + ["write_checkpoint"] * (write and not there_is_one)
    calls.clear()
    callback.on_epoch_end(net)
    assert calls == ["write_checkpoint"] * write


def test_the_bar_begins_where_a_resumed_training_does(capsys):
    net, bar = Net(epoch=1), ProgressBar()
    bar.on_train_begin(net)
    assert (bar.bar_.n, bar.bar_.total) == (3, 9)
    bar.on_batch_end(net)
    assert bar.bar_.n == 4
    bar.on_epoch_end(net)
    bar.close()
    assert "loss=0.500" in capsys.readouterr().err


def test_a_bar_that_was_never_shown_can_be_closed():
    ProgressBar().close()


def test_the_bar_of_a_training_without_strong_views_says_nothing_of_them(capsys):
    net, bar = Net(), ProgressBar()
    del net.state.history[-1]["kept"]
    bar.on_train_begin(net)
    bar.on_epoch_end(net)
    bar.close()
    shown = capsys.readouterr().err
    assert "loss=0.500" in shown
    assert "kept" not in shown
