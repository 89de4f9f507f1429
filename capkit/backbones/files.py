"""The files that a backbone is built from, and its configuration among them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capkit.exceptions import BackboneMismatchError

__all__ = ["CONFIG_NAME", "BackboneFiles", "read_config"]

CONFIG_NAME = "open_clip_config.json"
# open_clip's own configurations have three levels. What copies one would fail at hundreds.
_DEEPEST_CONFIG = 20
_CHUNK_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class BackboneFiles:
    """What a backbone is built from.

    Parameters
    ----------
    name : str
        Name that :func:`~capkit.backbones.load_backbone` takes.
    config : dict
        In the layout of open_clip's ``open_clip_config.json``: ``model_cfg`` and
        ``preprocess_cfg``; and capkit's one extension of it, ``conv_stem``, the channels of a
        :class:`~capkit.backbones.stem.ConvStem` in place of the image tower's ``conv1``.
    weights : Path
        The checkpoint file.
    config_path : Path or None, default=None
        The file of the configuration, where it is a user's own.
    tokenizer_folder : Path or None, default=None
        Folder with the files of the tokenizer, which stands in for the one that the
        configuration names.
    tokenizer_revision : str or None, default=None
        Commit of the tokenizer that the configuration names, where it has to be a certain one.
    """

    name: str
    config: Mapping[str, Any]
    weights: Path
    config_path: Path | None = None
    tokenizer_folder: Path | None = None
    tokenizer_revision: str | None = None

    @property
    def version(self) -> tuple:
        """What tells these files apart from others that later stand in their place."""
        versions = []
        for file in filter(None, (self.weights, self.config_path)):
            status = file.stat()
            versions.append((str(file), status.st_size, status.st_mtime_ns))
        return tuple(versions)

    @property
    def identity(self) -> str:
        """SHA-256 of the configuration and the weights, in hexadecimal."""
        status = self.weights.stat()
        weights = _sha256(self.weights, status.st_size, status.st_mtime_ns)
        config = json.dumps(self.config, sort_keys=True)
        return hashlib.sha256(f"{weights}\n{config}".encode()).hexdigest()


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified: int) -> str:
    """Hash of a file, which is read once; size and time of change stand for its content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration of a model.

    Parameters
    ----------
    path : Path
        JSON in the layout of open_clip's ``open_clip_config.json``, or of its ``model_configs``.

    Returns
    -------
    dict
        With a ``model_cfg``.

    Raises
    ------
    BackboneMismatchError
        If it is no JSON, or describes no model.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if _is_deeper(config, _DEEPEST_CONFIG):
            raise ValueError(f"it is nested more than {_DEEPEST_CONFIG} levels deep")
    except (ValueError, RecursionError) as error:
        raise BackboneMismatchError(f"{path} is not valid JSON: {error}") from error
    if isinstance(config, dict) and "model_cfg" not in config:
        config = {"model_cfg": config}  # open_clip's own model_configs/*.json
    model_cfg = config["model_cfg"] if isinstance(config, dict) else config
    required = ("embed_dim", "vision_cfg", "text_cfg")
    missing = [key for key in required if not isinstance(model_cfg, dict) or key not in model_cfg]
    if missing:
        raise BackboneMismatchError(
            f"{path} is no configuration of an open_clip model: model_cfg lacks {missing}."
        )
    return config


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in inner)
