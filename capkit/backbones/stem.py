"""Convolutional patch embedding for image towers too small for one large stride."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


class ConvStem(nn.Sequential):
    """Strided 3 x 3 convolutions that stand in for a ViT's patch embedding.

    Each convolution halves the resolution, with a GELU between them, so that ``n`` of them
    give the patch grid of a patch size of ``2 ** n`` (Xiao et al., 2021, "Early Convolutions
    Help Transformers See Better"). There is no normalisation: the features of an image do not
    depend on the batch it comes in.

    Parameters
    ----------
    channels : sequence of int
        Output channels of each convolution; the last is the width of the image tower.

    Examples
    --------
    >>> import torch
    >>> ConvStem([32, 64, 128])(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 128, 4, 4])
    """

    def __init__(self, channels: Sequence[int]) -> None:
        if not channels or min(channels) < 1:
            raise ValueError(
                "ConvStem expects at least one positive number of channels, "
                f"got {list(channels)!r}."
            )
        layers: list[nn.Module] = []
        for in_channels, out_channels in zip([3, *channels[:-1]], channels, strict=True):
            layers += [nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1), nn.GELU()]
        super().__init__(*layers[:-1])
        self.channels = tuple(channels)
