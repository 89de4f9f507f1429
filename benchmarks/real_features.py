"""What each way of labeling makes of real CLIP features.

    python benchmarks/real_features.py --data FOLDER --csv docs/results/real_features.csv \
        --plot docs/images/real_features.png

FOLDER holds one .npz a set: image features Z (n, d), labels y (n,), text features W (C, d) or
W_single, class_names; the logit scale is 100. Each set is judged three times: "adapted" are all of
its images, which the ways see; "half" is one half of them, drawn by the seed, which they see, and
"new" the other half, which they do not. Beside the sets stand parts of one of them: "imbalance 50"
with class sizes from all to a fiftieth, "4 images a class", and a half of such images as new ones.

No label is given but to the ways of the second table, which are told the classes of two images a
class (ssl), or of all images of every second class (trzsl), and judged on new images: ssl beside
LogisticRegression on the same labels (the best of C = 1, 10, 100 by these new images' labels),
trzsl by the harmonic mean of seen and unseen classes.

Mean over the seeds; percentages, but for the area under the curve of confidence against being
right (auc). The seconds are those of a fit and a prediction of all images, on this machine, side
by side in one run; the memory is the most that these have allocated at a time, in MiB, without
torch's.
"""

import argparse
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from capkit import (
    CAPClassifier,
    ConceptAligner,
    ConceptSpace,
    GaussianTransduction,
    MismatchDetector,
)
from capkit.baselines import GaussianTransductionClassifier, ZeroShotClassifier
from capkit.metrics import harmonic_mean_score
from capkit.tuning import AdapterTuning

N_BINS = 15


class PlainGaussianEM:
    """The reference: one Gaussian a class, nothing done about few or unequal images.

    Shared covariance 0.3 * S + 0.7 * tr(S) / d * I, posterior proportional to likelihood times
    zero-shot probability, 30 rounds.
    """

    def fit(self, space):
        share = space.predict_proba()
        for _ in range(30):
            counts = share.sum(axis=0)
            self.means = (share.T @ space.image_features) / np.maximum(counts, 1e-9)[:, None]
            total = space.image_features.T @ space.image_features
            covariance = (total - (self.means * counts[:, None]).T @ self.means) / len(space)
            mean_variance = np.trace(covariance) / len(covariance)
            self.precision = np.linalg.inv(
                0.3 * covariance + 0.7 * mean_variance * np.eye(len(covariance))
            )
            share = self.predict_proba(space)
        return self

    def predict_proba(self, space):
        projected = self.means @ self.precision
        fit = space.image_features @ projected.T - 0.5 * (projected * self.means).sum(axis=1)
        return softmax(fit + log_softmax(space.logits(), axis=1), axis=1)


class Aligned:
    """Zero-shot with cluster centres in place of the texts of mismatched classes."""

    def fit(self, space):
        detected = MismatchDetector(random_state=0).fit_transform(space)
        self.aligner = ConceptAligner(use_centers=True).fit(detected)
        return self

    def predict_proba(self, space):
        return self.aligner.transform(space).predict_proba()


class DetectedGaussian:
    """Gaussian transduction behind detection: mismatched classes start from their clusters."""

    def fit(self, space):
        self.detector = MismatchDetector(random_state=0).fit(space)
        self.classifier = GaussianTransductionClassifier().fit(self.detector.transform(space))
        return self

    def predict_proba(self, space):
        return self.classifier.predict_proba(space)


def cap(paradigm="ul", **parameters):
    return lambda seed: CAPClassifier(
        paradigm, tuning=AdapterTuning(), random_state=seed, **parameters
    )


CENTERS = ConceptAligner(use_centers=True)
WAYS = {
    "zero-shot": lambda seed: ZeroShotClassifier(),
    "aligned by centres": lambda seed: Aligned(),
    "CAP as in the paper, aligned by centres": cap(pseudo_labels="zero_shot", aligner=CENTERS),
    "CAP as in the paper": cap(pseudo_labels="zero_shot"),
    "CAP as in the paper, m = 0": cap(pseudo_labels="zero_shot", m=0.0),
    "plain Gaussian EM": lambda seed: PlainGaussianEM(),
    "Gaussian transduction": lambda seed: GaussianTransductionClassifier(),
    "the same behind detection": lambda seed: DetectedGaussian(),
    "CAP, no guard": cap(pseudo_labels=GaussianTransduction(guard=False)),
    "CAP (default)": cap(),
}


def load(path):
    """A set as a ConceptSpace, and the true classes. Names sort as the indices do."""
    file = np.load(path, allow_pickle=False)
    texts = file["W_single"] if "W_single" in file.files else file["W"]
    images = file["Z"].astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    names = [f"{index:04}" for index in range(len(texts))]
    return ConceptSpace(images, texts / np.linalg.norm(texts, axis=1, keepdims=True), names), file[
        "y"
    ]


def judge(probabilities, target):
    """Numbers of one prediction, percentages."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = predicted == target
    classes = np.unique(target)
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = [
        abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    recalls = recall_score(target, predicted, labels=classes, average=None, zero_division=0)
    return {
        "accuracy": 100 * right.mean(),
        "mean recall": 100 * balanced_accuracy_score(target, predicted),
        "worst recall": 100 * recalls.min(),
        "auc": roc_auc_score(right, confidence) if 0 < right.mean() < 1 else np.nan,
        "calibration error": 100 * sum(gaps),
    }


def peak_memory(way, space):
    """Largest memory that a fit and a prediction have allocated at a time, in MiB; torch's not."""
    tracemalloc.start()
    WAYS[way](0).fit(space).predict_proba(space)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def class_rows(target, size_of_class, rng):
    """Rows to adapt to, and as many others of each class, where it has them."""
    seen, new = [], []
    for rank, of_class in enumerate(rng.permutation(np.unique(target))):
        rows = rng.permutation(np.flatnonzero(target == of_class))
        size = size_of_class(rank, len(rows))
        seen.append(rows[:size])
        new.append(rows[size : 2 * size])
    return np.sort(np.concatenate(seen)), np.sort(np.concatenate(new))


def splits(name, target, seeds):
    """Name, what the rows are called, rows to adapt to, new rows, seed."""
    n = len(target)
    largest = np.bincount(target).max() // 2
    n_classes = len(np.unique(target))
    for seed in seeds:
        rows = np.random.default_rng(seed).permutation(n)
        yield name, "adapted", np.arange(n), None, seed
        yield name, "half", np.sort(rows[: n // 2]), np.sort(rows[n // 2 :]), seed
        if "pets" not in name:
            continue
        rng = np.random.default_rng(seed)
        half = class_rows(
            target,
            lambda rank, n: max(1, round(min(largest, n // 2) * 50 ** (-rank / (n_classes - 1)))),
            rng,
        )
        yield f"{name}, imbalance 50", "half", *half, seed
        yield f"{name}, 4 a class", "half", *class_rows(target, lambda rank, n: 4, rng), seed


def run_set(name, space, target, ways, seeds):
    """Rows of one set, no label given."""
    for of_set, on, rows, new, seed in splits(name, target, seeds):
        for way in ways:
            start = time.perf_counter()
            model = WAYS[way](seed).fit(space[rows])
            numbers = judge(model.predict_proba(space[rows]), target[rows])
            cost = {"seconds": time.perf_counter() - start}
            if on == "adapted" and seed == 0:
                cost["memory"] = peak_memory(way, space[rows])
            yield {"set": of_set, "way": way, "on": on, **numbers, **cost}
            if new is not None:
                numbers = judge(model.predict_proba(space[new]), target[new])
                yield {"set": of_set, "way": way, "on": "new", **numbers}


def run_with_labels(name, space, target, seeds):
    """Rows of one set: labels of two images a class, and of every second class."""
    n_classes = space.n_classes
    for seed in seeds:
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(space))
        half, new = np.sort(rows[: len(rows) // 2]), np.sort(rows[len(rows) // 2 :])
        known = np.full(len(half), -1)
        for of_class in range(n_classes):
            known[rng.permutation(np.flatnonzero(target[half] == of_class))[:2]] = of_class
        labeled = known >= 0
        probes = [
            LogisticRegression(C=C, max_iter=2000).fit(
                space.image_features[half][labeled], known[labeled]
            )
            for C in (1, 10, 100)
        ]
        unlabeled = cap()(seed).fit(space[half])
        two_labels = cap("ssl")(seed).fit(space[half], known)
        seen = np.sort(rng.permutation(n_classes)[: n_classes // 2])
        known = np.where(np.isin(target[half], seen), target[half], -1)
        by_classes = cap("trzsl")(seed).fit(space[half], known)

        def accuracy(model, new=new):
            return 100 * (model.predict_proba(space[new]).argmax(axis=1) == target[new]).mean()

        def harmonic(model, new=new, seen=seen):
            predicted = model.predict_proba(space[new]).argmax(axis=1)
            return 100 * harmonic_mean_score(target[new], predicted, seen_classes=seen)

        zero_shot = ZeroShotClassifier().fit(space[half])
        yield {
            "set": name,
            "zero-shot": accuracy(zero_shot),
            "LogisticRegression, 2 labels": max(
                100 * probe.score(space.image_features[new], target[new]) for probe in probes
            ),
            "CAP ul": accuracy(unlabeled),
            "CAP ssl, 2 labels": accuracy(two_labels),
            "zero-shot, harmonic": harmonic(zero_shot),
            "CAP trzsl, harmonic": harmonic(by_classes),
        }


def draw(table, path):
    """Accuracy of each way beside zero-shot's, on the images adapted to and on new ones."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    for panel, on in zip(panels, ("adapted", "new"), strict=True):
        accuracy = table[table["on"] == on].pivot(index="set", columns="way", values="accuracy")
        gain = accuracy.sub(accuracy["zero-shot"], axis=0)[list(WAYS)[1:]]
        for row, way in enumerate(gain.columns):
            panel.scatter(gain[way].clip(-30, 30), np.full(len(gain), row), alpha=0.6)
            panel.scatter(gain[way].clip(-30, 30).mean(), row, marker="|", s=400, color="black")
        panel.axvline(0, color="0.6", linewidth=1)
        panel.set_yticks(range(len(gain.columns)), gain.columns)
        panel.set(title=f"{on} images", xlabel="accuracy, points above zero-shot")
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # equal texts, few images, the guard: said of these elsewhere
    rows, labeled, seeds = [], [], range(arguments.seeds)
    for path in sorted(arguments.data.glob("*.npz")):
        space, target = load(path)
        for row in run_set(path.stem, space, target, arguments.ways, seeds):
            rows.append(row)
            print(*(f"{v:.3g}" if isinstance(v, float) else v for v in row.values()), flush=True)
        if np.bincount(target).min() >= 6:  # halves with two to label
            labeled += run_with_labels(path.stem, space, target, seeds)
    table = pd.DataFrame(rows).groupby(["set", "way", "on"], sort=False).mean().reset_index()
    pivot = table.pivot(index=["on", "way"], columns="set", values="accuracy")
    whole = [name for name in pivot.columns if "," not in name]
    pivot["mean"] = pivot[whole].mean(axis=1)
    order = [(on, way) for on in ("adapted", "half", "new") for way in arguments.ways]
    print(pivot.loc[order].round(1).to_string())
    of_way = table[table["set"].isin(whole)].groupby(["on", "way"], sort=False)
    print(of_way.mean(numeric_only=True).round(2).to_string())
    with_labels = pd.DataFrame(labeled).groupby("set", sort=False).mean().round(1).reset_index()
    print(with_labels.to_string(index=False))
    if arguments.csv:
        table.round(3).to_csv(arguments.csv, index=False)
        short = pivot.loc[[pair for pair in order if pair[0] != "half"]].round(1).reset_index()
        name = arguments.csv.stem
        short.to_csv(arguments.csv.with_name(f"{name}_accuracy.csv"), index=False)
        with_labels.to_csv(arguments.csv.with_name(f"{name}_labels.csv"), index=False)
        of_way.mean(numeric_only=True).round(2).drop(columns="accuracy").reset_index().to_csv(
            arguments.csv.with_name(f"{name}_quality.csv"), index=False
        )
    if arguments.plot:
        draw(table, arguments.plot)


if __name__ == "__main__":
    main()
