"""Tiny, randomly initialised open_clip models of every architecture that prompts can enter."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg

from capkit.backbones import Backbone

EMBED_DIM = 24
CONTEXT_LENGTH = 32
VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 4, "head_width": 16}
TEXT = {"context_length": CONTEXT_LENGTH, "width": 24, "heads": 2, "layers": 3}
TIMM = {"image_size": 224, "timm_pool": "avg", "timm_proj": "linear"}
DECODER = {"context_length": CONTEXT_LENGTH, "width": 24, "heads": 2, "layers": 1}

#: Model and preprocessing of :func:`save_random_clip`.
RANDOM_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 3,
    },
}


def save_random_clip(folder: Path) -> Path:
    """Write a tiny, randomly initialised CLIP as ``random.pt`` with its ``random.json``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(**RANDOM_CLIP)
    config = {
        "model_cfg": RANDOM_CLIP,
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    (folder / "random.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), folder / "random.pt")
    return folder / "random.pt"


def _clip(vision=(), text=(), kind=CLIP, **arguments):
    configs = {"vision_cfg": {**VISION, **dict(vision)}, "text_cfg": {**TEXT, **dict(text)}}
    return kind(embed_dim=EMBED_DIM, **configs, **arguments)


def _timm(name, text=(), **vision):
    vision_cfg = {**TIMM, "timm_model_name": name, **vision}
    model = CustomTextCLIP(EMBED_DIM, vision_cfg, {**TEXT, **dict(text)})
    model.visual.trunk.blocks = model.visual.trunk.blocks[: VISION["layers"]]
    return model


#: SigLIP's text tower: no causal mask, the last position is read, a projection with a bias.
_SIGLIP_TEXT = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
_EOS_TEXT = {"pool_type": "eos", "eos_id": 49407}
_MAP = {"timm_pool": "map", "timm_proj": ""}
_COCA_TEXT = {"embed_cls": True, "output_tokens": True}
_COCA_VISION = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}

BUILDERS = {
    "clip": _clip,
    "clip quickgelu": lambda: _clip(quick_gelu=True),
    "clip without ln_pre": lambda: _clip({"no_ln_pre": True}),
    "clip average pool": lambda: _clip({"pool_type": "avg"}),
    "clip attentional pool": lambda: _clip({"attentional_pool": True, "attn_pooler_heads": 2}),
    "clip layer scale": lambda: _clip({"ls_init_value": 0.5}, {"ls_init_value": 0.5}),
    "clip query norm": lambda: _clip({"qk_norm": True}, {"qk_norm": True}),
    "custom text": lambda: _clip(kind=CustomTextCLIP),
    "custom text eos pool": lambda: _clip({}, _EOS_TEXT, CustomTextCLIP),
    "coca": lambda: _clip(_COCA_VISION, _COCA_TEXT, CoCa, multimodal_cfg=DECODER),
    "timm vit": lambda: _timm("vit_tiny_patch16_224"),
    "siglip": lambda: _timm("vit_tiny_patch16_224", _SIGLIP_TEXT, **_MAP),
    "eva": lambda: _timm("eva02_tiny_patch14_224", timm_pool="token"),
    "perception encoder": lambda: _timm("vit_pe_core_tiny_patch16_384", image_size=384, **_MAP),
}


@functools.cache
def build_model(name: str = "clip"):
    """Model of one of ``BUILDERS``, frozen and in eval mode; shared, so not to be changed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BUILDERS[name]()
    return model.eval().requires_grad_(False)


def build_backbone(name: str = "clip") -> Backbone:
    """:func:`build_model` with CLIP's tokenizer and plain preprocessing."""
    model = build_model(name)
    size = model.visual.image_size
    mean = std = (0.5, 0.5, 0.5)
    return Backbone(
        name=name,
        identity=name,
        model=model,
        tokenizer=SimpleTokenizer(context_length=CONTEXT_LENGTH),
        preprocess=PreprocessCfg(size=size, mean=mean, std=std),
        embed_dim=EMBED_DIM,
        device=torch.device("cpu"),
    )
