"""Reading checkpoint files."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from capkit.backbones.checkpoint import expand_token_embedding, load_checkpoint
from capkit.backbones.stem import ConvStem

STATE = {"weight": torch.tensor([1.5, -2.0]), "steps": torch.tensor(7)}


def assert_is_state(loaded):
    assert set(loaded) == set(STATE)
    assert loaded["weight"].dtype == torch.float32
    assert loaded["weight"].tolist() == [1.5, -2.0]
    assert loaded["steps"].dtype == torch.int64


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_torch_file_loads(tmp_path, suffix):
    torch.save(STATE, tmp_path / f"model{suffix}")
    assert_is_state(load_checkpoint(tmp_path / f"model{suffix}"))


def test_safetensors_file_loads_as_float32(tmp_path):
    half = {name: t.half() if t.is_floating_point() else t for name, t in STATE.items()}
    save_file(half, tmp_path / "model.safetensors")
    assert_is_state(load_checkpoint(str(tmp_path / "model.safetensors")))


def test_training_checkpoint_is_unwrapped(tmp_path):
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": t for name, t in STATE.items()}}
    torch.save(wrapped, tmp_path / "model.pt")
    assert_is_state(load_checkpoint(tmp_path / "model.pt"))


def test_sparse_token_embedding_is_filled_with_the_mean():
    state = {
        "token_embedding.weight": torch.tensor([[0.0, 2.0], [4.0, 6.0]]),
        "token_embedding.rows": torch.tensor([1, 3], dtype=torch.int32),
        "token_embedding.size": torch.tensor(5, dtype=torch.int32),
    }
    expanded = expand_token_embedding(state)
    assert list(expanded) == ["token_embedding.weight"]
    assert expanded["token_embedding.weight"].tolist() == [[2, 4], [0, 2], [2, 4], [4, 6], [2, 4]]


def test_damaged_sparse_token_embedding_is_refused():
    state = {
        "token_embedding.weight": torch.zeros(2, 2),
        "token_embedding.rows": torch.tensor([1, 5], dtype=torch.int32),
        "token_embedding.size": torch.tensor(5, dtype=torch.int32),
    }
    with pytest.raises(ValueError, match="identifier below 5, got 2 identifiers from 1 to 5"):
        expand_token_embedding(state)


def test_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected to be one of \.safetensors.*'model\.onnx'"):
        load_checkpoint(tmp_path / "model.onnx")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        load_checkpoint(tmp_path / "nowhere.pt")


def test_file_without_a_state_dict_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"'model\.pt' to hold a state dict.*got list"):
        load_checkpoint(tmp_path / "model.pt")


def test_pickled_code_is_not_executed(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").touch, ())

    torch.save({"state_dict": Malicious()}, tmp_path / "model.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Malicious()))
    for name in ("model.pt", "bare.pt"):
        with pytest.raises(ValueError, match=rf"'{name}' .*holds more than tensors") as caught:
            load_checkpoint(tmp_path / name)
        assert not tmp_path.joinpath("executed").exists()
        assert "torch.save(model.state_dict(), 'weights.pt')" in str(caught.value)
        # torch's own message advises to do what executes the file
        assert "weights_only" not in str(caught.value) and caught.value.__context__ is None


def test_stem_gives_the_grid_of_its_patch_size():
    stem = ConvStem([4, 8, 16])
    assert stem(torch.zeros(2, 3, 32, 48)).shape == (2, 16, 4, 6)


def test_stem_ends_linear():
    # A GELU at the end would leave no output far below zero.
    torch.manual_seed(0)
    assert ConvStem([4, 8])(torch.randn(8, 3, 16, 16) * 10).min() < -0.5


@pytest.mark.parametrize("channels", [[], [8, 0]])
def test_stem_refuses_impossible_channels(channels):
    with pytest.raises(ValueError, match="positive number of channels"):
        ConvStem(channels)
