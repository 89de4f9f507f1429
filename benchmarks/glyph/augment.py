"""Augmentation of batches of glyph pictures, vectorised."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

RESOLUTIONS = (10, 24)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def _per_image(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1)


def vary_thickness(ink: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blend each picture with its dilation (strokes grow) or its erosion (they shrink)."""
    amount = _per_image(_uniform(len(ink), -0.8, 1.2, generator))
    grown = F.max_pool2d(ink, 3, stride=1, padding=1)
    shrunk = -F.max_pool2d(-ink, 3, stride=1, padding=1)
    # A third of the pictures, those near zero, stay as they are.
    grow = ((amount - 0.3) / 0.9).clamp(0, 1)
    shrink = ((-amount - 0.2) / 0.6).clamp(0, 1) * 0.6
    return ink + grow * (grown - ink) + shrink * (shrunk - ink)


def vary_pose(ink: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate, shear, scale and move each picture a little; nothing is mirrored."""
    n = len(ink)
    angle = _uniform(n, -12, 12, generator) * math.pi / 180
    shear = _uniform(n, -0.25, 0.25, generator)
    scale = torch.exp(_uniform(n, math.log(0.85), math.log(1.18), generator))
    aspect = torch.exp(_uniform(n, math.log(0.88), math.log(1.14), generator))
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1)
    skew = torch.stack([torch.ones(n), shear, torch.zeros(n), torch.ones(n)], -1)
    stretch = torch.diag_embed(torch.stack([1 / (scale * aspect), aspect / scale], -1))
    linear = rotation.view(n, 2, 2) @ skew.view(n, 2, 2) @ stretch
    shift = torch.stack([_uniform(n, -0.16, 0.16, generator) for _ in range(2)], -1)
    grid = F.affine_grid(
        torch.cat([linear, shift.unsqueeze(-1)], -1), list(ink.shape), align_corners=False
    )
    return F.grid_sample(ink, grid, align_corners=False)


def vary_resolution(
    ink: torch.Tensor, generator: torch.Generator, rate: float = 0.4, n_groups: int = 4
) -> torch.Tensor:
    """Shrink and enlarge a part of the pictures, group by group, as coarse scans would be."""
    n_coarse = int(len(ink) * rate) // n_groups * n_groups
    order = torch.randperm(len(ink), generator=generator)
    result = ink.clone()
    for rows in order[:n_coarse].view(n_groups, -1):
        size = int(torch.randint(*RESOLUTIONS, (), generator=generator))
        small = F.interpolate(ink[rows], size=(size, size), mode="area")
        result[rows] = F.interpolate(small, size=ink.shape[-2:], mode="bicubic")
    return result


def vary_light(ink: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn ink into gray levels in [0, 1] with varied paper, contrast and noise."""
    n = len(ink)
    paper = _per_image(_uniform(n, 0.85, 1.0, generator))
    contrast = _per_image(_uniform(n, 0.55, 1.0, generator))
    noise_level = _per_image(_uniform(n, -0.03, 0.07, generator).clamp(min=0))
    noise = torch.randn(ink.shape, generator=generator) * noise_level
    return (paper * (1 - ink * contrast) + noise).clamp(0, 1)


def augment(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Augment a batch.

    Parameters
    ----------
    pictures : Tensor of shape (n, 32, 32), dtype uint8
        Gray levels, 255 for paper.
    generator : torch.Generator
        Source of all randomness.

    Returns
    -------
    Tensor of shape (n, 1, 32, 32), dtype float32
        Gray levels in [0, 1].
    """
    ink = 1 - pictures.unsqueeze(1).float() / 255
    ink = vary_pose(vary_thickness(ink, generator), generator)
    return vary_light(vary_resolution(ink, generator), generator)
