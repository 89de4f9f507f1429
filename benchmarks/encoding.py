"""How fast images are encoded, beside a bare open_clip loop, and how fast from a warm cache.

    python benchmarks/encoding.py
    python benchmarks/encoding.py --output docs/results/encoding.csv

The bare loop is what open_clip's documentation shows: preprocess the images of a batch one after
the other, stack them, run the image tower. Both encode the same images in batches of the same
size, in turns; of the repetitions the fastest counts. CLIPEncoder's time includes fingerprints
and writing the cache. ViT-B/32 has random weights, which are as fast as any.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import image_transform_v2
from PIL import Image

from capkit import CLIPEncoder
from capkit.backbones import Backbone, load_backbone
from capkit.datasets import load_handwriting

COLUMNS = [
    "backbone",
    "images",
    "n",
    "batch",
    "open_clip [img/s]",
    "CLIPEncoder [img/s]",
    "ratio",
    "warm cache [img/s]",
    "warm / encoding",
    "10 more [ms]",
]


def bare_loop(backbone: Backbone, transform: Callable, images: Sequence, batch_size: int) -> None:
    """Encode as open_clip's documentation does."""
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            batch = torch.stack(
                [transform(as_image(one)) for one in images[start : start + batch_size]]
            )
            backbone.model.encode_image(batch, normalize=True)


def as_image(item: Any) -> Image.Image:
    return Image.open(item) if isinstance(item, Path) else Image.fromarray(item)


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(
    backbone: Backbone, images: Sequence, batch_size: int, repetitions: int
) -> dict[str, float]:
    """Best seconds of each way to get the features of all images."""
    transform = image_transform_v2(backbone.preprocess, is_train=False)
    best = {"bare": np.inf, "cold": np.inf, "warm": np.inf, "more": np.inf}

    def keep(name: str, function: Callable[[], Any]) -> None:
        best[name] = min(best[name], seconds(function))

    for _ in range(repetitions):
        keep("bare", lambda: bare_loop(backbone, transform, images, batch_size))
        with tempfile.TemporaryDirectory() as folder:
            encoder = CLIPEncoder(
                backbone.name, class_names=["a", "b"], batch_size=batch_size, cache_dir=folder
            ).fit(images)
            keep("cold", lambda: encoder.transform(images))  # noqa: B023
            for _ in range(3):
                keep("warm", lambda: encoder.transform(images))  # noqa: B023
        with tempfile.TemporaryDirectory() as folder:
            encoder.set_params(cache_dir=folder).transform(images[:-10])
            keep("more", lambda: encoder.transform(images))  # noqa: B023
    return best


def as_row(
    name: str, kind: str, n_images: int, batch_size: int, best: dict[str, float]
) -> list[str]:
    speed = {way: n_images / time for way, time in best.items()}
    return [
        name,
        kind,
        f"{n_images}",
        f"{batch_size}",
        f"{speed['bare']:.0f}",
        f"{speed['cold']:.0f}",
        f"{best['bare'] / best['cold']:.2f}",
        f"{speed['warm']:.0f}",
        f"{best['cold'] / best['warm']:.0f}",
        f"{1000 * best['more']:.0f}",
    ]


def random_vit(folder: Path) -> Path:
    """ViT-B/32 with random weights, as a local checkpoint."""
    config = {"model_cfg": open_clip.get_model_config("ViT-B-32"), "preprocess_cfg": {}}
    path = folder / "ViT-B-32.pt"
    torch.save(open_clip.create_model("ViT-B-32").state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps(config))
    return path


def write_files(images: np.ndarray, folder: Path, suffix: str) -> list[Path]:
    paths = [folder / f"{number}{suffix}" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=96, help="images for ViT-B/32")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, help="threads of torch, default: all CPUs")
    parser.add_argument("--output", type=Path, help="CSV file for the table")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rng = np.random.default_rng(0)
    characters = load_handwriting(split="all").images
    photos = rng.integers(0, 256, (arguments.photos, 16, 16, 3), dtype=np.uint8)
    photos = np.stack([Image.fromarray(one).resize((320, 240)) for one in photos])

    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "png").mkdir()
        (folder / "jpg").mkdir()
        character_files = write_files(characters, folder / "png", ".png")
        photo_files = write_files(photos, folder / "jpg", ".jpg")
        glyph = load_backbone("glyph", device="cpu")
        vit = load_backbone(random_vit(folder), device="cpu")
        cases = [
            ("glyph", glyph, "array, 32 x 32", characters, 256),
            ("glyph", glyph, "PNG files, 32 x 32", character_files, 256),
            ("ViT-B/32", vit, "array, 240 x 320", photos, 32),
            ("ViT-B/32", vit, "JPEG files, 240 x 320", photo_files, 32),
        ]
        for name, backbone, kind, images, batch_size in cases:
            best = measure(backbone, images, batch_size, arguments.repetitions)
            rows.append(as_row(name, kind, len(images), batch_size, best))
            cells = zip(COLUMNS, rows[-1], strict=True)
            print(*(f"{column}: {value}" for column, value in cells), sep=", ", flush=True)
    if arguments.output:
        with arguments.output.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
