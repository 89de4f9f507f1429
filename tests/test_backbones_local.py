"""A folder in open_clip's layout is a backbone, wherever it stands."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hub_server import CONFIG, model_files

from capkit.backbones import load_backbone, local
from capkit.exceptions import BackboneMismatchError, BackboneNotFoundError

CONFIG_NAME, WEIGHTS_NAME = "open_clip_config.json", "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def content():
    return model_files()


@pytest.fixture
def folder(content, tmp_path):
    path = tmp_path / "plants"
    path.mkdir()
    for name, data in content.items():
        (path / name).write_bytes(data)
    return path


def load(folder):
    return load_backbone(f"local-dir:{folder}", device="cpu")


def test_a_folder_is_loaded_once_by_every_way_of_writing_its_name(folder, monkeypatch):
    backbone = load(folder)
    assert backbone.name == f"local-dir:{folder}"
    monkeypatch.chdir(folder.parent)
    assert load("plants") is load("./plants") is backbone
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load("~/plants") is backbone


def test_a_folder_that_changed_is_another_backbone(folder):
    before = load(folder)
    (folder / WEIGHTS_NAME).write_bytes(model_files(seed=1)[WEIGHTS_NAME])
    assert load(folder).identity != before.identity


def test_a_moved_folder_is_the_same_backbone(folder):
    before = load(folder)
    moved = folder.rename(folder.parent / "moved")
    assert load(moved).identity == before.identity


def test_the_weights_are_those_that_open_clip_would_take(folder):
    for name in ("zzz.safetensors", "aaa.bin", "model.safetensors"):
        (folder / name).touch()
    assert local.find_in_folder(folder).weights.name == WEIGHTS_NAME
    (folder / WEIGHTS_NAME).unlink()
    assert local.find_in_folder(folder).weights.name == "model.safetensors"


def test_the_only_checkpoint_is_taken_whatever_its_name(folder):
    only = (folder / WEIGHTS_NAME).rename(folder / "epoch_30.safetensors")
    assert local.find_in_folder(folder).weights == only
    (folder / "epoch_31.pt").touch()
    with pytest.raises(BackboneMismatchError, match=r"of epoch_30.safetensors, epoch_31.pt in "):
        load(folder)


def test_a_folder_without_its_files_is_said(folder):
    (folder / WEIGHTS_NAME).unlink()
    with pytest.raises(BackboneNotFoundError, match=f"has no weights: expected {WEIGHTS_NAME}"):
        load(folder)
    (folder / CONFIG_NAME).unlink()
    with pytest.raises(BackboneNotFoundError, match=f"has no {CONFIG_NAME}"):
        load(folder)
    shutil.rmtree(folder)
    with pytest.raises(BackboneNotFoundError, match="there is no folder"):
        load(folder)


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_a_tokenizer_in_the_folder_is_the_model_s(folder, monkeypatch, has_tokenizer):
    sources = []

    def tokenizer(source, *, trust_remote_code, **options):
        assert trust_remote_code is False
        sources.append(Path(source))
        return lambda texts: torch.zeros(len(texts), 32, dtype=torch.int64)

    monkeypatch.setattr("capkit.backbones.loading.HFTokenizer", tokenizer)
    config = json.loads(json.dumps(CONFIG))
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "lab/plants"
    (folder / CONFIG_NAME).write_text(json.dumps(config))
    if has_tokenizer:
        (folder / "tokenizer.json").write_text("{}")
    load(folder)
    assert sources == [folder if has_tokenizer else Path("lab/plants")]
