"""Draw the thumbnails of examples that are not run when the documentation is built.

python docs/draw_thumbnails.py
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from capkit.datasets import load_digits

IMAGES = Path(__file__).parent / "images"


def draw_description(class_name: str, path: Path) -> None:
    """Images of a class above the description that comes with the data."""
    digits = load_digits(split="train")
    rows = np.flatnonzero(digits.target == digits.class_names.index(class_name))[:3]
    figure = plt.figure(figsize=(4, 2.8), layout="constrained")
    pictures, text = figure.subfigures(2, 1, height_ratios=(3, 2))
    for row, axes in zip(rows, pictures.subplots(1, len(rows)), strict=True):
        axes.imshow(digits.images[row])
        axes.set_axis_off()
    sentence = "\n".join(textwrap.wrap(f"“{digits.descriptions[class_name][0]}”", 34))
    text.text(0.5, 0.5, sentence, ha="center", va="center", fontsize=13)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    draw_description("digit seven", IMAGES / "descriptions.png")
