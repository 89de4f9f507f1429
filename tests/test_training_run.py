"""A whole training from its task: the same for the same seed, resumed, and what a task holds."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from capkit import MarginCalibrator
from capkit.baselines._self_trained import PeerSelfTraining
from capkit.baselines.cpl import CandidatePseudolabels
from capkit.baselines.grip import GrowingPseudolabels
from capkit.datasets import make_concept_space
from capkit.training.checkpoint import CHECKPOINT_NAME, read_fingerprint
from capkit.training.net import CAPNet
from capkit.training.run import TrainingTask, check_devices, train
from capkit.training.self_training import CAPSelfTraining
from capkit.training.streams import TrainingImages
from capkit.tuning import AdapterTuning

NONE = np.empty(0, dtype=np.int64)


def make_task(**changes):
    space = make_concept_space(n_images=60, n_classes=4, n_features=16, random_state=0).space
    tuning = AdapterTuning(epochs=3, steps_per_epoch=2, batch_size=8, adapter_dim=4)
    labels = np.full(60, -1)
    built = tuning.build(space, device="cpu", n_jobs=None)
    fields = {
        "schedule": tuning.schedule(),
        "seed": 0,
        "images": TrainingImages(built.inputs, labels),
        "strong_view": built.strong_view,
        "load_encoder": built.load_encoder,
        "logit_scale": space.logit_scale,
        "adapter_dim": tuning.adapter_dim,
        "adapter_weight": tuning.adapter_weight,
        "self_training": CAPSelfTraining(
            image_features=space.image_features,
            text_features=space.text_features,
            logit_scale=space.logit_scale,
            labels=labels,
            seen=NONE,
            aligned=NONE,
            tau=0.8,
            calibrator=MarginCalibrator(m=4.0, tau=0.8),
            top_k=2,
            epochs=tuning.epochs,
            renew_every=2,
            ramp_fraction=0.7,
            max_share=0.8,
            max_per_class=1000,
        ),
        "fingerprint": {"seed": 0},
        "device": "cpu",
    }
    return TrainingTask(**fields | changes)


def weights_of(module):
    return torch.cat([value.flatten() for value in module.state_dict().values()])


def test_a_training_gives_its_state_and_a_module_that_has_learned():
    task = make_task()
    state, module = train(task)
    assert state.epoch == len(state.history) == 3
    assert not module.training
    assert not torch.equal(weights_of(module), weights_of(task.build_module("cpu")))


def test_seed_decides_the_first_weights_and_the_whole_training():
    same = [weights_of(train(make_task())[1]) for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], weights_of(train(make_task(seed=1))[1]))
    first = [weights_of(make_task(seed=seed).build_module("cpu")) for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_global_random_state_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(make_task())
    assert torch.equal(torch.rand(2), expected)


def test_learning_rate_of_each_epoch_is_that_of_its_last_step():
    task = make_task()
    rates = [row["learning_rate"] for row in train(task)[0].history]
    assert rates == pytest.approx([task.schedule.rate(step) for step in (1, 3, 5)])


def test_a_checkpoint_is_written_and_gone_on_from(tmp_path):
    task = make_task(checkpoint_dir=tmp_path)
    _, expected = train(make_task())
    state, module = train(task)
    assert read_fingerprint(tmp_path / CHECKPOINT_NAME) == {"seed": 0}
    assert torch.equal(weights_of(module), weights_of(expected))
    again, finished = train(task)  # nothing is left to do
    assert again.history == state.history
    assert torch.equal(weights_of(finished), weights_of(module))


class Log(Callback):
    """Notes what it is called for, and the epochs that are done by then."""

    def __init__(self, path=None):
        self.path = path

    def initialize(self):
        self.calls_ = []
        return self

    def _note(self, net, call):
        self.calls_.append((call, net.state.epoch))
        if self.path is not None:
            with open(self.path, "a") as file:
                file.write(f"{call} {net.state.epoch}\n")

    def on_train_begin(self, net, **kwargs):
        self._note(net, "train begins")

    def on_train_end(self, net, **kwargs):
        self._note(net, "train ends")

    def on_epoch_begin(self, net, **kwargs):
        self._note(net, "epoch begins")

    def on_epoch_end(self, net, **kwargs):
        self._note(net, "epoch ends")

    def on_batch_begin(self, net, **kwargs):
        self._note(net, "step begins")

    def on_batch_end(self, net, **kwargs):
        self._note(net, "step ends")


def calls_of_epoch(done):
    """Calls of an epoch of two steps behind so many others."""
    steps = [("step begins", done), ("step ends", done)] * 2
    return [("epoch begins", done), *steps, ("epoch ends", done + 1)]


def test_callbacks_are_called_behind_the_trainings_own():
    first, second = Log(), Log()
    train(make_task(callbacks=[first, ("second", second)]))
    expected = [("train begins", 0)]
    for done in range(3):
        expected += calls_of_epoch(done)
    assert first.calls_ == second.calls_ == [*expected, ("train ends", 3)]


def test_callbacks_see_the_epochs_that_are_left(tmp_path):
    class Kill(Callback):
        def on_epoch_end(self, net, **kwargs):
            if net.state.epoch == 2:
                raise RuntimeError("killed")

    class Epochs(Callback):
        def on_epoch_end(self, net, **kwargs):
            rows.append(dict(net.history[-1]))

    with pytest.raises(RuntimeError, match="killed"):
        train(make_task(checkpoint_dir=tmp_path, callbacks=[Kill()]))
    log, rows = Log(), []
    state, module = train(make_task(checkpoint_dir=tmp_path, callbacks=[log, Epochs()]))
    # the second epoch was over when it was killed
    assert log.calls_ == [("train begins", 2), *calls_of_epoch(2), ("train ends", 3)]
    assert [row["epoch"] for row in rows] == [3]
    assert rows[0]["loss"] == state.history[-1]["loss"]
    expected, alone = train(make_task())
    assert state.history == expected.history
    assert torch.equal(weights_of(module), weights_of(alone))


@pytest.mark.slow
def test_of_several_processes_a_copy_watches_the_first(tmp_path):
    log = Log(tmp_path / "calls.txt")
    alone = make_task(callbacks=[log])
    train(alone)
    expected = log.path.read_text()
    log.path.unlink()
    del log.calls_
    train(dataclasses.replace(alone, n_devices=2))
    assert log.path.read_text() == expected  # once, not twice
    assert not hasattr(log, "calls_")


def test_a_task_can_be_sent_to_another_process():
    copied = pickle.loads(pickle.dumps(make_task()))
    assert torch.equal(weights_of(train(copied)[1]), weights_of(train(make_task())[1]))


def test_without_main_samples_the_pseudo_branch_trains_alone():
    class NoMainSamples(CAPSelfTraining):
        def start(self):
            state = super().start()
            state.main_labels[:] = -1
            return state

    task = make_task()
    fields = {
        f.name: getattr(task.self_training, f.name) for f in dataclasses.fields(CAPSelfTraining)
    }
    state, module = train(
        dataclasses.replace(task, self_training=NoMainSamples(**fields | {"renew_every": None}))
    )
    assert [row["n_main"] for row in state.history] == [0, 0, 0]
    assert "main_loss" not in state.history[0]
    assert not module.main_adapter.fc2.weight.any()
    assert module.pseudo_adapter.fc2.weight.any()


def test_devices_have_to_share_a_batch(monkeypatch):
    check_devices(1, 7)
    check_devices(2, 8)
    with pytest.raises(ValueError, match="multiple of n_devices=3, got 32"):
        check_devices(3, 32)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs accelerate"):
        check_devices(2, 8)


def make_peer_task(peer, **changes):
    """The same task for a peer that chooses anew in each of three rounds."""
    task = make_task()
    common = {f.name for f in dataclasses.fields(PeerSelfTraining)}
    fields = {name: getattr(task.self_training, name) for name in common}
    numbers = {"rounds": 3}
    if peer is CandidatePseudolabels:
        numbers |= {"intra_quantile": 1.0, "inter_share": 3.0}
    training = peer(**fields, **numbers)
    return dataclasses.replace(task, self_training=training, pseudo_adapter=False, **changes)


@pytest.mark.parametrize("peer", [GrowingPseudolabels, CandidatePseudolabels])
@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_choices_of_later_rounds_are_gone_on_from_bit_for_bit(
    peer, n_steps, tmp_path, monkeypatch
):
    expected_state, expected = train(make_peer_task(peer))
    task = make_peer_task(peer, checkpoint_dir=tmp_path)
    steps, train_step = [], CAPNet.train_step

    def stop(net, *args, **kwargs):
        steps.append(1)
        if len(steps) > n_steps:
            raise RuntimeError("killed")
        return train_step(net, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(CAPNet, "train_step", stop)
        with pytest.raises(RuntimeError, match="killed"):
            train(task)
    state, module = train(task)
    assert torch.equal(weights_of(module), weights_of(expected))
    for field in dataclasses.fields(state):
        found, uninterrupted = (getattr(s, field.name) for s in (state, expected_state))
        np.testing.assert_array_equal(found, uninterrupted, err_msg=field.name)
        assert type(found) is type(uninterrupted)
    if peer is CandidatePseudolabels:
        assert state.candidates.dtype == bool
        assert (state.candidates.sum(axis=1) > 1).any()


def test_images_are_predicted_anew_by_the_model_as_it_is_after_the_epoch():
    seen = []

    class Watching(GrowingPseudolabels):
        def end_epoch(self, state, epoch):
            seen.append(epoch.logits)
            super().end_epoch(state, epoch)

        def wants_logits(self, epoch):
            return True

    task = make_peer_task(Watching)
    _, module = train(task)
    features = module.features(task.images.inputs)
    expected = module.logits(features, module.text_features(), "main").detach()
    np.testing.assert_allclose(seen[-1], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(seen[0] - seen[-1]).max() > 1e-3


def test_a_task_may_have_one_branch():
    module = make_task(pseudo_adapter=False).build_module("cpu")
    assert module.pseudo_adapter is module.main_adapter
    assert make_task().build_module("cpu").pseudo_adapter is not module.main_adapter
    _, trained = train(make_task(pseudo_adapter=False))
    assert trained.pseudo_adapter is trained.main_adapter
    both = train(make_task())[1]
    assert not torch.equal(trained.main_adapter.fc2.weight, both.main_adapter.fc2.weight)
