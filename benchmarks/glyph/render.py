"""Render characters to 32 x 32 pictures, dark ink on light paper.

The em box is kept: a family is scaled so that its capital H has a fixed height and every character
stands on the same baseline, so "o" stays smaller than "O" and "p" hangs below the line. Only a
character that would leave the picture is shifted, and scaled down if shifting is not enough.
"""

from __future__ import annotations

import unicodedata
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fonts import WEIGHTS, Family, characters, faces

SIZE = 32
OVERSAMPLING = 4
CANVAS = SIZE * OVERSAMPLING
CAP_HEIGHT = 19 * OVERSAMPLING
BASELINE = 98
MARGIN = OVERSAMPLING
MAX_INK = CANVAS - 2 * MARGIN
# Letters, numbers, punctuation and symbols; no marks, spaces, controls or private characters.
CATEGORIES = ("L", "N", "P", "S")


def is_picturable(character: str) -> bool:
    """Tell whether a character has a name and, by its category, ink of its own."""
    return unicodedata.category(character)[0] in CATEGORIES and bool(
        unicodedata.name(character, "")
    )


def font_size(paths: list[Path]) -> int:
    """Give the size, in pixels of the oversampled canvas, that puts a family's H at cap height."""
    for path in paths:
        if "H" in characters(path):
            trial = ImageFont.truetype(path, 200, layout_engine=ImageFont.Layout.BASIC)
            return round(200 * CAP_HEIGHT / -trial.getbbox("H", anchor="ls")[1])
    raise ValueError(f"expected a face with a capital H among {[str(p) for p in paths]}.")


def render(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray | None:
    """Draw one character; None where the face draws nothing.

    Returns
    -------
    ndarray of shape (32, 32), dtype uint8, or None
        Gray levels, 255 for paper.
    """
    left, top, right, bottom = font.getbbox(character, anchor="ls")
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0:
        return None
    shrink = min(1.0, MAX_INK / width, MAX_INK / height)
    if shrink < 1.0:
        font = font.font_variant(size=max(1, int(font.size * shrink)))
        left, top, right, bottom = font.getbbox(character, anchor="ls")
    x = (CANVAS - (right - left)) / 2 - left
    y = float(np.clip(BASELINE, MARGIN - top, CANVAS - MARGIN - bottom))
    canvas = Image.new("L", (CANVAS, CANVAS), 255)
    ImageDraw.Draw(canvas).text((round(x), round(y)), character, fill=0, font=font, anchor="ls")
    picture = np.asarray(canvas.reduce(OVERSAMPLING))
    return picture if picture.min() < 128 else None


def render_family(
    fonts_dir: Path, name: str, wanted: frozenset[str] | None = None, weights=WEIGHTS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render every (wanted) character of a family in each weight.

    Returns
    -------
    pictures : ndarray of shape (n, 32, 32), dtype uint8
    codes : ndarray of shape (n,), dtype int32
        Code points.
    weights : ndarray of shape (n,), dtype int16
    """
    pictures, codes, face_weights = [], [], []
    seen: set[tuple[int, str]] = set()
    paths = list(faces(fonts_dir, name, weights))
    size = font_size(paths)
    for path in paths:
        weight = int(path.stem.split("-")[-2])
        font = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
        for character in characters(path):
            key = (weight, character)
            if key in seen or not is_picturable(character):
                continue
            if wanted is not None and character not in wanted:
                continue
            seen.add(key)
            picture = render(font, character)
            if picture is not None:
                pictures.append(picture)
                codes.append(ord(character))
                face_weights.append(weight)
    return (
        np.array(pictures, np.uint8).reshape(-1, SIZE, SIZE),
        np.array(codes, np.int32),
        np.array(face_weights, np.int16),
    )


def _render_task(task: tuple[Path, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return render_family(*task)


def render_families(
    fonts_dir: Path, families: list[Family], target: Path, workers: int = 2
) -> None:
    """Render families to an npz file: pictures, codes, weights, and ``family``, their index."""
    tasks = [(fonts_dir, family.name) for family in families]
    with ProcessPoolExecutor(workers) as pool:
        parts = list(pool.map(_render_task, tasks))
    family_index = np.repeat(np.arange(len(parts), dtype=np.int16), [len(p[1]) for p in parts])
    partial = target.with_suffix(".partial.npz")
    np.savez(
        partial,
        pictures=np.concatenate([p[0] for p in parts]),
        codes=np.concatenate([p[1] for p in parts]),
        weights=np.concatenate([p[2] for p in parts]),
        family=family_index,
        names=np.array([family.name for family in families]),
    )
    partial.rename(target)
