"""Folders of photos as users have them, of handwritten digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from capkit.datasets import load_digits

NAMES = ("zero", "one", "two")


def digits_of(n_each: int) -> tuple[np.ndarray, np.ndarray]:
    """So many images of each of the three classes, in turn, and their classes."""
    digits = load_digits(split="train")
    rows = [np.flatnonzero(digits.target == index)[:n_each] for index in range(len(NAMES))]
    order = np.stack(rows, axis=1).ravel()
    return digits.images[order], digits.target[order]


def write_photos(folder: Path, n_each: int = 12) -> np.ndarray:
    """Write a folder of photos, every third in a folder in it; true classes in order of names."""
    images, target = digits_of(n_each)
    names = [
        f"deep/{row:03}.JPG" if row % 3 == 0 else f"{row:03}.png" for row in range(len(images))
    ]
    for name, image in zip(names, images, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, **({"quality": 95} if "JPG" in name else {}))
    return target[np.argsort(names)]


def write_class_folders(folder: Path, n_each: int = 12) -> None:
    images, target = digits_of(n_each)
    for row, (image, index) in enumerate(zip(images, target, strict=True)):
        place = folder / f"digit_{NAMES[index]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{row:03}.png")


def write_names(path: Path) -> Path:
    path.write_text("\n".join(NAMES) + "\n")
    return path
