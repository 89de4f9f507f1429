"""Which settings of a training do best, judged on the training images alone.

    python benchmarks/settings.py --tuning adapter --csv docs/results/adapter_defaults.csv
    python benchmarks/settings.py --tuning prompt --csv docs/results/prompt_settings.csv

Each fit is in paradigm ul, so that no label trains; the labels of the training images judge. Test
images are not loaded. Accuracy in percent, one seed.
"""

import argparse
import csv

from paradigms import DATA_SETS, SETTINGS

from capkit import CAPClassifier
from capkit.baselines import ZeroShotClassifier

CANDIDATES = {
    "adapter": [
        {},
        {"adapter_weight": 0.2},
        {"adapter_weight": 0.1},
        {"learning_rate": 0.0005},
    ],
    "prompt": [
        {},
        {"epochs": 10},
        {"tau": 0.7},
        {"m": 3.0},
        {"learning_rate": 0.003},
        {"optimizer": "adamw", "learning_rate": 0.001, "weight_decay": 0.01},
    ],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tuning", choices=sorted(CANDIDATES), default="adapter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", help="also write the table to this file")
    arguments = parser.parse_args()
    data = {name: load(split="train") for name, load in DATA_SETS.items()}
    rows = [["settings", *data]]
    zero_shot = [
        ZeroShotClassifier(backbone="glyph", class_names=train.class_names)
        .fit(train.images, train.target)
        .score(train.images, train.target)
        for train in data.values()
    ]
    rows.append(["zero-shot", *(f"{100 * score:.1f}" for score in zero_shot)])
    print(rows[0], rows[1], sep="\n", flush=True)
    for candidate in CANDIDATES[arguments.tuning]:
        scores = []
        for train in data.values():
            settings = SETTINGS[arguments.tuning] | candidate
            classifier = CAPClassifier(
                "ul",
                backbone="glyph",
                class_names=train.class_names,
                tuning=arguments.tuning,
                random_state=arguments.seed,
                **settings,
            ).fit(train.images, train.target)
            scores.append(100 * classifier.score(train.images, train.target))
        title = ", ".join(f"{name}={value}" for name, value in candidate.items()) or "defaults"
        rows.append([title, *(f"{score:.1f}" for score in scores)])
        print(rows[-1], flush=True)
    if arguments.csv:
        with open(arguments.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
