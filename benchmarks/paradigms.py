"""What CAPClassifier is worth in each paradigm, on the data sets that come with capkit.

    python benchmarks/paradigms.py --tuning adapter --csv docs/results/paradigms_adapter.csv
    python benchmarks/paradigms.py --tuning prompt --csv docs/results/paradigms_prompt.csv

Every fit sees the training images only, without their labels (ul), with two labels a class (ssl),
or with the labels of 62% of the classes (trzsl). The numbers are percentages on the test images,
mean and standard deviation over the seeds: the accuracy, for trzsl the harmonic mean of the
accuracies of seen and unseen classes. A seed draws the labels as well as the training. Each is
done in the paper's way (pseudo_labels="zero_shot") and in the default one ("gaussian"). Then what
the guard kept in each seed, the share of strong views that were confident enough to train, over
all epochs, and the seconds of a fit.
"""

import argparse
import csv
import time
import warnings

import numpy as np
from sklearn.base import clone

from capkit import CAPClassifier
from capkit.baselines import ZeroShotClassifier
from capkit.datasets import load_digits, load_handwriting
from capkit.model_selection import make_paradigm
from capkit.tuning import AdapterTuning, PromptTuning

DATA_SETS = {"digits": load_digits, "handwriting": load_handwriting}
# 400 steps of prompt tuning: about a minute on two cores. Characters do not survive a
# flip, and a crop of 8% of one is no character, so that the strong view is an affine map.
SETTINGS = {
    "adapter": AdapterTuning(),
    "prompt": PromptTuning(epochs=20, steps_per_epoch=20, augment="affine"),
}


def score(predicted, target, seen):
    """Accuracy, or the harmonic mean of that of seen and unseen classes."""
    right = predicted == target
    if not len(seen):
        return 100 * right.mean()
    of_seen = np.isin(target, seen)
    parts = right[of_seen].mean(), right[~of_seen].mean()
    return 100 * 2 * parts[0] * parts[1] / max(sum(parts), 1e-12)


def run(name, paradigm, tuning, pseudo_labels, seeds):
    """Scores of each way to predict, of all seeds; what the guard kept, share, seconds."""
    train, test = (DATA_SETS[name](split=split) for split in ("train", "test"))
    names, modes = np.array(train.class_names), SETTINGS[tuning].inference_modes
    target = names[test.target]
    scores = {mode: [] for mode in ("zero-shot", *modes)}
    kept, confident, seconds = [], [], []
    zero_shot = ZeroShotClassifier(backbone="glyph", class_names=train.class_names)
    untrained = zero_shot.fit(train.images).predict(test.images)
    for seed in seeds:
        # Drawn from indices: names have another order, and would be drawn differently.
        indices, seen = make_paradigm(train.target, paradigm, random_state=seed)
        y = [names[index] if index >= 0 else -1 for index in indices]
        classifier = CAPClassifier(
            paradigm,
            backbone="glyph",
            class_names=train.class_names,
            tuning=clone(SETTINGS[tuning]),
            pseudo_labels=pseudo_labels,
            random_state=seed,
        )
        start = time.perf_counter()
        classifier.fit(train.images, y)
        seconds.append(time.perf_counter() - start)
        kept.append(classifier.adaptation_report_.kept)
        confident += [row["kept"] for row in classifier.history_]
        scores["zero-shot"].append(score(untrained, target, names[seen]))
        for mode in modes:
            predicted = classifier.set_params(inference=mode).predict(test.images)
            scores[mode].append(score(predicted, target, names[seen]))
    share = f"{100 * np.mean(confident):.0f}" if confident else "-"
    return scores, " ".join(sorted(set(kept))), share, np.mean(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tuning", choices=sorted(SETTINGS), default="adapter")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--data", nargs="+", choices=sorted(DATA_SETS), default=sorted(DATA_SETS))
    parser.add_argument("--paradigms", nargs="+", default=["ul", "ssl", "trzsl"])
    parser.add_argument("--pseudo-labels", nargs="+", default=["zero_shot", "gaussian"])
    parser.add_argument("--csv", help="also write the table to this file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # the guard's, whose verdict is a column
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    modes = SETTINGS[arguments.tuning].inference_modes
    head = ["data", "paradigm", "pseudo_labels", "zero-shot", *modes]
    rows = [[*head, "kept", "strong views", "seconds"]]
    print(" | ".join(rows[0]))
    for name in arguments.data:
        for paradigm in arguments.paradigms:
            for way in arguments.pseudo_labels:
                scores, *others, seconds = run(name, paradigm, arguments.tuning, way, seeds)
                cells = [f"{np.mean(of):.1f} ± {np.std(of):.1f}" for of in scores.values()]
                rows.append([name, paradigm, way, *cells, *others, f"{seconds:.0f}"])
                print(" | ".join(rows[-1]), flush=True)
    if arguments.csv:
        with open(arguments.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
