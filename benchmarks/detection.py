"""How fast mismatch detection is in its two forms, and whether they find the planted classes.

    python benchmarks/detection.py
    python benchmarks/detection.py --output docs/results

Four tables. "speed": the warm and the literal form on the same problem with the same options;
all rounds of the literal form are run. "scaling": the warm form for growing numbers of images
and classes; the last column is the time for each million of images times classes, which may not
grow. "planted": how often each form finds exactly the classes whose text was moved, over seeds.
Features are random ones in CLIP's geometry, see capkit.datasets.make_concept_space. "embedded":
what each form finds with the embedded model on its two data sets, over seeds.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from capkit import CLIPEncoder, ConceptSpace, MismatchDetector
from capkit.datasets import load_digits, load_handwriting, make_concept_space

FORMS = ("warm", "scratch")

# Options of make_concept_space; the last two have noise that merges clusters.
PLANTED = {
    "20 classes": {},
    "30 classes, confused": {
        "n_images": 1500,
        "n_classes": 30,
        "n_features": 128,
        "n_mismatched": 3,
        "noise": 2.0,
        "confusion": 1.0,
    },
    "60 classes, confused": {
        "n_images": 3000,
        "n_classes": 60,
        "n_features": 128,
        "n_mismatched": 6,
        "noise": 2.0,
        "confusion": 1.0,
    },
}

# Seeds that played no part in choosing how often the warm form clusters anew.
FRESH_SEEDS = 100

# Values of t: the default comes first.
EMBEDDED = {load_digits: (1, 2, 3), load_handwriting: (7,)}


def make_space(n_images: int, n_classes: int, n_features: int = 512) -> ConceptSpace:
    return make_concept_space(
        n_images,
        n_classes,
        n_features,
        n_mismatched=n_classes // 10,
        noise=2.0,
        confusion=1.0,
        random_state=0,
    ).space


def seconds_of_fit(space: ConceptSpace, recluster: str, n_init: int) -> float:
    detector = MismatchDetector(recluster=recluster, n_init=n_init, random_state=0)
    start = time.perf_counter()
    detector.fit(space)
    return time.perf_counter() - start


def speed(n_images: int, n_classes: int, n_init: int) -> Iterator[dict[str, object]]:
    space = make_space(n_images, n_classes)
    warm, scratch = (seconds_of_fit(space, form, n_init) for form in FORMS)
    yield {
        "images": n_images,
        "classes": n_classes,
        "features": space.shape[1],
        "warm [s]": f"{warm:.1f}",
        "scratch [s]": f"{scratch:.1f}",
        "ratio": f"{scratch / warm:.0f}",
    }


def scaling(n_images: list[int], n_classes: list[int], n_init: int) -> Iterator[dict[str, object]]:
    for images in n_images:
        for classes in n_classes:
            seconds = seconds_of_fit(make_space(images, classes), "warm", n_init)
            yield {
                "images": images,
                "classes": classes,
                "warm [s]": f"{seconds:.1f}",
                "per 1e6 images x classes [s]": f"{seconds / (images * classes / 1e6):.2f}",
            }


def planted(n_seeds: int) -> Iterator[dict[str, object]]:
    for name, options in PLANTED.items():
        found = dict.fromkeys(FORMS, 0)
        agree = 0
        for seed in range(n_seeds):
            problem = make_concept_space(random_state=seed, **options)
            mismatched = [
                MismatchDetector(recluster=form, random_state=seed).fit(problem.space).mismatched_
                for form in FORMS
            ]
            for form, classes in zip(FORMS, mismatched, strict=True):
                found[form] += np.array_equal(classes, problem.mismatched)
            agree += np.array_equal(*mismatched)
        yield {
            "problem": name,
            "seeds": n_seeds,
            "warm exact": found["warm"],
            "scratch exact": found["scratch"],
            "agree": agree,
        }


def embedded(n_seeds: int) -> Iterator[dict[str, object]]:
    for load, numbers in EMBEDDED.items():
        data = load(split="train")
        space = CLIPEncoder("glyph", class_names=data.class_names).fit_transform(data.images)
        for t in numbers:
            found: dict[str, list[str]] = {form: [] for form in FORMS}
            for seed, form in itertools.product(range(FRESH_SEEDS, FRESH_SEEDS + n_seeds), FORMS):
                detector = MismatchDetector(t=t, recluster=form, random_state=seed).fit(space)
                names = [data.class_names[index] for index in detector.mismatched_]
                found[form].append(", ".join(names) or "none")
            yield {
                "data": load.__name__.removeprefix("load_"),
                "t": t,
                **{f"{form} (seeds)": count_values(found[form]) for form in FORMS},
                "agree": sum(map(str.__eq__, *found.values())),
            }


def count_values(values: list[str]) -> str:
    """Each value with how often it comes, the most frequent first."""
    return "; ".join(f"{value} ({n})" for value, n in Counter(values).most_common())


def report(name: str, rows: Iterator[dict[str, object]], path: Path | None) -> None:
    """Print rows as they come, and write them to a file."""
    print(f"\n{name}")
    done: list[dict[str, object]] = []
    for row in rows:
        if not done:
            print("  ".join(row))
        done.append(row)
        print("  ".join(str(value).rjust(len(key)) for key, value in row.items()), flush=True)
    if path is not None and done:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(done[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tables", nargs="+", default=["speed", "scaling", "planted", "embedded"])
    parser.add_argument("--n-images", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--n-classes", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--n-init", type=int, default=1, help="starts of each K-Means, both forms")
    parser.add_argument("--seeds", type=int, default=10, help="of the last two tables")
    parser.add_argument("--output", type=Path, help="folder for a CSV file of each table")
    arguments = parser.parse_args()

    print(f"{os.cpu_count()} cores, n_init={arguments.n_init} (planted, embedded: the default)")
    tables = {
        "speed": lambda: speed(10_000, 100, arguments.n_init),
        "scaling": lambda: scaling(arguments.n_images, arguments.n_classes, arguments.n_init),
        "planted": lambda: planted(arguments.seeds),
        "embedded": lambda: embedded(arguments.seeds),
    }
    for name in arguments.tables:
        path = arguments.output and arguments.output / f"detection_{name}.csv"
        report(name, tables[name](), path)


if __name__ == "__main__":
    main()
