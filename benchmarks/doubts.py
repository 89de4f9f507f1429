"""Whether labels with a reason for doubt are wrong more often than those without.

    python benchmarks/doubts.py --data FOLDER --csv docs/results/doubts.csv

What capkit label writes beside each label, on the embedded sets and on real features (FOLDER as of
real_features.py). Labels by the default without labels, adapters, one seed; the true ones judge.
Percentages: images with a reason, errors among them and among the others, and the share of all
errors that have a reason.

The second table: every twentieth class, at least one, is left out of the names, three times; how
many images of such a class, and of the others, are said to be of no class.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from real_features import load

from capkit import CAPClassifier, CLIPEncoder, ConceptSpace
from capkit.datasets import load_digits, load_handwriting
from capkit.doubts import reasons_for_doubt

KINDS = {
    "two classes": "as well",
    "none probable": "no class fits",
    "changed": "by the names alone",
    "of no class": "of no class",
}


def problems(folder):
    for name, load_set in {"digits": load_digits, "handwriting": load_handwriting}.items():
        data = load_set()
        encoder = CLIPEncoder("glyph", class_names=data.class_names)
        yield name, encoder.fit_transform(data.images), np.asarray(data.target)
    for path in sorted(Path(folder).glob("*.npz")) if folder else []:
        yield path.stem, *load(path)


def judge(doubted, wrong):
    return {
        "images": 100 * doubted.mean(),
        "wrong": 100 * wrong[doubted].mean() if doubted.any() else np.nan,
        "wrong without it": 100 * wrong[~doubted].mean(),
        "errors found": 100 * doubted[wrong].mean(),
    }


def similarity_to_names(space):
    return (space.image_features @ space.text_features.T).max(axis=1)


def told_of_no_class(space, target):
    """Shares of images of a class without a name, and of others, that are said to be of none."""
    rng, shares = np.random.default_rng(0), []
    for _ in range(3):
        left_out = rng.choice(space.n_classes, max(1, space.n_classes // 20), replace=False)
        kept = np.setdiff1d(np.arange(space.n_classes), left_out)
        names = [space.class_names[index] for index in kept]
        part = ConceptSpace(space.image_features, space.text_features[kept], names)
        reasons = reasons_for_doubt(
            part.predict_proba(),
            part.predict(),
            class_names=names,
            similarity=similarity_to_names(part),
        )
        told = np.array(["of no class" in reason for reason in reasons])
        absent = np.isin(target, left_out)
        shares.append((100 * told[absent].mean(), 100 * told[~absent].mean()))
    of_absent, of_others = np.mean(shares, axis=0)
    return {"of the class without a name": of_absent, "of others": of_others}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of real features")
    parser.add_argument("--csv", help="also write the table to this file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, absent = [], []
    for name, space, target in problems(arguments.data):
        classifier = CAPClassifier(tuning="adapter", random_state=0).fit(space)
        order = [classifier.classes_.tolist().index(label) for label in space.class_names]
        probabilities = classifier.predict_proba(space)[:, order]
        labels = probabilities.argmax(axis=1)
        reasons = reasons_for_doubt(
            probabilities,
            labels,
            class_names=space.class_names,
            zero_shot=space.predict(),
            similarity=similarity_to_names(space),
        )
        absent.append({"data": name, **told_of_no_class(space, target)})
        wrong = labels != target
        for kind, words in {"any": "", **KINDS}.items():
            doubted = np.array([bool(reason) and words in reason for reason in reasons])
            rows.append({"data": name, "reason": kind, **judge(doubted, wrong)})
    table = pd.DataFrame(rows)
    means = table.groupby("reason", sort=False).mean(numeric_only=True).reset_index()
    table = pd.concat([table, means.assign(data="mean")], ignore_index=True)
    print(table.to_string(index=False, float_format="%.1f"))
    absent = pd.DataFrame(absent)
    absent.loc[len(absent)] = ["mean", *absent.mean(numeric_only=True)]
    print(absent.to_string(index=False, float_format="%.1f"))
    if arguments.csv:
        table.to_csv(arguments.csv, index=False, float_format="%.1f")


if __name__ == "__main__":
    main()
