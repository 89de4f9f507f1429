"""Views of the unlabeled images: what consistency training varies between two passes.

The weak view is CLIP's own preprocessing. Images are stored as it leaves them, resized and
cropped, so the weak view is the stored pixels themselves, and so are labeled and main samples.
This module makes the strong view.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["STRONG_VIEWS", "affine", "crop", "crop_flip", "make_strong_view"]

#: Share of the image's area that a random crop takes (method, section 3).
_CROP_SCALE = (0.08, 1.0)
_CROP_RATIO = (3 / 4, 4 / 3)
#: Largest rotation in degrees, shift as a share of the image, and change of scale.
_ROTATION, _SHIFT, _ZOOM = 15.0, 0.1, 0.2


def make_strong_view(augment: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make a strong view of batches of pixels.

    All randomness comes from torch's global generator on the CPU, so a caller can fork and
    seed it, and gets the same views on every device.

    Parameters
    ----------
    augment : {"crop_flip", "crop", "affine"} or callable
        "crop_flip": random resized crop of 8 to 100% of the area, and a horizontal flip of
        every second image on average (the paper). "crop": the same without the flip. "affine":
        a small rotation (15 degrees), shift (10%) and change of scale (20%), for characters and
        whatever else is not the same when flipped or cut into. Or any transform, such as
        torchvision's, from a tensor (3, S, S), uint8, to one of the same shape and type; it is
        applied to one image after the other.

    Returns
    -------
    callable
        From a tensor (B, 3, S, S), uint8, to one of the same shape and type.

    Raises
    ------
    ValueError
        If there is no view of this name.
    TypeError
        If ``augment`` is neither a name nor callable.

    Examples
    --------
    >>> import torch
    >>> view = make_strong_view("crop_flip")
    >>> view(torch.zeros(4, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([4, 3, 32, 32])
    """
    if isinstance(augment, str):
        if augment not in STRONG_VIEWS:
            raise ValueError(
                f"augment must be one of {sorted(STRONG_VIEWS)} or a transform, got {augment!r}"
            )
        return STRONG_VIEWS[augment]
    if not callable(augment):
        raise TypeError(
            f"augment must be one of {sorted(STRONG_VIEWS)} or a callable from a uint8 tensor "
            f"(3, S, S) to another, got {type(augment).__name__}"
        )
    return lambda pixels: torch.stack([_transform(augment, image) for image in pixels])


def crop(pixels: Tensor) -> Tensor:
    """Enlarge a random part of every image, as torchvision's ``RandomResizedCrop`` does."""
    return _resample(pixels, _crop_matrices(len(pixels)))


def crop_flip(pixels: Tensor) -> Tensor:
    """Take a random crop, and flip it horizontally with probability 0.5."""
    matrices = _crop_matrices(len(pixels))
    flipped = torch.rand(len(pixels)) < 0.5
    matrices[:, 0, 0] *= 1 - 2 * flipped.float()
    return _resample(pixels, matrices)


def affine(pixels: Tensor) -> Tensor:
    """Turn, shift and scale every image a little; its border pixels fill what comes in."""
    angle, shift_x, shift_y, zoom = torch.rand(4, len(pixels)) * 2 - 1
    angle = angle * math.radians(_ROTATION)
    scale = 1 + zoom * _ZOOM
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    # The grid's coordinates run from -1 to 1: a share of the image is twice that.
    row_x = torch.stack([cosine, -sine, 2 * _SHIFT * shift_x], dim=1)
    row_y = torch.stack([sine, cosine, 2 * _SHIFT * shift_y], dim=1)
    return _resample(pixels, torch.stack([row_x, row_y], dim=1))


#: The strong views that have a name.
STRONG_VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "affine": affine,
    "crop": crop,
    "crop_flip": crop_flip,
}


def _crop_matrices(n_images: int, attempts: int = 10) -> Tensor:
    """Affine matrices (n, 2, 3) from a crop's coordinates to the image's.

    Of each image's ``attempts`` random sizes the first one that fits into the image is taken,
    else the whole image, which is what torchvision does with a square image.
    """
    areas = torch.empty(n_images, attempts).uniform_(*_CROP_SCALE)
    log_ratios = torch.empty(n_images, attempts).uniform_(*map(math.log, _CROP_RATIO))
    widths, heights = (areas * log_ratios.exp()).sqrt(), (areas / log_ratios.exp()).sqrt()
    fits = (widths <= 1) & (heights <= 1)
    first = fits.int().argmax(dim=1, keepdim=True)
    none_fits = ~fits.any(dim=1)
    size = torch.stack([side.gather(1, first)[:, 0] for side in (widths, heights)], dim=1)
    size[none_fits] = 1.0
    center = (torch.rand(n_images, 2) * 2 - 1) * (1 - size)
    return torch.cat([torch.diag_embed(size), center[:, :, None]], dim=2)


def _resample(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Resample every image (B, C, S, S), uint8, with its own affine matrix."""
    grid = F.affine_grid(matrices.to(pixels.device), list(pixels.shape), align_corners=False)
    resampled = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    return resampled.round_().clamp_(0, 255).to(torch.uint8)


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
