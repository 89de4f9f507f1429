"""A folder for every training, found again by what it depends on."""

import os

import numpy as np
import pytest
import torch
from torch import nn

from capkit.exceptions import CheckpointError
from capkit.training.checkpoint import CHECKPOINT_NAME, write_checkpoint
from capkit.training.fingerprint import sketch
from capkit.training.folders import check_folder, choose_folder, draw_seed
from capkit.training.self_training import SelfTrainingState

ROWS = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)


def known(**changes):
    return {"tau": 0.5, "images": sketch(ROWS)} | changes


def begin(folder):
    """What a training writes first."""
    module = nn.Linear(2, 2)
    state = SelfTrainingState.before_training(np.array([0, -1]), n_classes=2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    fingerprint = {**folder.known, "seed": folder.seed}
    write_checkpoint(folder.path / CHECKPOINT_NAME, state, module, optimizer, fingerprint)
    return folder


def test_the_same_training_gets_the_same_folder(tmp_path):
    first = choose_folder(tmp_path, known(), 3)
    assert first.seed == 3 and first.path.parent == tmp_path
    assert not first.is_begun and not first.path.exists()
    assert choose_folder(tmp_path, known(), 3).path == first.path
    begin(first)
    again = choose_folder(tmp_path, known(), np.int64(3))
    assert again.path == first.path and again.is_begun


def test_it_is_found_again_by_features_with_other_last_bits(tmp_path):
    first = begin(choose_folder(tmp_path, known(), 3))
    changed = known(images=sketch(ROWS + np.float32(1e-6)))
    assert choose_folder(tmp_path, changed, 3).path == first.path


@pytest.mark.parametrize("change", [{"tau": 0.25}, {"images": sketch(ROWS[::-1])}])
def test_another_training_gets_another_folder(tmp_path, change):
    first = begin(choose_folder(tmp_path, known(), 3))
    for seed in (3, None):
        other = choose_folder(tmp_path, known(**change), seed)
        assert other.path != first.path and not other.is_begun


def test_trainings_that_begin_at_the_same_time_get_two_folders(tmp_path):
    seeds = [choose_folder(tmp_path, known(), seed).path for seed in (0, 1, None, None)]
    halves = [choose_folder(tmp_path, known(images=sketch(ROWS[i : i + 9])), 0) for i in (0, 9)]
    assert len({*seeds, *(half.path for half in halves)}) == 6


def test_without_a_seed_the_last_training_of_several_goes_on(tmp_path):
    folders = [begin(choose_folder(tmp_path, known(), seed)) for seed in (5, 6, 7)]
    for folder, time in zip(folders, (20, 30, 10), strict=True):
        os.utime(folder.path / CHECKPOINT_NAME, (time, time))
    assert choose_folder(tmp_path, known(), None).seed == 6
    assert choose_folder(tmp_path, known(), 7).path == folders[2].path
    state = np.random.RandomState(0)
    assert choose_folder(tmp_path, known(), state).seed not in (5, 6, 7)


def test_a_damaged_checkpoint_that_may_be_its_own_is_named(tmp_path):
    first = begin(choose_folder(tmp_path, known(), 3))
    (first.path / CHECKPOINT_NAME).write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        choose_folder(tmp_path, known(), None)
    assert not choose_folder(tmp_path, known(tau=0.25), None).is_begun


def test_a_seed_is_an_integer_itself_or_drawn():
    assert draw_seed(np.int32(4)) == 4
    assert draw_seed(np.random.RandomState(0)) == np.random.RandomState(0).randint(2**31 - 1)
    assert draw_seed(None) != draw_seed(None)


def test_a_folder_is_made_and_left_empty(tmp_path):
    check_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"checkpoint_dir='.*' could not be written"):
        check_folder(tmp_path / "file" / "run")
