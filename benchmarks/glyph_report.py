"""Print what the embedded model does on the embedded data sets, zero-shot and by linear probe.

    python benchmarks/glyph_report.py
    python benchmarks/glyph_report.py --sheets docs/images

Zero-shot scores use the prompt "a photo of a {}" and no label. The linear probe is a logistic
regression on the train split's standardised features, scored on the test split.
"""

from __future__ import annotations

import argparse
import time
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from capkit.backbones import Backbone, load_backbone
from capkit.datasets import load_digits, load_handwriting

SHIPPED = Path(str(resources.files("capkit"))) / "backbones/weights/glyph.safetensors"
LOADERS = {"digits": load_digits, "handwriting": load_handwriting}
TEMPLATE = "a photo of a {}"
TAU = 0.85
LOW_RECALL = 0.05
BATCH_SIZE = 250
SAMPLES_PER_CLASS = 10


def encode(backbone: Backbone, images: np.ndarray) -> np.ndarray:
    """Encode uint8 images (n, 32, 32, 3) to unit rows (n, d)."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    parts = [backbone.encode_images(part) for part in pixels.split(BATCH_SIZE)]
    return torch.cat(parts).numpy()


def measure_speed(backbone: Backbone, images: np.ndarray, repeats: int = 5) -> float:
    """Pictures encoded a second, the best of several rounds."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        encode(backbone, images)
        seconds.append(time.perf_counter() - started)
    return len(images) / min(seconds)


def report_model(checkpoint: Path, images: np.ndarray) -> Backbone:
    """Load the model and print its size, the time that took, and its speed."""
    import capkit.backbones.backbone  # noqa: F401  what imports take is not the model's

    started = time.perf_counter()
    backbone = load_backbone(checkpoint, device="cpu")
    seconds = time.perf_counter() - started
    n_parameters = sum(
        p.numel() for n, p in backbone.model.named_parameters() if "token_" not in n
    )
    print(checkpoint.name)
    print(f"  file                        {checkpoint.stat().st_size / 1e6:.2f} MB")
    print(f"  parameters                  {n_parameters:,} without the token embeddings")
    print(f"  logit scale                 {backbone.logit_scale:.1f}")
    print(f"  loads in                    {seconds:.2f} s")
    speed = measure_speed(backbone, images)
    print(f"  pictures a second           {speed:,.0f} ({torch.get_num_threads()} threads)")
    return backbone


def report_dataset(backbone: Backbone, name: str, train: Bunch, test: Bunch) -> None:
    """Print zero-shot scores, confidence, per-class recall and linear probe of a data set."""
    train_features, test_features = encode(backbone, train.images), encode(backbone, test.images)
    texts = backbone.encode_texts([TEMPLATE.format(c) for c in train.class_names]).numpy()
    logits = backbone.logit_scale * np.concatenate([train_features, test_features]) @ texts.T
    probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
    target = np.concatenate([train.target, test.target])
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct = predicted == target
    is_confident = confidence > TAU
    recall = recall_score(target, predicted, average=None)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe_accuracy = probe.fit(train_features, train.target).score(test_features, test.target)
    zero_shot_test = correct[len(train.target) :].mean()

    print(f"\n{name}: {len(train.target):,} train and {len(test.target):,} test images")
    print(f"  zero-shot, all images       {correct.mean():6.1%}")
    print(f"  zero-shot, test images      {zero_shot_test:6.1%}")
    print(f"  linear probe, test images   {probe_accuracy:6.1%}")
    print(f"  probe above zero-shot       {100 * (probe_accuracy - zero_shot_test):5.1f} points")
    print(f"  confidence above {TAU}       {is_confident.mean():6.1%} of all images")
    print(f"  accuracy of those           {correct[is_confident].mean():6.1%}")
    print(f"  accuracy of the others      {correct[~is_confident].mean():6.1%}")
    print(f"  classes under {LOW_RECALL:.0%} recall     {np.sum(recall < LOW_RECALL):5d}")
    print("  zero-shot recall of each class, all images, ascending")
    for label in np.argsort(recall, kind="stable"):
        print(f"    {recall[label]:6.1%}  {train.class_names[label]}")


def draw_sheet(data: Bunch, columns: int, zoom: int = 1) -> Image.Image:
    """Draw the first samples of each class beside its name."""
    side = data.images.shape[1] * zoom
    label_width = 190
    n_rows = -(-len(data.class_names) // columns)
    block = label_width + SAMPLES_PER_CLASS * side
    sheet = Image.new("L", (block * columns, n_rows * (side + 4)), 255)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for label, name in enumerate(data.class_names):
        x, y = block * (label // n_rows), (label % n_rows) * (side + 4)
        draw.text((x + 6, y + side // 2), name, fill=0, font=font, anchor="lm")
        rows = np.flatnonzero(data.target == label)[:SAMPLES_PER_CLASS]
        for column, image in enumerate(data.images[rows]):
            sample = Image.fromarray(image).convert("L").resize((side, side))
            sheet.paste(sample, (x + label_width + column * side, y))
    return sheet


def main() -> None:
    """Read the command line and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sheets", type=Path, metavar="DIR", help="also write a sheet of samples of each set"
    )
    parser.add_argument(
        "--checkpoint", type=Path, default=SHIPPED, help="another model of the same kind"
    )
    arguments = parser.parse_args()
    backbone = report_model(arguments.checkpoint, load_handwriting(split="test").images)
    for name, load in LOADERS.items():
        train, test = load(split="train"), load(split="test")
        report_dataset(backbone, name, train, test)
        if arguments.sheets:
            arguments.sheets.mkdir(parents=True, exist_ok=True)
            sheet = draw_sheet(test, columns=2)
            sheet.save(arguments.sheets / f"{name}_samples.png", optimize=True)


if __name__ == "__main__":
    main()
