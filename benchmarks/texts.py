"""What choosing texts by the images is worth, and what wrong texts cost.

    python benchmarks/texts.py --data FOLDER --output docs/results

Two tables, accuracy in percent without training, mean over the seeds. "texts": the mismatched
classes of a set get descriptions that are good, without meaning ("nonsense"), another class's,
good ones half of whose rows were exchanged between all classes ("half exchanged"), or those of
another mismatched class ("exchanged"). Each is judged with the texts as they are, with the most
similar description whatever it says (accept="always"), and with those that the images show to be
better (accept="images"); "refused" is the share of mismatched classes that keep their text then.
On the embedded model's sets, test images are scored; on planted problems and on features of real
CLIPs (FOLDER, as for benchmarks/real_features.py) the images adapted to. Where there is no text
tower, texts are features: good ones are the right text with noise, or other prompts of the class;
nonsense points anywhere; "mute names" have two of the names moved to where no image is. Detection
leaves 3 and 5 classes of these, and both count in the mean.

"prompts": which of a set's many prompt templates is taken, by the images alone, and what
GaussianTransduction makes of it; "best by labels" is out of reach without labels. For the images
adapted to, and for one half of them after choosing on the other.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from real_features import load

from capkit import (
    CLIPEncoder,
    ConceptAligner,
    ConceptSpace,
    GaussianTransduction,
    MismatchDetector,
)
from capkit.datasets import load_digits, load_handwriting, make_concept_space
from capkit.prompt_choice import choose_prompts, mix_prompts

EMBEDDED = {load_digits: (3, 5), load_handwriting: (7, 20)}
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
}
NONSENSE = [
    "IMG_0001.jpg",
    "scan_17.png",
    "42",
    "3.14159",
    "[1, 2, 3]",
    "file 7 of 12",
    "data/train/000123.jpeg",
    "description 1",
    '{"description": "text"}',
    "0 0 0 0 0",
    "null",
    "untitled document",
    "see above",
    "the quarterly report was late",
    "a green dog on a sofa",
    "lorem ipsum dolor sit amet",
]
PER_CLASS = 5


class FeatureAligner(ConceptAligner):
    """Takes descriptions whose features are known, where there is no text tower."""

    def _text_encoder(self, space):
        return lambda texts: np.array([self.describer.features[text] for text in texts])


class Describer:
    """A table of descriptions, and their features where they are not encoded."""

    def __init__(self, table, features=None):
        self.table, self.features = table, features

    def __call__(self, class_name, n):
        return self.table[class_name][:n]


def tables(good, nonsense, mismatched, rng) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Good descriptions of all classes, and what can be wrong with them."""
    names = list(good)
    yield "good", good
    yield (
        "nonsense",
        {name: [nonsense[i] for i in rng.permutation(len(nonsense))[:8]] for name in names},
    )
    shift = rng.integers(1, len(names))
    others = [names[(place + shift) % len(names)] for place in range(len(names))]
    yield "another class's", {name: good[other] for name, other in zip(names, others, strict=True)}
    rows = [(name, place) for name in names for place in range(PER_CLASS)]
    moved = [rows[i] for i in rng.permutation(len(rows))[: len(rows) // 2]]
    half = {name: list(texts) for name, texts in good.items()}
    for (name, place), (other, its_place) in zip(moved, moved[1:] + moved[:1], strict=True):
        half[name][place] = good[other][its_place]
    yield "half exchanged", half
    if len(mismatched) > 1:
        turned = dict(zip(mismatched, [*mismatched[1:], mismatched[0]], strict=True))
        yield "exchanged", {name: good[turned.get(name, name)] for name in names}


def judge(space, scored, target, good, nonsense, t, seed, features=None):
    """Rows of one space."""
    detected = MismatchDetector(t=t, random_state=seed).fit_transform(space)
    mismatched = [space.class_names[index] for index in detected.mismatch.mismatched]
    if not mismatched:
        return
    make = ConceptAligner if features is None else FeatureAligner
    rng = np.random.default_rng(seed)
    for kind, table in tables(good, nonsense, mismatched, rng):
        row = {"descriptions": kind, "mismatched": len(mismatched)}
        row["as they are"] = 100 * (scored.predict() == target).mean()
        for accept in ("always", "images"):
            aligner = make(describer=Describer(table, features), accept=accept).fit(detected)
            row[accept] = 100 * (aligner.transform(scored).predict() == target).mean()
        row["refused"] = len(aligner.rejected_descriptions_) / len(mismatched)
        yield row


def embedded(seeds) -> Iterator[dict]:
    for load_set, numbers in EMBEDDED.items():
        train, test = load_set(split="train"), load_set(split="test")
        encoder = CLIPEncoder("glyph", class_names=train.class_names)
        space, scored = encoder.fit_transform(train.images), encoder.transform(test.images)
        for t in numbers:
            name = f"{load_set.__name__.removeprefix('load_')}, t={t}"
            for seed in seeds:
                rows = judge(space, scored, test.target, train.descriptions, NONSENSE, t, seed)
                yield from ({"set": name, **row} for row in rows)


def unit(array: np.ndarray) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)


def as_texts(space: ConceptSpace, of_class: np.ndarray, rng):
    """Names for features: a table of them by class, and some that point anywhere."""
    table = {
        name: [f"{name}, {place}" for place in range(PER_CLASS)] for name in space.class_names
    }
    features = {
        text: of_class[row, place]
        for row, texts in enumerate(table.values())
        for place, text in enumerate(texts)
    }
    directions = unit(rng.standard_normal((16, space.shape[1])))
    nonsense = {
        f"nonsense {row}": feature
        for row, feature in enumerate(unit(space.text_features.mean(axis=0) + 0.5 * directions))
    }
    return table, list(nonsense), features | nonsense


def planted(seeds) -> Iterator[dict]:
    for name, options in PLANTED.items():
        for seed in seeds:
            problem = make_concept_space(random_state=seed, **options)
            rng = np.random.default_rng(seed)
            fitting = problem.fitting_text_features[:, None]
            shape = (len(fitting), PER_CLASS, fitting.shape[2])
            noise = 0.3 / np.sqrt(shape[2]) * rng.standard_normal(shape)
            good, nonsense, features = as_texts(problem.space, unit(fitting + noise), rng)
            rows = judge(
                problem.space, problem.space, problem.target, good, nonsense, None, seed, features
            )
            yield from ({"set": f"planted, {name}", **row} for row in rows)


def load_prompts(path: Path) -> np.ndarray | None:
    """Text features of shape (n_prompts, n_classes, d), where a set has many a class."""
    file = np.load(path)
    return unit(file["W_prompts"].astype(np.float32)) if "W_prompts" in file.files else None


def real(path: Path, seeds) -> Iterator[dict]:
    """Descriptions of one set of real features; other prompts of a class are good ones."""
    space, target = load(path)
    prompts = load_prompts(path)
    of_wrong_texts = {"nonsense", "another class's", "exchanged"}
    kinds = of_wrong_texts if prompts is None else {*of_wrong_texts, "good", "half exchanged"}
    if prompts is None:
        prompts = np.repeat(space.text_features[None], PER_CLASS, axis=0)
    for mute in (False, True):
        for seed in seeds:
            rng = np.random.default_rng(seed)
            taken = rng.permutation(len(prompts))[:PER_CLASS]
            good, nonsense, features = as_texts(space, prompts[taken].transpose(1, 0, 2), rng)
            texts = space.text_features.copy()
            if mute:
                rows = rng.permutation(len(texts))[:2]
                mean = texts.mean(axis=0)
                elsewhere = 0.5 * unit(rng.standard_normal((2, texts.shape[1])))
                texts[rows] = unit(mean + 0.15 * (texts[rows] - mean) + elsewhere)
            named = ConceptSpace(space.image_features, texts, space.class_names)
            for t in (3, 5):
                rows = judge(named, named, target, good, nonsense, t, seed, features)
                name = f"{path.stem}{', mute names' if mute else ''}"
                yield from ({"set": name, **row} for row in rows if row["descriptions"] in kinds)


def accuracy(space, target, rows=slice(None)) -> float:
    return 100 * (space.predict() == target)[rows].mean()


def prompts_of(path: Path, seeds) -> Iterator[dict]:
    """Which prompts are taken, of one set."""
    space, target = load(path)
    prompts = load_prompts(path)
    if prompts is None:
        return

    def with_texts(part, texts):
        return ConceptSpace(part.image_features, texts, part.class_names)

    right = [accuracy(with_texts(space, texts), target) for texts in prompts]
    ways = {
        "single prompt": lambda part: with_texts(part, space.text_features),
        "mean of all": lambda part: with_texts(part, mix_prompts(prompts)),
        "best single by labels": lambda part: with_texts(part, prompts[int(np.argmax(right))]),
        "chosen by images": lambda part: choose_prompts(part, prompts),
    }
    for name, way in ways.items():
        chosen = way(space)
        labels = GaussianTransduction().fit(chosen).labels_
        new = []
        for seed in seeds:
            order = np.random.default_rng(seed).permutation(len(space))
            seen, unseen = np.array_split(order, 2)
            texts = way(space[np.sort(seen)]).text_features
            new.append(accuracy(with_texts(space[unseen], texts), target[unseen]))
        yield {
            "set": path.stem,
            "texts": name,
            "accuracy": accuracy(chosen, target),
            "then transduction": 100 * (labels == target).mean(),
            "new images": np.mean(new),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="folder of real features")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="folder for a CSV file of each table")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of refused descriptions, which are counted here
    seeds = range(arguments.seeds)
    rows = [*embedded(seeds), *planted(seeds)]
    choices: list[dict] = []
    for path in sorted(arguments.data.glob("*.npz")) if arguments.data else ():
        rows += real(path, seeds)
        choices += prompts_of(path, seeds)
    texts = pd.DataFrame(rows).groupby(["set", "descriptions"], sort=False).mean().reset_index()
    for name, table in {"texts": texts, "prompts": pd.DataFrame(choices)}.items():
        if table.empty:
            continue
        numbers = table.select_dtypes("number").columns
        table[numbers] = table[numbers].round(1)
        print(table.to_string(index=False))
        if arguments.output:
            table.to_csv(arguments.output / f"{name}.csv", index=False)


if __name__ == "__main__":
    main()
