"""Render the handwriting data set that capkit ships."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np

from export import PACKAGE_DIR, write_checksums
from fonts import Family
from render import render_family

CHARACTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits
DATA_DIR = PACKAGE_DIR / "datasets" / "data"
ROLES = {"handwriting-train": "train", "handwriting-test": "test"}


def export_handwriting(fonts_dir: Path, families: list[Family], data_dir: Path = DATA_DIR) -> None:
    """Write ``handwriting.npz``: one picture of each character in each handwriting family.

    Arrays: ``images`` (n, 32, 32) uint8, ``target`` (n,) uint8 index into ``characters``,
    ``family`` (n,) uint8 index into ``families``, ``splits`` of the families.
    """
    chosen = sorted((f for f in families if f.role in ROLES), key=lambda family: family.name)
    images = []
    for family in chosen:
        pictures, codes, _ = render_family(
            fonts_dir, family.name, wanted=frozenset(CHARACTERS), weights=(400,)
        )
        by_character = {chr(code): image for code, image in zip(codes, pictures, strict=True)}
        missing = set(CHARACTERS) - set(by_character)
        if missing:
            raise ValueError(f"expected {family.name} to draw all 62 characters, not {missing}.")
        images += [by_character[character] for character in CHARACTERS]
    n_families, n_classes = len(chosen), len(CHARACTERS)
    target = data_dir / "handwriting.npz"
    np.savez_compressed(
        target,
        images=np.stack(images),
        target=np.tile(np.arange(n_classes, dtype=np.uint8), n_families),
        family=np.repeat(np.arange(n_families, dtype=np.uint8), n_classes),
        characters=np.array(list(CHARACTERS)),
        families=np.array([family.name for family in chosen]),
        splits=np.array([ROLES[family.role] for family in chosen]),
    )
    write_checksums([target], data_dir / "SHA256SUMS")
