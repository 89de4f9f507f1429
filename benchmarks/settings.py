"""Which settings of a training do best, judged on the training images alone.

    python benchmarks/settings.py --tuning adapter --csv docs/results/adapter_defaults.csv
    python benchmarks/settings.py --tuning prompt --csv docs/results/prompt_settings.csv

Each fit is in paradigm ul, so that no label trains; the labels of the training images judge. Test
images are not loaded. Accuracy in percent, one seed.
"""

import argparse
import csv

from paradigms import DATA_SETS, SETTINGS
from sklearn.base import clone

from capkit import CAPClassifier
from capkit.baselines import ZeroShotClassifier

CANDIDATES = {
    "adapter": [
        {},
        {"tuning__adapter_weight": 0.2},
        {"tuning__adapter_weight": 0.1},
        {"tuning__learning_rate": 0.0005},
    ],
    "prompt": [
        {},
        {"tuning__epochs": 10},
        {"tau": 0.7},
        {"m": 3.0},
        {"tuning__learning_rate": 0.003},
        {
            "tuning__optimizer": "adamw",
            "tuning__learning_rate": 0.001,
            "tuning__weight_decay": 0.01,
        },
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
        .fit(train.images)
        .score(train.images, train.target)
        for train in data.values()
    ]
    rows.append(["zero-shot", *(f"{100 * score:.1f}" for score in zero_shot)])
    print(rows[0], rows[1], sep="\n", flush=True)
    for candidate in CANDIDATES[arguments.tuning]:
        scores = []
        for train in data.values():
            classifier = CAPClassifier(
                "ul",
                backbone="glyph",
                class_names=train.class_names,
                tuning=clone(SETTINGS[arguments.tuning]),
                random_state=arguments.seed,
            ).set_params(**candidate)
            classifier.fit(train.images)
            scores.append(100 * classifier.score(train.images, train.target))
        settings = (
            f"{name.removeprefix('tuning__')}={value}" for name, value in candidate.items()
        )
        title = ", ".join(settings) or "defaults"
        rows.append([title, *(f"{score:.1f}" for score in scores)])
        print(rows[-1], flush=True)
    if arguments.csv:
        with open(arguments.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
