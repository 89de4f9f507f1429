"""Write a trained model to the files that capkit ships."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from capkit.backbones.checkpoint import (
    TOKEN_EMBEDDING,
    TOKEN_EMBEDDING_ROWS,
    TOKEN_EMBEDDING_SIZE,
)
from train import CONFIG_FILE

PACKAGE_DIR = Path(__file__).resolve().parents[2] / "capkit"
WEIGHTS_DIR = PACKAGE_DIR / "backbones" / "weights"


def save_compact(
    state: Mapping[str, torch.Tensor], token_ids: torch.Tensor, vocab_size: int, path: Path
) -> None:
    """Save a state dict in float16 whose token embedding has rows for ``token_ids`` only.

    ``capkit.backbones.checkpoint.load_checkpoint`` is the inverse.
    """
    if len(state[TOKEN_EMBEDDING]) != len(token_ids):
        raise ValueError(
            f"expected one embedding for each of {len(token_ids)} tokens, "
            f"got {len(state[TOKEN_EMBEDDING])}."
        )
    compact = {name: tensor.half().contiguous() for name, tensor in state.items()}
    compact[TOKEN_EMBEDDING_ROWS] = token_ids.to(torch.int32)
    compact[TOKEN_EMBEDDING_SIZE] = torch.tensor(vocab_size, dtype=torch.int32)
    # Not save_file, which makes the file readable by its owner only.
    path.write_bytes(save(compact))


def sha256(path: Path) -> str:
    """Checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_checksums(paths: list[Path], target: Path) -> None:
    """Write checksums in the format that ``sha256sum --check`` reads."""
    lines = [f"{sha256(path)}  {path.name}\n" for path in paths]
    target.write_text("".join(lines), encoding="utf-8")


def export_model(checkpoint_path: Path, weights_dir: Path = WEIGHTS_DIR) -> None:
    """Export the averaged weights of a checkpoint, the configuration and their checksums."""
    checkpoint = torch.load(checkpoint_path, weights_only=True)
    config = json.loads(CONFIG_FILE.read_text(encoding="utf-8"))
    vocab_size = config["model_cfg"]["text_cfg"]["vocab_size"]
    weights = weights_dir / "glyph.safetensors"
    partial = weights.with_suffix(".partial")
    save_compact(checkpoint["average"], checkpoint["token_ids"], vocab_size, partial)
    partial.replace(weights)
    config_file = weights.with_suffix(".json")
    config_file.write_text(CONFIG_FILE.read_text(encoding="utf-8"), encoding="utf-8")
    write_checksums([weights, config_file], weights_dir / "SHA256SUMS")
