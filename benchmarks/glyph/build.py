"""Build the model and the data that capkit ships, from the npm packages to the files.

    python benchmarks/glyph/build.py --work-dir /some/where

Every stage leaves its result in the work directory and is skipped where that is complete;
training goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from export import WEIGHTS_DIR, export_model
from fonts import fetch_all, read_families
from handwriting import DATA_DIR, export_handwriting
from render import render_families
from train import Settings, train


def build(work_dir: Path, settings: Settings, weights_dir: Path, data_dir: Path) -> None:
    """Run every stage that is not done yet."""
    work_dir.mkdir(parents=True, exist_ok=True)
    fonts_dir = work_dir / "fonts"
    families = read_families()
    fetch_all(families, fonts_dir)
    for role in ("heldout", "train"):
        target = work_dir / f"{role}.npz"
        if not target.exists():
            render_families(fonts_dir, [f for f in families if f.role == role], target)
    export_handwriting(fonts_dir, families, data_dir)
    export_model(train(work_dir, settings), weights_dir)


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work-dir", type=Path, required=True, help="fonts, pictures, checkpoints"
    )
    parser.add_argument("--steps", type=int, default=Settings.steps, help="training steps")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument(
        "--weights-dir", type=Path, default=WEIGHTS_DIR, help="where the model goes"
    )
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="where the data set goes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    build(
        arguments.work_dir,
        Settings(steps=arguments.steps),
        arguments.weights_dir,
        arguments.data_dir,
    )


if __name__ == "__main__":
    main()
