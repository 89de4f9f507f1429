"""Tests of the training's checkpoint."""

import hashlib
import io
import os

import numpy as np
import pytest
import torch
from torch import nn

from capkit.exceptions import CheckpointError, CheckpointMismatchError
from capkit.training.checkpoint import read_checkpoint, read_fingerprint, write_checkpoint
from capkit.training.fingerprint import plain, sketch
from capkit.training.self_training import SelfTrainingState

FINGERPRINT = plain({"classes": ["cat", "dog"], "augment": 0.5, "betas": (0.9, 0.999)})


def make_training(optimizer_class, n_steps=0, seed=0, **options):
    torch.manual_seed(seed)
    module = nn.Linear(3, 2)
    optimizer = optimizer_class(module.parameters(), lr=0.1, **options)
    state = SelfTrainingState.before_training(np.array([-1, 0, 1, -1]), n_classes=2)
    for _ in range(n_steps):
        make_step(module, optimizer)
    return state, module, optimizer


def make_step(module, optimizer):
    optimizer.zero_grad()
    module(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "training.pt"


@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
        (torch.optim.SGD, {}),
        (torch.optim.AdamW, {"betas": (0.9, 0.99)}),
    ],
)
def test_a_training_goes_on_as_if_it_had_not_stopped(path, optimizer_class, options):
    state, module, optimizer = make_training(optimizer_class, n_steps=2, **options)
    state.epoch, state.history = 2, [{"loss": 0.1}, {"loss": 1 / 3}]
    state.margin_matrix = np.array([[0, 1.5], [0.25, 0]], dtype=np.float32)
    state.pseudo_labels[1] = 1
    state.confidence[1] = 0.9
    write_checkpoint(path, state, module, optimizer, FINGERPRINT)

    restored = make_training(optimizer_class, seed=1, **options)
    assert read_checkpoint(path, *restored, FINGERPRINT)
    for name, value in vars(state).items():
        found = getattr(restored[0], name)
        assert np.array_equal(found, value), name
        assert getattr(found, "dtype", None) == getattr(value, "dtype", None), name
    for _ in range(2):
        make_step(module, optimizer)
        make_step(*restored[1:])
    assert torch.equal(restored[1].weight, module.weight)


def test_restored_arrays_can_be_written_to(path):
    training = make_training(torch.optim.SGD)
    write_checkpoint(path, *training, FINGERPRINT)
    assert read_checkpoint(path, *training, FINGERPRINT)
    training[0].pseudo_labels[0] = 1


def test_without_a_file_nothing_is_changed(path):
    state, module, optimizer = make_training(torch.optim.SGD)
    before = module.weight.clone()
    assert not read_checkpoint(path, state, module, optimizer, FINGERPRINT)
    assert torch.equal(module.weight, before)
    assert read_fingerprint(path) is None


def test_fingerprint_can_be_read_alone(path):
    write_checkpoint(path, *make_training(torch.optim.SGD), FINGERPRINT | {"seed": 7})
    assert read_fingerprint(path)["seed"] == 7


def test_another_training_s_checkpoint_is_refused_and_the_difference_named(path):
    training = make_training(torch.optim.SGD)
    write_checkpoint(path, *training, FINGERPRINT)
    other = FINGERPRINT | {"augment": 0.25, "new": 1}
    with pytest.raises(CheckpointMismatchError) as caught:
        read_checkpoint(path, *training, other)
    message = str(caught.value)
    assert "augment (0.5 in the checkpoint, 0.25 now)" in message
    assert "new (None in the checkpoint, 1 now)" in message
    assert "classes" not in message


def unit_rows(seed):
    rows = np.random.default_rng(seed).standard_normal((60, 16)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_one_other_image_is_refused_and_rounding_is_not(path):
    training, images = make_training(torch.optim.SGD), unit_rows(seed=0)
    write_checkpoint(path, *training, {"images": sketch(images)})
    assert read_checkpoint(path, *training, {"images": sketch(images + np.float32(1e-6))})
    images[7] = unit_rows(seed=1)[7]
    with pytest.raises(CheckpointMismatchError) as caught:
        read_checkpoint(path, *training, {"images": sketch(images)})
    assert "Different: images (1 of 60 are others). Use another" in str(caught.value)


def test_weights_that_are_not_finite_are_refused(path):
    state, module, optimizer = make_training(torch.optim.SGD)
    with torch.no_grad():
        module.weight[0, 1] = float("nan")
    write_checkpoint(path, state, module, optimizer, FINGERPRINT)
    with pytest.raises(CheckpointError, match=r"had diverged: weight is not finite\. Delete it"):
        read_checkpoint(path, *make_training(torch.optim.SGD), FINGERPRINT)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_a_damaged_file_is_named(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"training\.pt is not a .* Delete it"):
        read_checkpoint(path, *make_training(torch.optim.SGD), FINGERPRINT)


def test_half_a_checkpoint_is_damaged(path):
    training = make_training(torch.optim.SGD)
    write_checkpoint(path, *training, FINGERPRINT)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path, *training, FINGERPRINT)


def test_a_failed_write_is_an_error_and_keeps_the_last_epoch(path, monkeypatch):
    state, module, optimizer = make_training(torch.optim.SGD)
    state.epoch = 1
    write_checkpoint(path, state, module, optimizer, FINGERPRINT)

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    state.epoch = 2
    with pytest.raises(CheckpointError, match=r"No space left on device.*make room"):
        write_checkpoint(path, state, module, optimizer, FINGERPRINT)
    assert read_checkpoint(path, state, module, optimizer, FINGERPRINT)
    assert state.epoch == 1
    assert os.listdir(path.parent) == [path.name]


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def write_sealed(content, path):
    """A file of something else, whose digest is right."""
    stream = io.BytesIO()
    torch.save(content, stream)
    whole = stream.getvalue()
    path.write_bytes(whole + hashlib.blake2b(whole, digest_size=16).digest())


def test_reading_executes_nothing(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path.parent.mkdir()
    write_sealed({"format": Evil()}, path)
    with pytest.raises(CheckpointError, match="damaged"):
        read_fingerprint(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "change", [{"module": {}}, {"state": {"epoch": 1}, "optimizer": {}}, {"optimizer": None}]
)
def test_content_that_no_training_wrote_is_refused(path, change):
    training = make_training(torch.optim.SGD)
    write_checkpoint(path, *training, FINGERPRINT)
    content = torch.load(io.BytesIO(path.read_bytes()[:-16]), weights_only=True)
    write_sealed(content | change, path)
    with pytest.raises(CheckpointError, match="is not a training checkpoint of capkit"):
        read_checkpoint(path, *training, FINGERPRINT)


def test_another_format_is_named(path):
    path.parent.mkdir()
    write_sealed({"format": 99}, path)
    with pytest.raises(CheckpointError, match="format 99, expected 4: by another version"):
        read_fingerprint(path)


@pytest.mark.parametrize("place", np.linspace(0.0, 0.999, 12))
def test_a_flipped_bit_is_an_error(path, place):
    write_checkpoint(path, *make_training(torch.optim.SGD), FINGERPRINT)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 16
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path, *make_training(torch.optim.SGD), FINGERPRINT)
