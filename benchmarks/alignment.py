"""What concept alignment alone is worth: no training, zero-shot texts against aligned ones.

    python benchmarks/alignment.py --output docs/results

Two tables, percentages, mean and standard deviation over the seeds of the clustering. "embedded":
the embedded model on its two data sets; classes are detected and aligned on the training images
without labels, and test images are scored, over all classes and over the mismatched ones alone.
Each row says how many classes detection leaves (t), what it found, and the accuracy with the
texts as they are, with cluster centres in place of texts, and with the best of the table's
descriptions. "planted": problems whose mismatched classes are known (see
capkit.datasets.make_concept_space); the last column has the texts as they were before
some were moved away.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from detection import EMBEDDED, FRESH_SEEDS, PLANTED, count_values, report

from capkit import CLIPEncoder, ConceptAligner, ConceptSpace, MismatchDetector
from capkit.datasets import make_concept_space
from capkit.describers import TableDescriber


def accuracy(space: ConceptSpace, target: np.ndarray, classes=None) -> float:
    """Percentage of the images, or of those of some classes."""
    chosen = slice(None) if classes is None else np.isin(target, classes)
    return 100 * (space.predict() == target)[chosen].mean()


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}" if values else "-"


def embedded(n_seeds: int) -> Iterator[dict[str, object]]:
    for load, numbers in EMBEDDED.items():
        train, test = load(split="train"), load(split="test")
        encoder = CLIPEncoder("glyph", class_names=train.class_names)
        train_space = encoder.fit_transform(train.images)
        test_space = encoder.transform(test.images)
        describers = {"without text": None, "table": TableDescriber(train.descriptions)}
        for t in numbers:
            found: list[str] = []
            scores: dict[str, list[float]] = {name: [] for name in ("zero-shot", *describers)}
            of_found: dict[str, list[float]] = {name: [] for name in scores}
            for seed in range(FRESH_SEEDS, FRESH_SEEDS + n_seeds):
                detected = MismatchDetector(t=t, random_state=seed).fit_transform(train_space)
                mismatched = detected.mismatch.mismatched
                names = [train.class_names[index] for index in mismatched]
                found.append(", ".join(names) or "none")
                ways = {"zero-shot": test_space}
                for name, describer in describers.items():
                    aligner = ConceptAligner(describer=describer, use_centers=True).fit(detected)
                    ways[name] = aligner.transform(test_space)
                for name, space in ways.items():
                    scores[name].append(accuracy(space, test.target))
                    if len(mismatched):
                        of_found[name].append(accuracy(space, test.target, mismatched))
            yield {
                "data": load.__name__.removeprefix("load_"),
                "t": t,
                "mismatched (seeds)": count_values(found),
                **{name: spread(values) for name, values in scores.items()},
                **{f"{name}, mismatched": spread(values) for name, values in of_found.items()},
            }


def planted(n_seeds: int) -> Iterator[dict[str, object]]:
    for name, options in PLANTED.items():
        scores: dict[str, list[float]] = {"zero-shot": [], "without text": [], "fitting texts": []}
        for seed in range(n_seeds):
            problem = make_concept_space(random_state=seed, **options)
            fitting = dataclasses.replace(
                problem.space, text_features=problem.fitting_text_features
            )
            aligned = ConceptAligner(use_centers=True, random_state=seed).fit_transform(
                problem.space
            )
            for way, space in zip(scores, (problem.space, aligned, fitting), strict=True):
                scores[way].append(accuracy(space, problem.target))
        yield {
            "problem": name,
            "seeds": n_seeds,
            **{way: spread(values) for way, values in scores.items()},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--output", type=Path, help="folder for a CSV file of each table")
    arguments = parser.parse_args()
    for name, table in {"embedded": embedded, "planted": planted}.items():
        path = arguments.output and arguments.output / f"alignment_{name}.csv"
        report(name, table(arguments.seeds), path)


if __name__ == "__main__":
    main()
