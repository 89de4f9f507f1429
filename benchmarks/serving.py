"""How soon and how fast one image is labeled: by capkit, by bare open_clip, by onnxruntime.

    python benchmarks/serving.py --csv docs/results/serving.csv

Every way runs in a process of its own, in one thread: "first" is from before its imports to the
first label, the others are over the images after it, one at a time, each of them a new one, from
an opened image to its label. capkit's way is CAPClassifier.load and predict; open_clip's is what
its documentation shows, with class features beside it and nothing adapted; onnxruntime's is the
code of docs/serving.rst. Memory is what the process holds at the end. ViT-B/32 has random weights,
which are as fast as any.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

COLUMNS = [
    "classifier",
    "way",
    "files [MB]",
    "first [s]",
    "median [ms]",
    "95 % [ms]",
    "memory [MB]",
]
WAYS = ("capkit", "open_clip", "onnxruntime")
PAGE = Path(__file__).parents[1] / "docs" / "serving.rst"


# -- the ways: each gives a function from an opened image to its label


def by_capkit(folder: Path) -> Callable:
    """The classifier as saved."""
    import torch

    from capkit import CAPClassifier

    torch.set_num_threads(1)
    model = CAPClassifier.load(folder / "model.capkit", device="cpu")
    return lambda image: model.predict([image])[0]


def by_open_clip(folder: Path) -> Callable:
    """The frozen model and its class features."""
    import torch

    torch.set_num_threads(1)
    model, transform = open_clip_model(folder)
    texts = torch.from_numpy(np.load(folder / "texts.npy"))

    def label(image):
        with torch.no_grad():
            features = model.encode_image(transform(image)[None], normalize=True)
            return int((features @ texts.T).argmax())

    return label


def open_clip_model(folder: Path):
    """Model and transform; those of the embedded model, whose stem is capkit's, by capkit."""
    import open_clip

    weights = folder / "weights.pt"
    if weights.exists():
        model, _, transform = open_clip.create_model_and_transforms(
            "ViT-B-32", pretrained=str(weights)
        )
        return model.eval(), transform
    from capkit.backbones import load_backbone

    backbone = load_backbone("glyph", device="cpu")
    return backbone.model, open_clip.transform.image_transform_v2(backbone.preprocess, False)


def by_onnxruntime(folder: Path) -> Callable:
    """The service of the page, without its server."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession
    onnxruntime.InferenceSession = lambda _, providers: session(
        str(folder / "model.onnx"), options, providers=providers
    )
    blocks = re.findall(
        r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", PAGE.read_text(), re.MULTILINE
    )
    served: dict = {"__name__": "serve"}
    exec(textwrap.dedent(blocks[1]), served)

    def label(image):
        pixels = served["to_pixels"](image.filename)[None]
        (found,) = served["session"].run(["labels"], {"pixels": pixels})
        return served["names"][found[0]]

    return label


def measure(way: str, folder: Path) -> dict[str, float]:
    """Times of one way, and the memory of this process."""
    start = time.perf_counter()
    label = {"capkit": by_capkit, "open_clip": by_open_clip, "onnxruntime": by_onnxruntime}[way](
        folder
    )
    from PIL import Image

    seconds = []
    for path in sorted(folder.glob("*.png")):
        label(Image.open(path))
        seconds.append(time.perf_counter() - start)
    later = 1000 * np.diff(seconds)
    return {
        "first [s]": seconds[0],
        "median [ms]": float(np.median(later)),
        "95 % [ms]": float(np.percentile(later, 95)),
        "memory [MB]": psutil.Process().memory_info().rss / 1e6,
    }


# -- the classifiers, written into a folder


def make_classifier(name: str, folder: Path, n_images: int) -> None:
    """Fit one and write it in both formats, with images to label."""
    from PIL import Image

    from capkit import CAPClassifier, CLIPEncoder
    from capkit.datasets import load_digits
    from capkit.export import to_onnx
    from capkit.tuning import AdapterTuning, PromptTuning

    generator = np.random.default_rng(0)
    tuning = AdapterTuning() if "adapters" in name else PromptTuning(epochs=5)
    if "ViT" in name:
        backbone, size = str(save_vit(folder)), 256
        images = generator.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
        class_names = [f"thing {number}" for number in range(50)]
        new = generator.integers(0, 256, (n_images, size, size, 3), dtype=np.uint8)
    else:
        train, test = load_digits(split="train"), load_digits(split="test")
        backbone, images, class_names = "glyph", train.images, train.class_names
        new = test.images[:n_images]
    model = CAPClassifier(backbone=backbone, tuning=tuning, device="cpu", random_state=0)
    if "ViT" in name:  # of noise the guard would keep nothing
        model.set_params(pseudo_labels=without_guard())
    model.fit(images, class_names=class_names)
    assert model.adaptation_report_.kept == "training"
    model.save(folder / "model.capkit")
    to_onnx(model, folder / "model.onnx")
    encoder = CLIPEncoder(backbone, class_names=class_names, device="cpu").fit(new)
    np.save(folder / "texts.npy", encoder.text_features_)
    for row, pixels in enumerate(new):
        Image.fromarray(pixels).save(folder / f"{row:05}.png")


def without_guard():
    """The Gaussians, whatever they find."""
    from capkit import GaussianTransduction

    return GaussianTransduction(guard=False)


def save_vit(folder: Path) -> Path:
    """A ViT-B/32 with random weights, as a checkpoint."""
    import open_clip
    import torch

    config = open_clip.get_model_config("ViT-B-32")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("ViT-B-32").state_dict(), folder / "weights.pt")
    (folder / "weights.json").write_text(json.dumps({"model_cfg": config}))
    return folder / "weights.pt"


def size_of(way: str, folder: Path) -> float:
    """Size of the files that a way reads, in MB."""
    import capkit

    embedded = next((Path(capkit.__file__).parent / "backbones" / "weights").glob("*.safetensors"))
    weights = folder / "weights.pt"
    frozen = weights if weights.exists() else embedded
    files = {
        "capkit": [folder / "model.capkit", frozen],
        "open_clip": [folder / "texts.npy", frozen],
        "onnxruntime": [folder / "model.onnx"],
    }[way]
    return sum(file.stat().st_size for file in files) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--csv", help="also write the table to this file")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        way, folder = arguments.measure
        print(json.dumps(measure(way, Path(folder))))
        return
    warnings.simplefilter("ignore")
    rows = [COLUMNS]
    print(" | ".join(COLUMNS))
    for name in ("glyph, adapters", "glyph, prompts", "ViT-B/32, adapters"):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            make_classifier(name, folder, arguments.images)
            for way in WAYS:
                command = [sys.executable, __file__, "--measure", way, place]
                alone = {**os.environ, "OMP_NUM_THREADS": "1"}
                printed = subprocess.check_output(command, env=alone, stderr=subprocess.DEVNULL)
                found = json.loads(printed.splitlines()[-1])
                first, *later = (found[column] for column in COLUMNS[3:])
                shown = [f"{first:.2f}", *(f"{value:.1f}" for value in later)]
                rows.append([name, way, f"{size_of(way, folder):.1f}", *shown])
                print(" | ".join(rows[-1]), flush=True)
    if arguments.csv:
        with open(arguments.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
