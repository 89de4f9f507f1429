"""What happens around the steps of a training."""

import types

import pytest
import torch
from skorch.callbacks import Callback
from skorch.history import History
from torch import nn

from capkit.training import callbacks
from capkit.training.callbacks import (
    Checkpoint,
    LearningRate,
    ProgressBar,
    SelfTrainingUpdate,
    check_callbacks,
)


class Net:
    """What callbacks see of a net."""

    def __init__(self, epoch=0):
        self.state = types.SimpleNamespace(epoch=epoch, history=[{"loss": 0.5, "kept": 0.25}])
        self.schedule = types.SimpleNamespace(
            steps_per_epoch=3, total_steps=9, rate=lambda step: step / 10
        )
        self.history = History()
        self.history.new_epoch()
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


def test_loggers_find_the_numbers_of_an_epoch_in_the_nets_history():
    net = Net()
    row = {"epoch": 7, "loss": 0.25, "class_counts": [3, 4]}
    net.history.record("epoch", 1)  # which a net counts from where it goes on
    net.self_training = types.SimpleNamespace(
        end_epoch=lambda state, predictions: state.history.append(row)
    )
    SelfTrainingUpdate().on_epoch_end(net)
    found = {name: net.history[-1, name] for name in net.history[-1] if name != "batches"}
    assert found == {"epoch": 7, "loss": 0.25}


class Watcher(Callback):
    pass


@pytest.mark.parametrize(
    "callbacks",
    [None, [], (Watcher(), Watcher()), [("a", Watcher()), Watcher(), ("b", Watcher())]],
)
def test_callbacks_may_have_names_or_none(callbacks):
    check_callbacks(callbacks)


@pytest.mark.parametrize(
    ("callbacks", "error", "message"),
    [
        ([Watcher], TypeError, r"got the class Watcher: add \(\) behind"),
        ([("a", Watcher)], TypeError, r"got the class Watcher: add \(\) behind"),
        ([print], TypeError, "objects of skorch.callbacks.Callback.*got <built-in function print"),
        ([(Watcher(), "a")], TypeError, "pairs of a name and one, got"),
        (["a", Watcher()], TypeError, "got 'a'"),
        ([("a", Watcher()), ("a", Watcher())], ValueError, "got two named 'a'"),
    ],
)
def test_what_is_no_callback_is_refused(callbacks, error, message):
    with pytest.raises(error, match=message):
        check_callbacks(callbacks)


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
