"""A frozen vision-language model: preprocessing and both towers behind one small interface."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from open_clip.transform import PreprocessCfg
from torch.nn import functional

from capkit.backbones.preprocessing import Preprocessing

__all__ = ["Backbone"]


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """Frozen CLIP-like model in float32 and evaluation mode.

    Get one from :func:`~capkit.backbones.load_backbone`. A backbone is pickled and copied by name:
    the copy is the model that the process has already loaded.

    Parameters
    ----------
    name : str
        Name for :func:`~capkit.backbones.load_backbone`.
    identity : str
        SHA-256 fingerprint, in hexadecimal, of the configuration and the weights.
    model : nn.Module
        An open_clip ``CLIP``, ``CustomTextCLIP`` or ``CoCa``.
    tokenizer : callable
        An open_clip tokenizer: list of str to (n, context_length) int64.
    preprocess : open_clip.transform.PreprocessCfg
        Size, interpolation, resize mode, and mean and standard deviation of each channel.
    embed_dim : int
        Width ``d`` of the features.
    device : torch.device
        Device of the model.
    reload : callable or None, default=None
        Maps a name and a device to the Backbone; called when unpickling.
    """

    name: str
    identity: str
    model: Any  # mypy takes an nn.Module's attributes for tensors
    tokenizer: Any
    preprocess: PreprocessCfg
    embed_dim: int
    device: torch.device
    reload: Callable[[str, str], Backbone] | None = None

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False).float().to(self.device)

    def __reduce__(self) -> tuple[Callable, tuple]:
        if self.reload is None:
            raise TypeError(f"{self!r} was not loaded by its name, so it cannot be pickled by it")
        return self.reload, (self.name, str(self.device))

    def __repr__(self) -> str:
        return f"Backbone({self.name!r}, device={str(self.device)!r})"

    @property
    def image_size(self) -> int:
        """Height and width ``S`` of the images that the model takes, in pixels."""
        return self.preprocessing.image_size

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing that turns an RGB image of any size into the model's (S, S, 3) pixels."""
        return Preprocessing(self.preprocess)

    @cached_property
    def logit_scale(self) -> float:
        """``s``, the factor between cosine similarities and logits; about 100 for CLIP."""
        return float(self.model.logit_scale.exp())

    @cached_property
    def _mean_and_std(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (
            torch.tensor(values, device=self.device).view(1, 3, 1, 1)
            for values in (self.preprocess.mean, self.preprocess.std)
        )
        return mean, std

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scale pixels to [0, 1], then normalise each channel by its mean and standard deviation.

        Parameters
        ----------
        pixels : Tensor of shape (n, 3, S, S), dtype uint8

        Returns
        -------
        Tensor of shape (n, 3, S, S), dtype float32
            On the model's device.

        Raises
        ------
        ValueError
            If the pixels have another shape or dtype.
        """
        expected = (3, self.image_size, self.image_size)
        if tuple(pixels.shape[1:]) != expected or pixels.dtype != torch.uint8:
            raise ValueError(
                f"expected pixels of shape (n, {', '.join(map(str, expected))}) and dtype uint8, "
                f"got {tuple(pixels.shape)} and {pixels.dtype}"
            )
        mean, std = self._mean_and_std
        scaled = pixels.to(self.device, torch.float32).div_(255)
        return scaled.sub_(mean).div_(std)

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Tokenise texts; those longer than the context are truncated.

        Parameters
        ----------
        texts : sequence of str of length n

        Returns
        -------
        Tensor of shape (n, context_length), dtype int64
            On the CPU.
        """
        return self.tokenizer(list(texts))

    @torch.no_grad()
    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of images, in one pass.

        Parameters
        ----------
        pixels : Tensor of shape (n, 3, S, S), dtype uint8

        Returns
        -------
        Tensor of shape (n, d), dtype float32
            Unit rows, on the model's device.
        """
        return functional.normalize(
            self.model.encode_image(self.normalize(pixels)).float(), dim=-1
        )

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> torch.Tensor:
        """Features of texts.

        Parameters
        ----------
        texts : sequence of str of length n
        batch_size : int, default=256
            Number of texts in one pass.

        Returns
        -------
        Tensor of shape (n, d), dtype float32
            Unit rows, on the model's device.
        """
        if not len(texts):
            return torch.empty(0, self.embed_dim, device=self.device)
        tokens = self.tokenize(texts)
        parts = [
            functional.normalize(self.model.encode_text(part.to(self.device)).float(), dim=-1)
            for part in tokens.split(batch_size)
        ]
        return torch.cat(parts)
