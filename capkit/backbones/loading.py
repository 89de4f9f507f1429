"""From a configuration and a file of weights to a :class:`~capkit.backbones.Backbone`."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip import CLIP, CoCa, CustomTextCLIP
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import nn

from capkit._seeding import seeded
from capkit.backbones.backbone import Backbone
from capkit.backbones.checkpoint import load_checkpoint
from capkit.backbones.stem import ConvStem
from capkit.exceptions import BackboneError, BackboneMismatchError

__all__ = ["BackboneFiles", "build_backbone"]

# What OpenAI's archives hold beside the weights.
_NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}
# What text_cfg.tokenizer_kwargs may say. What else it says would reach transformers, where
# "trust_remote_code" runs code that comes with the tokenizer.
_TOKENIZER_OPTIONS = frozenset(
    {"additional_special_tokens", "clean", "language", "reduction_mask", "strip_sep_token"}
)
_SHOWN_KEYS = 5
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
    """

    name: str
    config: Mapping[str, Any]
    weights: Path

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


def build_backbone(
    files: BackboneFiles, device: torch.device, reload: Callable[[str, str], Backbone]
) -> Backbone:
    """Build the model, load its weights and freeze it.

    Parameters
    ----------
    files : BackboneFiles
    device : torch.device
    reload : callable
        From a name and a device to the Backbone.

    Returns
    -------
    Backbone

    Raises
    ------
    BackboneError
        If the file cannot be read, its weights are not finite, or the tokenizer not be had.
    BackboneMismatchError
        If the configuration describes no model, or another one than the weights belong to.
    """
    model_cfg = copy.deepcopy(files.config["model_cfg"])
    _check_tokenizer_options(model_cfg["text_cfg"], files.name)
    try:
        with seeded(0):  # the first weights are replaced: that they are drawn must not show
            model = _build_model(model_cfg, files.config.get("conv_stem"))
    except MemoryError:
        raise
    except Exception as error:  # open_clip and timm raise any kind for a wrong configuration
        raise BackboneMismatchError(
            f"the configuration of {files.name!r} describes no model that open_clip can build: "
            f"{type(error).__name__}: {error}"
        ) from error
    tokenizer = _build_tokenizer(model_cfg["text_cfg"], files.name)
    _load_weights(model, _read_weights(files), files)
    return Backbone(
        name=files.name,
        identity=files.identity,
        reload=reload,
        model=model,
        tokenizer=tokenizer,
        preprocess=_preprocess(model, files),
        embed_dim=model_cfg["embed_dim"],
        device=device,
    )


def _check_tokenizer_options(text_cfg: Mapping[str, Any], name: str) -> None:
    """Refuse options that are not known to be harmless: others can make a tokenizer run code."""
    options = text_cfg.get("tokenizer_kwargs") or {} if isinstance(text_cfg, Mapping) else {}
    unknown = sorted(set(options) - _TOKENIZER_OPTIONS)
    if unknown:
        raise BackboneMismatchError(
            f"the configuration of {name!r} gives its tokenizer {_shorten(unknown)}; only "
            f"{', '.join(sorted(_TOKENIZER_OPTIONS))} are taken from a file. Remove the others "
            "from text_cfg.tokenizer_kwargs."
        )


def _build_model(model_cfg: dict[str, Any], conv_stem: list[int] | None) -> Any:
    model_cfg = copy.deepcopy(model_cfg)
    is_custom = model_cfg.pop("custom_text", False)
    vision_cfg, text_cfg = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    if "timm_model_name" in vision_cfg:
        vision_cfg["timm_model_pretrained"] = False  # the checkpoint has these weights
    if "hf_model_name" in text_cfg:
        is_custom, text_cfg["hf_model_pretrained"] = True, False
    if "multimodal_cfg" in model_cfg:
        model = CoCa(**model_cfg)
    else:
        model = (CustomTextCLIP if is_custom else CLIP)(**model_cfg)
    if conv_stem is not None:
        _replace_patch_embedding(model.visual, conv_stem)
    return model


def _replace_patch_embedding(visual: Any, channels: list[int]) -> None:
    patch_size, width = visual.conv1.kernel_size[0], visual.conv1.out_channels
    if channels[-1] != width or 2 ** len(channels) != patch_size:
        raise ValueError(
            f"conv_stem is expected to end at the width {width} and to have a convolution for "
            f"each halving down to patches of {patch_size} pixels, got channels {channels}"
        )
    visual.conv1 = ConvStem(channels)


def _read_weights(files: BackboneFiles) -> dict[str, torch.Tensor]:
    try:
        return load_checkpoint(files.weights)
    except MemoryError:
        raise
    except Exception as error:  # safetensors, pickle and torch each raise their own kinds
        raise BackboneError(
            f"the weights of {files.name!r} could not be read from {files.weights}: {error}. "
            "If the file is damaged, delete it and get it again."
        ) from error


def _load_weights(
    model: nn.Module, weights: dict[str, torch.Tensor], files: BackboneFiles
) -> None:
    """Load `weights` if their names and shapes are exactly the model's, and all are finite."""
    weights = _as_open_clip_names_them(model, weights)
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    reshaped = [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if missing or unknown or reshaped:
        raise BackboneMismatchError(
            f"the weights in {files.weights} do not belong to the configuration of "
            f"{files.name!r}: missing {_shorten(missing)}; not in the model {_shorten(unknown)}; "
            f"of another shape {_shorten(reshaped)}."
        )
    diverged = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if diverged:
        raise BackboneError(
            f"the weights in {files.weights} are not all finite: there are NaNs or infinities in "
            f"{_shorten(diverged)}. The training that wrote them had diverged, or the file is "
            "damaged: get it again."
        )
    model.load_state_dict(weights)


def _as_open_clip_names_them(
    model: nn.Module, weights: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    weights = {name: tensor for name, tensor in weights.items() if name not in _NOT_WEIGHTS}
    weights = convert_state_dict(model, weights)
    if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    expected = model.state_dict()
    for name in ("logit_scale", "logit_bias"):  # saved as a scalar or as a vector of one
        if name in weights and name in expected and weights[name].numel() == 1:
            weights[name] = weights[name].reshape(expected[name].shape)
    position_ids = "text.transformer.embeddings.position_ids"  # older transformers saved them
    if position_ids not in expected:
        weights.pop(position_ids, None)
    return weights


def _shorten(names: list[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _SHOWN_KEYS} more" if len(names) > _SHOWN_KEYS else ""
    return ", ".join(names[:_SHOWN_KEYS]) + more


def _build_tokenizer(text_cfg: Mapping[str, Any], name: str) -> Callable:
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    options["context_length"] = text_cfg.get("context_length", 77)
    source = text_cfg.get("hf_tokenizer_name")
    if not source:
        return SimpleTokenizer(**options)
    try:
        return HFTokenizer(source, tokenizer_mode=text_cfg.get("tokenizer_mode"), **options)
    except ImportError as error:
        raise BackboneError(
            f"the tokenizer {source!r} of {name!r} needs the package transformers: "
            "pip install transformers sentencepiece"
        ) from error
    except Exception as error:  # whatever the hub or the file raises
        raise BackboneError(
            f"the tokenizer {source!r} of {name!r} could not be loaded: {error}. Connect to the "
            "network once, or put a folder with the tokenizer's files as hf_tokenizer_name into "
            "the configuration."
        ) from error


def _preprocess(model: Any, files: BackboneFiles) -> PreprocessCfg:
    values = merge_preprocess_dict(PreprocessCfg(), files.config.get("preprocess_cfg") or {})
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise BackboneMismatchError(
            f"{files.name!r} takes images of {height} x {width} pixels; only square ones are "
            "supported."
        )
    return PreprocessCfg(**{**values, "size": int(height)})
