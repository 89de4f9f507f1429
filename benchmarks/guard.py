"""Whether the guard of Gaussian transduction tells gain from harm, on planted problems.

    python benchmarks/guard.py --csv docs/results/guard.csv

Problems are drawn at random from a grid of settings: classes, images a class, imbalance, logit
scale, share of dead texts (which point anywhere) and of confused classes (which resemble another
one), noise of images and texts. In each, mismatched classes are detected first, as
CAPClassifier does, and accuracy is compared with zero-shot's, in points, without the guard
("off") and with it ("on"), on the images adapted to and on as many new ones. A problem is harmed
where more than one point is lost.

Two summaries: what each way gains, overall and for each range of three settings; and how well
each number that needs no label predicts harm by the unguarded way, among the problems in which it
changes a label: area under the ROC curve, 0.5 where it says nothing. "agreement" is the share of
images that two fits, each on one half of the images, label alike.

Seeds start at 2000: with seeds below 1150 the thresholds of the guard were chosen. Only the shape
of the features is planted, after that of CLIP's; real ones are in real_features.py.
"""

import argparse
import itertools
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.utils import Bunch

from capkit import ConceptSpace, GaussianTransduction, MismatchDetector
from capkit.baselines import GaussianTransductionClassifier
from capkit.guard import change_clarity
from capkit.pseudolabels import class_balance

FIRST_SEED = 2000
N_FEATURES = 256
MOST_IMAGES = 6000
HARM = 1.0  # points

GRID = {
    "classes": [5, 10, 25, 60, 120],
    "images a class": [2, 4, 8, 16, 40, 100],
    "imbalance": [1.0, 10.0, 30.0, 100.0],
    "logit scale": [10.0, 20.0, 50.0, 100.0],
    "dead texts": [0.0, 0.0, 0.1, 0.2],
    "confused": [0.0, 0.0, 0.2, 0.5],
    "noise": [1.0, 1.7, 2.5],
    "text noise": [0.5, 1.0, 2.0],
}

# Lengths of what images and texts are made of.
IMAGE_CONE, IMAGE_CONTRAST = 1.2, 0.6
TEXT_CONE, TEXT_CONTRAST = 1.5, 0.5

GUARDS = {"off": False, "on": True}
PLACES = ("adapted", "new")
# Bounds of the ranges that the problems are summed up for.
RANGES = {
    "classes": (0, 10, 60, np.inf),
    "images a class": (0, 8, 40, np.inf),
    "imbalance": (0, 10, 30, 100, np.inf),
}
# Each number that may predict harm, and whether harm is where it is high (1) or low (-1).
STATISTICS = {"clarity": -1, "trust": -1, "evenness": -1, "changed": 1, "agreement": -1}


def draw_settings(rng):
    """A point of the grid that is not too large."""
    while True:
        settings = {name: rng.choice(values).item() for name, values in GRID.items()}
        if settings["classes"] * settings["images a class"] <= MOST_IMAGES:
            return settings


def planted(settings, rng):
    """A problem: the space of its images, their classes, and as many new images.

    Images lie in one cone and texts in another; the noise of images has a few long directions and
    many short ones, as that of CLIP's has.
    """
    n_classes = settings["classes"]
    concepts = random_rows(rng, n_classes)
    order = rng.permutation(n_classes)
    n_pairs = round(settings["confused"] * n_classes / 2)
    first, second = order[:n_pairs], order[n_pairs : 2 * n_pairs]
    concepts[second] = concepts[first] + 0.25 * random_rows(rng, n_pairs)
    text_concepts = concepts + settings["text noise"] * random_rows(rng, n_classes)
    dead = order[n_classes - round(settings["dead texts"] * n_classes) :]
    text_concepts[dead] = 0.7 * random_rows(rng, len(dead))

    sizes = class_sizes(n_classes, settings["images a class"], settings["imbalance"])
    target = np.repeat(np.arange(n_classes), rng.permutation(sizes))
    directions = np.linalg.qr(rng.standard_normal((N_FEATURES, N_FEATURES)))[0]
    lengths = np.arange(1, N_FEATURES + 1) ** -0.5
    spread = directions * (lengths / np.sqrt((lengths**2).sum()))[:, None]
    image_cone, text_cone = unit_rows(random_rows(rng, 2))

    def draw_images():
        noise = rng.standard_normal((len(target), N_FEATURES)) @ spread
        contrast = concepts[target] + settings["noise"] * noise
        return unit_rows(IMAGE_CONE * image_cone + IMAGE_CONTRAST * contrast).astype(np.float32)

    texts = unit_rows(TEXT_CONE * text_cone + TEXT_CONTRAST * text_concepts).astype(np.float32)
    names = [f"{index:04}" for index in range(n_classes)]
    spaces = [ConceptSpace(draw_images(), texts, names, settings["logit scale"]) for _ in range(2)]
    return Bunch(space=spaces[0], new=spaces[1], target=target)


def random_rows(rng, n_rows):
    """Rows of about unit length."""
    return rng.standard_normal((n_rows, N_FEATURES)) / np.sqrt(N_FEATURES)


def unit_rows(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def class_sizes(n_classes, mean, imbalance):
    """Sizes from the largest to the smallest, which is `imbalance` times smaller, at least 1."""
    sizes = imbalance ** -np.linspace(0, 1, n_classes)
    return np.maximum(1, np.round(sizes * mean / sizes.mean())).astype(int)


def accuracy(labels, target):
    return 100 * float((labels == target).mean())


def fit(space, guard):
    return GaussianTransductionClassifier(transduction=GaussianTransduction(guard=guard)).fit(
        space
    )


def label(classifier, space):
    return classifier.predict_proba(space).argmax(axis=1)


def run_problem(seed):
    """Row of one problem."""
    rng = np.random.default_rng(seed)
    settings = draw_settings(rng)
    problem = planted(settings, rng)
    detected = MismatchDetector(random_state=0).fit_transform(problem.space)
    before = problem.space.predict()
    row = {"seed": seed, **settings}
    row["zero-shot, adapted"] = accuracy(before, problem.target)
    row["zero-shot, new"] = accuracy(problem.new.predict(), problem.target)
    fitted = {name: fit(detected, guard) for name, guard in GUARDS.items()}
    for name, classifier in fitted.items():
        for place, space in zip(PLACES, (problem.space, problem.new), strict=True):
            found = accuracy(label(classifier, space), problem.target)
            row[f"{name}, {place}"] = found - row[f"zero-shot, {place}"]
    row["kept"] = held_at(fitted["on"].transduction_.report_)
    return row | statistics(detected, before, fitted["off"].transduction_)


def held_at(report):
    """Name of the step that was kept."""
    return next((step.name for step in report.steps if step.kept), "zero-shot")


def statistics(space, before, unguarded):
    """Numbers of a fit that need no label."""
    after = unguarded.labels_
    order = np.random.default_rng(0).permutation(len(space))
    halves = (fit(space[np.sort(part)], guard=False) for part in (order[::2], order[1::2]))
    one, other = (label(half, space) for half in halves)
    return {
        "clarity": change_clarity(space.image_features, before, after, space.n_classes),
        "trust": unguarded.trust_,
        "evenness": class_balance(np.bincount(after, minlength=space.n_classes)),
        "changed": float((before != after).mean()),
        "agreement": float((one == other).mean()),
    }


def summary(table):
    """Gain, share of harmed problems and worst, overall and for each range of three settings."""
    groups = [("all", table)]
    for name, edges in RANGES.items():
        for low, high in itertools.pairwise(edges):
            within = (table[name] >= low) & (table[name] < high)
            bounds = f"below {high}" if low == 0 else f"from {low}"
            groups.append((f"{name} {bounds}", table[within]))
    rows = []
    for place in PLACES:
        for name, part in groups:
            row = {"on": place, "problems": name, "number": len(part)}
            for guard in GUARDS:
                gain = part[f"{guard}, {place}"]
                row[f"mean gain, {guard}"] = gain.mean()
                row[f"harmed [%], {guard}"] = 100 * (gain < -HARM).mean()
                row[f"worst, {guard}"] = gain.min()
            rows.append(row)
    return pd.DataFrame(rows)


def prediction_of_harm(table):
    """Area under the ROC curve of each statistic, for harm where labels change at all."""
    table = table[table["changed"] > 0]
    rows = []
    for name, sign in STATISTICS.items():
        row = {"statistic": name, "harm where it is": "high" if sign > 0 else "low"}
        for place in PLACES:
            harmed = table[f"off, {place}"] < -HARM
            known = 0 < harmed.mean() < 1
            row[f"AUC, {place}"] = roc_auc_score(harmed, sign * table[name]) if known else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=150)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--csv", type=Path, help="for the problems; the summaries go beside it")
    arguments = parser.parse_args()
    # Few images, and what the guard holds back: the tables say it.
    warnings.simplefilter("ignore")
    rows = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.problems):
        rows.append(run_problem(seed))
        print(*(f"{v:.3g}" if isinstance(v, float) else v for v in rows[-1].values()), flush=True)
    table = pd.DataFrame(rows)
    tables = {"": table, "_summary": summary(table), "_statistics": prediction_of_harm(table)}
    for suffix in ("_summary", "_statistics"):
        print(tables[suffix].round(2).to_string(index=False))
    if arguments.csv:
        for suffix, part in tables.items():
            path = arguments.csv.with_name(f"{arguments.csv.stem}{suffix}.csv")
            part.round(2 if suffix else 3).to_csv(path, index=False)


if __name__ == "__main__":
    main()
