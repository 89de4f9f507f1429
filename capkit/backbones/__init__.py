"""Vision-language models: finding, loading and caching them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capkit.backbones.registry import list_backbones, load_backbone

if TYPE_CHECKING:
    from capkit.backbones.backbone import Backbone

__all__ = ["Backbone", "list_backbones", "load_backbone"]


def __getattr__(name: str):
    if name == "Backbone":  # imports torch and open_clip
        from capkit.backbones.backbone import Backbone

        return Backbone
    raise AttributeError(f"module 'capkit.backbones' has no attribute {name!r}")
