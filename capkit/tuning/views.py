"""Views of the unlabeled images for consistency training.

The weak view is CLIP's own preprocessing, a resize and a centre crop; labeled images and main
samples are prepared in the same way. This module makes the strong view: random crops of the
original, uncropped image, or a transform of the weak view.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, v2

from capkit.decoding import TrainingPixels

__all__ = [
    "STRONG_VIEWS",
    "RandomCrops",
    "TransformedPixels",
    "affine",
    "as_tensor",
    "make_strong_view",
]

#: Share of the image's area that a random crop takes (method, section 3), and its shape.
_CROP_SCALE = (0.08, 1.0)
_CROP_RATIO = (3 / 4, 4 / 3)
#: Largest rotation in degrees, shift as a share of the image, and change of scale.
_ROTATION, _SHIFT, _ZOOM = 15.0, 0.1, 0.2

#: Names of the built-in strong views.
STRONG_VIEWS = ("affine", "crop", "crop_flip")


def make_strong_view(
    augment: str | Callable[[Tensor], Tensor], images: TrainingPixels
) -> Callable[[np.ndarray], Tensor]:
    """Make a strong view of images.

    All randomness comes from torch's global generator on the CPU, so a caller can fork and
    seed it, and gets the same views on every device.

    Parameters
    ----------
    augment : {"crop_flip", "crop", "affine"} or callable
        "crop_flip": random resized crop of 8 to 100% of the area, and a horizontal flip of
        every second image on average (the paper). "crop": the same without the flip. "affine":
        a small rotation (15 degrees), shift (10%) and change of scale (20%) of the weak view, for
        characters and other images that change their meaning when flipped or cropped. Or any
        transform of the weak view, such as torchvision's, from a uint8 tensor (3, S, S) to a
        tensor of the same shape and type; it is applied to each image separately.
    images : TrainingPixels

    Returns
    -------
    callable
        Maps the positions (B,) of images to a uint8 tensor (B, 3, S, S).

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.decoding import TrainingPixels
    >>> pixels = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    >>> view = make_strong_view("crop", TrainingPixels(pixels, pixels, np.ones(4)))
    >>> view(np.array([2, 0])).shape
    torch.Size([2, 3, 32, 32])
    """
    if augment in ("crop", "crop_flip"):
        size, flip = images.pixels.shape[1], augment == "crop_flip"
        return RandomCrops(as_tensor(images.whole), as_tensor(images.aspect), size, flip)
    transform = _Each(augment) if callable(augment) else affine
    return TransformedPixels(as_tensor(images.pixels), transform)


def as_tensor(array: np.ndarray) -> Tensor:
    """Tensor that shares an array's memory, or a copy if the array is read-only.

    Parameters
    ----------
    array : ndarray

    Returns
    -------
    Tensor
    """
    # torch does not share read-only memory
    return torch.from_numpy(array if array.flags.writeable else array.copy())


@dataclasses.dataclass(frozen=True, eq=False)
class RandomCrops:
    """Random resized crops of the whole images, bicubic, as in torchvision.

    Parameters
    ----------
    whole : Tensor of shape (n, L, L, 3), uint8
        Whole images, squashed to squares.
    aspect : Tensor of shape (n,)
        Original width divided by height of each image; crop shapes refer to the original image.
    size : int
        ``S``, height and width of a view.
    flip : bool
        Whether half of the views are flipped.
    """

    whole: Tensor
    aspect: Tensor
    size: int
    flip: bool

    def __call__(self, indices: np.ndarray) -> Tensor:
        """Views (B, 3, S, S) of the images at these positions (B,)."""
        views = torch.stack([self._crop(index) for index in indices.tolist()])
        if self.flip:
            mirrored = torch.rand(len(views)) < 0.5
            views[mirrored] = views[mirrored].flip(-1)
        return views

    def _crop(self, index: int) -> Tensor:
        narrowest, widest = (ratio / self.aspect[index].item() for ratio in _CROP_RATIO)
        crop = v2.RandomResizedCrop(
            self.size,
            scale=_CROP_SCALE,
            ratio=(narrowest, widest),
            interpolation=InterpolationMode.BICUBIC,
            antialias=True,
        )
        return crop(self.whole[index].permute(2, 0, 1))


@dataclasses.dataclass(frozen=True, eq=False)
class TransformedPixels:
    """A transform of the weak views.

    Parameters
    ----------
    pixels : Tensor of shape (n, S, S, 3), uint8
        Weak views.
    transform : callable
        From a batch (B, 3, S, S), uint8, to one of the same shape and type.
    """

    pixels: Tensor
    transform: Callable[[Tensor], Tensor]

    def __call__(self, indices: np.ndarray) -> Tensor:
        """Views (B, 3, S, S) of the images at these positions (B,)."""
        return self.transform(self.pixels[torch.from_numpy(indices)].permute(0, 3, 1, 2))


def affine(pixels: Tensor) -> Tensor:
    """Rotate, shift and scale every image a little; border pixels fill the gaps."""
    angle, shift_x, shift_y, zoom = torch.rand(4, len(pixels)) * 2 - 1
    angle = angle * math.radians(_ROTATION)
    scale = 1 + zoom * _ZOOM
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    # The grid's coordinates run from -1 to 1: a share of the image is twice that.
    row_x = torch.stack([cosine, -sine, 2 * _SHIFT * shift_x], dim=1)
    row_y = torch.stack([sine, cosine, 2 * _SHIFT * shift_y], dim=1)
    return _resample(pixels, torch.stack([row_x, row_y], dim=1))


def _resample(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Resample every image (B, C, S, S), uint8, with its own affine matrix."""
    grid = F.affine_grid(matrices.to(pixels.device), list(pixels.shape), align_corners=False)
    resampled = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    return resampled.round_().clamp_(0, 255).to(torch.uint8)


@dataclasses.dataclass(frozen=True)
class _Each:
    """Applies a user's transform of a single image to a batch."""

    augment: Callable[[Tensor], Tensor]

    def __call__(self, pixels: Tensor) -> Tensor:
        return torch.stack([_transform(self.augment, image) for image in pixels])


def _transform(augment: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    view = augment(image)
    if not isinstance(view, Tensor) or view.shape != image.shape or view.dtype != image.dtype:
        given = f"{tuple(view.shape)} {view.dtype}" if isinstance(view, Tensor) else type(view)
        raise ValueError(
            f"augment must turn a tensor {tuple(image.shape)} {image.dtype} into another one of "
            f"the same shape and type, got {given}. Resize back to {image.shape[-1]} pixels and "
            "leave out ToTensor and Normalize: the backbone normalises by itself."
        )
    return view
