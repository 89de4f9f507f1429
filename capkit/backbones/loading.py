"""From a configuration and a file of weights to a :class:`~capkit.backbones.Backbone`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
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
from capkit.backbones.files import BackboneFiles
from capkit.backbones.hub import why_unreachable
from capkit.backbones.stem import ConvStem
from capkit.exceptions import BackboneError, BackboneMismatchError, BackboneNotFoundError

__all__ = ["build_backbone", "build_model"]

# Entries of OpenAI's archives that are not weights.
_NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}
# Allowed keys of text_cfg.tokenizer_kwargs. Any others would reach transformers, where
# "trust_remote_code" runs code that comes with the tokenizer.
_TOKENIZER_OPTIONS = frozenset(
    {"additional_special_tokens", "clean", "language", "reduction_mask", "strip_sep_token"}
)
_SHOWN_KEYS = 5


def build_backbone(
    files: BackboneFiles, device: torch.device, reload: Callable[[str, str], Backbone]
) -> Backbone:
    """Build the model, load its weights and freeze it.

    Parameters
    ----------
    files : BackboneFiles
    device : torch.device
    reload : callable
        Maps a name and a device to the Backbone.

    Returns
    -------
    Backbone

    Raises
    ------
    BackboneError
        If the file cannot be read, its weights are not finite, or the tokenizer is not available.
    BackboneMismatchError
        If the configuration describes no model, or one that does not match the weights.
    """
    model_cfg = copy.deepcopy(files.config["model_cfg"])
    _check_tokenizer_options(model_cfg["text_cfg"], files.name)
    _check_text_model(model_cfg["text_cfg"], files.name)
    try:
        with seeded(0):  # the first weights are replaced: that they are drawn must not show
            model = build_model(model_cfg, files.config.get("conv_stem"))
    except MemoryError:
        raise
    except Exception as error:  # open_clip and timm raise any kind for a wrong configuration
        raise BackboneMismatchError(
            f"the configuration of {files.name!r} describes no model that open_clip can build: "
            f"{type(error).__name__}: {error}"
        ) from error
    tokenizer = _build_tokenizer(model_cfg["text_cfg"], files)
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


def _check_text_model(text_cfg: Mapping[str, Any], name: str) -> None:
    """Refuse a text model of transformers that comes with code of its own."""
    source = text_cfg.get("hf_model_name") if isinstance(text_cfg, Mapping) else None
    if not source:
        return
    try:
        from open_clip.hf_model import AutoConfig, arch_dict  # transformers', where it is there

        # What open_clip asks for without this answer; transformers would ask the user.
        load = partial(AutoConfig.from_pretrained, source, trust_remote_code=False)
        kind = _cached_or_fetched(load, source, "config.json").model_type
    except Exception as error:  # whatever the hub or the file raises
        raise _explain(error, f"the text model {source!r} of {name!r}") from error
    if kind not in arch_dict:
        raise BackboneMismatchError(
            f"the text model {source!r} of {name!r} is of the kind {kind!r}; open_clip knows "
            f"{', '.join(sorted(arch_dict))}."
        )


def build_model(model_cfg: dict[str, Any], conv_stem: list[int] | None = None) -> Any:
    """Build a model with random weights; nothing is downloaded for its image tower.

    Parameters
    ----------
    model_cfg : dict
        As open_clip has it; it is not changed.
    conv_stem : list of int or None, default=None
        See :class:`~capkit.backbones.files.BackboneFiles`.

    Returns
    -------
    nn.Module
        An open_clip ``CLIP``, ``CustomTextCLIP`` or ``CoCa``.
    """
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
    if "logit_bias" in expected and "logit_scale" in weights:
        # As open_clip does: weights from before such a training have none, and no class gains
        # by a number that is added to every logit.
        weights.setdefault("logit_bias", torch.zeros_like(weights["logit_scale"]))
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


def _build_tokenizer(text_cfg: Mapping[str, Any], files: BackboneFiles) -> Callable:
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    options["context_length"] = text_cfg.get("context_length", 77)
    named = text_cfg.get("hf_tokenizer_name")
    if not named:
        return SimpleTokenizer(**options)
    source = str(files.tokenizer_folder or named)
    options["tokenizer_mode"] = text_cfg.get("tokenizer_mode")
    options["trust_remote_code"] = False  # transformers would ask, and a user might say yes
    if files.tokenizer_revision is not None:
        options["revision"] = files.tokenizer_revision
    load = partial(HFTokenizer, source, **options)
    try:
        return _cached_or_fetched(load, source, "tokenizer_config.json")
    except Exception as error:  # whatever the hub or the file raises
        raise _explain(error, f"the tokenizer {source!r} of {files.name!r}") from error


def _cached_or_fetched(load: Callable[..., Any], source: str, filename: str) -> Any:
    """Result of `load` for a repository's files; the Hub is only asked if they are not cached."""
    try:
        return load(local_files_only=True)
    except ImportError:
        raise
    except Exception:  # they are not in the cache, or not all of them
        if Path(source).is_dir():
            raise
    reason = why_unreachable(source, filename)
    if reason is not None:
        raise BackboneNotFoundError(
            f"it is not in the local cache, and the Hub cannot be asked ({reason})"
        )
    return load()


def _explain(error: Exception, what: str) -> BackboneError:
    """A capkit error about something that transformers could not load."""
    if isinstance(error, ImportError):
        return BackboneError(
            f"{what} needs packages that are not installed: pip install transformers "
            f"sentencepiece. ({error})"
        )
    if "trust_remote_code" in str(error):  # transformers would advise to let the code run
        return BackboneError(f"{what} comes with code of its own, which is never run.")
    reason = str(error).strip().rstrip(".")
    kind = BackboneNotFoundError if isinstance(error, BackboneNotFoundError) else BackboneError
    return kind(
        f"{what} could not be loaded: {reason}. Connect to the network once, or put a folder with "
        "its files in place of its name into the configuration."
    )


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
