"""What each way of labeling makes of real CLIP features.

    python benchmarks/real_features.py --data FOLDER --csv docs/results/real_features.csv \
        --plot docs/images/real_features.png

FOLDER holds one .npz a set: image features Z (n, d), labels y (n,), text features W (C, d) or
W_single, class_names; the logit scale is 100. No label is given to any way. Each set is judged
three times: "adapted" are all of its images, which the ways see; "half" is one half of them,
drawn by the seed, which they see, and "new" the other half, which they do not. Mean over the
seeds; percentages, but for the area under the curve of confidence against being right (auc). The
seconds are those of a fit and a prediction of all images, on this machine, side by side in one
run.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from capkit import CAPClassifier, ConceptAligner, ConceptSpace, MismatchDetector
from capkit.baselines import GaussianTransductionClassifier, ZeroShotClassifier
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


def cap(**parameters):
    return lambda seed: CAPClassifier(tuning=AdapterTuning(), random_state=seed, **parameters)


WAYS = {
    "zero-shot": lambda seed: ZeroShotClassifier(),
    "aligned by centres": lambda seed: Aligned(),
    "CAP, adapters": cap(),
    "CAP, aligned by centres": cap(aligner=ConceptAligner(use_centers=True)),
    "CAP, m = 0": cap(m=0.0),
    "plain Gaussian EM": lambda seed: PlainGaussianEM(),
    "Gaussian transduction": lambda seed: GaussianTransductionClassifier(),
    "the same behind detection": lambda seed: DetectedGaussian(),
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


def run_set(name, space, target, ways, seeds):
    """Rows of one set."""
    for way in ways:
        for seed in seeds:
            rows = np.random.default_rng(seed).permutation(len(space))
            half, new = np.sort(rows[: len(rows) // 2]), np.sort(rows[len(rows) // 2 :])
            start = time.perf_counter()
            model = WAYS[way](seed).fit(space)
            adapted = judge(model.predict_proba(space), target)
            seconds = time.perf_counter() - start
            model = WAYS[way](seed).fit(space[half])
            yield {"set": name, "way": way, "on": "adapted", **adapted, "seconds": seconds}
            for on, part in (("half", half), ("new", new)):
                numbers = judge(model.predict_proba(space[part]), target[part])
                yield {"set": name, "way": way, "on": on, **numbers}


def draw(table, path):
    """Accuracy of each way beside zero-shot's, on the images adapted to and on new ones."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for panel, on in zip(panels, ("adapted", "new"), strict=True):
        accuracy = table[table["on"] == on].pivot(index="set", columns="way", values="accuracy")
        gain = accuracy.sub(accuracy["zero-shot"], axis=0)[list(WAYS)[2:]]
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
    warnings.simplefilter("ignore")  # equal texts, few images: said of these sets elsewhere
    rows = []
    for path in sorted(arguments.data.glob("*.npz")):
        space, target = load(path)
        for row in run_set(path.stem, space, target, arguments.ways, range(arguments.seeds)):
            rows.append(row)
            print(*(f"{v:.3g}" if isinstance(v, float) else v for v in row.values()), flush=True)
    table = pd.DataFrame(rows).groupby(["set", "way", "on"], sort=False).mean().reset_index()
    pivot = table.pivot(index=["on", "way"], columns="set", values="accuracy")
    pivot["mean"] = pivot.mean(axis=1)
    order = [(on, way) for on in ("adapted", "half", "new") for way in arguments.ways]
    print(pivot.loc[order].round(1).to_string())
    print(table.groupby(["on", "way"], sort=False).mean(numeric_only=True).round(2).to_string())
    if arguments.csv:
        table.round(3).to_csv(arguments.csv, index=False)
        short = pivot.loc[[pair for pair in order if pair[0] != "half"]].round(1).reset_index()
        short.to_csv(arguments.csv.with_name(f"{arguments.csv.stem}_accuracy.csv"), index=False)
    if arguments.plot:
        draw(table, arguments.plot)


if __name__ == "__main__":
    main()
