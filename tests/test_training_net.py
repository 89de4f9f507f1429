"""Tests of the net's loss and of how a training stops."""

import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from capkit.exceptions import OutOfMemoryError, TrainingDivergedError
from capkit.training import net as net_module
from capkit.training.module import DualAdapterModule
from capkit.training.net import CAPNet
from capkit.training.schedule import Schedule
from capkit.training.self_training import CAPSelfTraining, SelfTrainingState
from capkit.training.streams import TrainingImages
from capkit.tuning.adapter import FeatureEncoder

SCHEDULE = Schedule(
    epochs=2,
    steps_per_epoch=3,
    batch_size=2,
    optimizer="sgd",
    learning_rate=0.25,
    momentum=0.9,
    weight_decay=0.1,
    warmup_epochs=1,
)


def make_self_training(tau=0.6):
    """Two classes, no images: only its losses are asked for here."""
    none = np.empty(0, dtype=np.int64)
    return CAPSelfTraining(
        image_features=np.empty((0, 2)),
        text_features=np.eye(2),
        logit_scale=1.0,
        labels=none,
        seen=none,
        aligned=none,
        tau=tau,
        calibrator=None,
        top_k=1,
        epochs=2,
        renew_every=5,
        ramp_fraction=0.7,
        max_share=0.8,
        max_per_class=1000,
    )


def make_net(margin_matrix):
    state = SelfTrainingState.before_training(np.array([0, -1]), n_classes=len(margin_matrix))
    state.margin_matrix = np.asarray(margin_matrix, dtype=np.float32)
    net = CAPNet(
        nn.Linear(2, 2),
        None,
        state=state,
        schedule=SCHEDULE,
        self_training=make_self_training(),
        train_split=None,
        verbose=0,
    ).initialize()
    net.notify("on_epoch_begin")
    return net


def logits_of(*probabilities):
    return torch.tensor(probabilities).log()


def outputs(weak, **logits):
    """What the module gives, for the weak view's logits."""
    pseudo = make_self_training().pseudo_label(weak, torch.arange(len(weak)))
    return {**logits, "pseudo": pseudo}


class TestLoss:
    def test_is_the_sum_of_the_streams_means(self):
        net = make_net(np.zeros((2, 2)))
        predicted = outputs(
            labeled=logits_of([0.5, 0.5], [0.25, 0.75]),
            main=logits_of([0.8, 0.2], [0.8, 0.2]),
            weak=logits_of([0.9, 0.1], [0.45, 0.55]),
            strong=logits_of([0.4, 0.6]),
        )
        targets = {
            "labeled": torch.tensor([0, 1]),
            "main": torch.tensor([0, 1]),
            "unlabeled": torch.tensor([1, 0]),
        }
        loss = net.get_loss(predicted, targets)
        labeled = -(np.log(0.5) + np.log(0.75)) / 2
        main = -(np.log(0.8) + np.log(0.2)) / 2
        pseudo = -np.log(0.4)  # one image is kept, as class 0
        assert loss.item() == pytest.approx(labeled + main + pseudo, rel=1e-6)

    def test_margin_is_added_to_the_other_classes_logits(self):
        net = make_net([[0.0, np.log(3.0)], [0.0, 0.0]])
        predicted = outputs(
            main=logits_of([0.5, 0.5], [0.5, 0.5]),
            weak=logits_of([0.5, 0.5], [0.5, 0.5]),
            strong=torch.empty(0, 2),
        )
        targets = {"main": torch.tensor([0, 1]), "unlabeled": torch.tensor([0, 1])}
        # class 0: 1 / (1 + 3), class 1: 1 / (1 + 1)
        expected = (np.log(4) + np.log(2)) / 2
        assert net.get_loss(predicted, targets).item() == pytest.approx(expected, rel=1e-6)

    def test_no_confident_image_leaves_the_pseudo_loss_at_zero(self):
        net = make_net(np.zeros((2, 2)))
        weak = logits_of([0.5, 0.5])
        strong = torch.empty(0, 2, requires_grad=True)
        loss = net.get_loss(
            outputs(weak=weak, strong=strong, main=weak),
            {"main": torch.tensor([0]), "unlabeled": torch.tensor([0])},
        )
        assert loss.item() == pytest.approx(np.log(2))
        loss.backward()
        assert torch.isfinite(strong.grad).all()

    def test_predictions_are_collected_in_the_order_drawn(self):
        net = make_net(np.zeros((2, 2)))
        for image, row in ((3, [0.9, 0.1]), (1, [0.2, 0.8])):
            weak = logits_of(row)
            net.get_loss(
                outputs(weak=weak, strong=weak, main=weak),
                {"main": torch.tensor([0]), "unlabeled": torch.tensor([image])},
            )
        epoch = net.epoch_predictions(TrainingImages(torch.zeros(4, 2), np.full(4, -1)))
        assert epoch.indices.tolist() == [3, 1]
        assert epoch.labels.tolist() == [0, 1]
        assert epoch.confidence.tolist() == pytest.approx([0.9, 0.8])
        assert epoch.losses["main"] == pytest.approx(-(np.log(0.9) + np.log(0.2)) / 2)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_diverged_loss_stops_with_step_and_learning_rate(self, value):
        net = make_net(np.zeros((2, 2)))
        net.state.epoch = 1
        weak = logits_of([0.9, 0.1])
        with pytest.raises(TrainingDivergedError) as caught:
            net.get_loss(
                outputs(weak=weak, strong=weak, main=weak * value),
                {"main": torch.tensor([1]), "unlabeled": torch.tensor([0])},
            )
        message = str(caught.value)
        assert "step 4 of 6 (epoch 2" in message
        assert "Lower learning_rate (it is 0.25)" in message


class TestOutOfMemory:
    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        ],
    )
    def test_sizes_and_remedy_are_named(self, error, monkeypatch):
        net = make_net(np.zeros((2, 2)))

        def fail(*args, **kwargs):
            raise error

        monkeypatch.setattr(net, "train_step_single", fail)
        batch = ({"main": torch.zeros(2, 3, 8, 8)}, {"main": torch.zeros(2)})
        with pytest.raises(OutOfMemoryError, match="batch_size") as caught:
            net.train_step(batch)
        assert "2 classes, batches main (2, 3, 8, 8)" in str(caught.value)

    def test_other_errors_pass(self, monkeypatch):
        net = make_net(np.zeros((2, 2)))

        def fail(*args, **kwargs):
            raise RuntimeError("shapes do not match")

        monkeypatch.setattr(net, "train_step_single", fail)
        with pytest.raises(RuntimeError, match="shapes do not match"):
            net.train_step(({}, {}))


def test_a_mean_is_over_the_samples_of_all_processes(monkeypatch):
    """Two processes that keep 1 and 3 views: together the mean of the four losses."""
    losses = torch.tensor([1.0, 2.0, 3.0, 6.0])
    parts = []
    for own in (losses[:1], losses[1:]):
        net = make_net(np.zeros((2, 2)))
        monkeypatch.setattr(CAPNet, "n_processes", 2)
        monkeypatch.setattr(net, "sum_over_processes", lambda count: torch.tensor(4))
        parts.append(net._mean(own))
    assert torch.stack(parts).mean() == losses.mean()
    assert net._mean(torch.empty(0)) == 0


class TestPredictionsAnew:
    """At the end of an epoch all unlabeled images may be predicted."""

    LABELS = np.array([0, -1, -1, 1, -1, -1, -1])

    def make(self, wanted=(1,)):
        torch.manual_seed(0)
        texts = F.normalize(torch.randn(3, 5), dim=1)
        module = DualAdapterModule(FeatureEncoder(texts), 10.0, adapter_dim=4, adapter_weight=0.5)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter)
        net = make_net(np.zeros((3, 3)))
        net.module_, asked = module, []
        net.self_training = types.SimpleNamespace(
            wants_logits=lambda epoch: asked.append(epoch) or epoch in wanted
        )
        net.losses_ = [{"main": torch.tensor(0.5)}]
        return net, asked, TrainingImages(torch.randn(7, 5), self.LABELS)

    def test_are_the_main_branch_s_logits_and_zero_for_labeled_images(self):
        net, asked, images = self.make()
        epoch = net.epoch_predictions(images)
        module, unlabeled = net.module_, images.unlabeled
        features = module.features(images.inputs[unlabeled], "main")
        expected = 10.0 * features @ module.text_features("main").T
        assert asked == [1]
        assert epoch.logits.shape == (7, 3)
        np.testing.assert_allclose(epoch.logits[unlabeled], expected.detach(), rtol=1e-4)
        assert not epoch.logits[images.labeled].any()
        assert epoch.logits.dtype == np.float32

    def test_are_made_only_where_they_are_asked_for(self):
        net, asked, images = self.make(wanted=(2,))
        assert net.epoch_predictions(images).logits is None
        net.state.epoch = 1
        assert net.epoch_predictions(images).logits is not None
        assert asked == [1, 2]

    def test_take_a_batch_of_inputs_at_a_time(self, monkeypatch):
        net, _, images = self.make()
        read, encode = [], net_module.encode_batches
        monkeypatch.setattr(
            net_module,
            "encode_batches",
            lambda module, inputs, size: read.append(len(inputs)) or encode(module, inputs, size),
        )
        net.epoch_predictions(images)
        assert read == [2, 2, 1]

    def test_of_an_epoch_without_views_nothing_was_drawn(self):
        net, _, images = self.make()
        epoch = net.epoch_predictions(images)
        assert [len(epoch.indices), len(epoch.labels), len(epoch.confidence)] == [0, 0, 0]
        assert epoch.indices.dtype == epoch.labels.dtype == np.int64


def test_without_a_weak_view_the_loss_is_that_of_the_other_streams():
    net = make_net(np.zeros((2, 2)))
    net.self_training = types.SimpleNamespace(
        losses=lambda outputs, targets, margin: {
            "main": F.cross_entropy(outputs["main"], targets["main"], reduction="none")
        }
    )
    loss = net.get_loss({"main": logits_of([0.8, 0.2])}, {"main": torch.tensor([1])})
    assert loss.item() == pytest.approx(-np.log(0.2), rel=1e-6)
    assert net.predictions_ == []
