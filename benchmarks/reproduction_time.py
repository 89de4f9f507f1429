"""How long the paper's experiment takes on this machine, by a few steps of each data set's size.

    python benchmarks/reproduction_time.py
    python benchmarks/reproduction_time.py dtd flowers102 --output time.csv
    python benchmarks/reproduction_time.py --backbone ViT-L-14 --device cuda

Weights and images are random: they change nothing about the cost, and nothing is downloaded. It
measures what ``capkit reproduce`` measures before it starts: a step of CAP with all strong views
kept, the dearest of all methods, so that all times are upper bounds. Runs on a CPU or a GPU, whose
name it prints; the memory is that of the training, on a GPU that of the card.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path

import open_clip
import pandas as pd
import torch

from capkit import CLIPEncoder
from capkit.commands import estimate_reproduction
from capkit.reproduction import SETTINGS, Estimate, SetEstimate


def save_random_model(name: str, folder: Path) -> Path:
    """An open_clip model with random weights, as a checkpoint that capkit loads."""
    config = {
        "model_cfg": open_clip.get_model_config(name),
        "preprocess_cfg": {
            "mean": open_clip.OPENAI_DATASET_MEAN,
            "std": open_clip.OPENAI_DATASET_STD,
        },
    }
    (folder / "random.json").write_text(json.dumps(config))
    torch.save(open_clip.create_model(name, pretrained=None).state_dict(), folder / "random.pt")
    return folder / "random.pt"


def measure_set(data_set: str, weights: Path, args: argparse.Namespace) -> Estimate:
    """The time of a data set; called in a process of its own, which keeps no memory of others."""
    torch.set_num_threads(args.threads)
    encoder = CLIPEncoder(weights, device=args.device)
    return estimate_reproduction(data_set, paradigms=args.paradigms, encoder=encoder)


def make_row(part: SetEstimate) -> dict[str, object]:
    """A row of the table."""
    n_classes = SETTINGS[part.data_set].n_classes
    return {
        "data set": part.data_set,
        "classes": n_classes,
        "ms a step": f"{1000 * part.cost.step_seconds:.0f}",
        "ms an image": f"{1000 * part.cost.image_seconds:.1f}",
        "memory, MiB": f"{part.cost.memory:.0f}",
        "trainings": part.n_trainings,
        "hours, at most": f"{part.seconds / 3600:.1f}",
    }


def main() -> None:
    """Measure the data sets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_sets", nargs="*", default=list(SETTINGS))
    parser.add_argument("--backbone", default="ViT-B-32", help="of open_clip")
    parser.add_argument("--paradigms", nargs="+", default=["ul"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", help="CSV file for the table")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        weights = save_random_model(args.backbone, Path(folder))
        for data_set in args.data_sets:
            with context.Pool(1) as pool:
                parts.append(pool.apply(measure_set, (data_set, weights, args)))
    sets = tuple(part for estimate in parts for part in estimate.sets)
    estimate = Estimate(parts[0].device, parts[0].has_gpu, sets)
    print(f"{args.backbone}, {' '.join(args.paradigms)}, three seeds, all methods: {estimate}")
    table = pd.DataFrame(map(make_row, estimate.sets))
    print(table.to_string(index=False))
    if args.output:
        table.to_csv(args.output, index=False)


if __name__ == "__main__":
    main()
