"""What fits give, as checksums: run it before and after a change that should change nothing.

    python benchmarks/record.py before.json
    python benchmarks/record.py after.json --compare before.json

Both ways of tuning, three paradigms, two seeds, on both data sets that come with capkit. Sums of
floating-point numbers depend on the machine and on the number of threads, which is one here: a
record can be compared with one of the same machine alone.
"""

import argparse
import hashlib
import json

import numpy as np
import torch
from paradigms import DATA_SETS, draw_labels
from threadpoolctl import threadpool_limits

from capkit import CAPClassifier, MainSampleRenewal
from capkit.tuning import AdapterTuning, PromptTuning

TUNINGS = {
    "adapter": {"tuning": AdapterTuning()},
    "prompt": {
        "tuning": PromptTuning(epochs=6, steps_per_epoch=15, augment="affine"),
        "renewal": MainSampleRenewal(every=2),
    },
}


def digest(array):
    """Checksum of content and type."""
    content = np.ascontiguousarray(array)
    return hashlib.blake2b(
        content.tobytes() + str(content.dtype).encode(), digest_size=8
    ).hexdigest()


def record(classifier, test, names):
    """Checksums of what a fitted classifier learned and predicts, and what can be read."""
    row = {
        "weights": {name: digest(value) for name, value in sorted(classifier._weights.items())},
        "margin": digest(classifier.margin_matrix_),
        "pseudo": digest(classifier.pseudo_labels_),
        "main": digest(classifier.main_labels_),
        "loss": [epoch["loss"] for epoch in classifier.history_],
    }
    for mode in classifier.tuning_.inference_modes:
        classifier.set_params(inference=mode)
        row[f"proba {mode}"] = digest(classifier.predict_proba(test.images))
        predicted = classifier.predict(test.images)
        predicted = predicted if predicted.dtype.kind == "U" else names[predicted]
        row[f"acc {mode}"] = float((predicted == names[test.target]).mean())
    return row


def differences(rows, before):
    """Lines that say where two records differ."""
    for fit, row in rows.items():
        for part, value in row.items():
            if before[fit].get(part) != value:
                yield f"{fit}: {part} was {before[fit].get(part)!s:.60}, is {value!s:.60}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output")
    parser.add_argument("--compare", help="an earlier record")
    parser.add_argument("--tuning", nargs="+", choices=sorted(TUNINGS), default=sorted(TUNINGS))
    arguments = parser.parse_args()
    rows = {}
    for tuning in arguments.tuning:
        for data, load in DATA_SETS.items():
            train, test = load(split="train"), load(split="test")
            for paradigm in ("ul", "ssl", "trzsl"):
                for seed in (0, 1):
                    y, _ = draw_labels(train.target, paradigm, seed)
                    classifier = CAPClassifier(
                        paradigm,
                        backbone="glyph",
                        class_names=train.class_names,
                        random_state=seed,
                        **TUNINGS[tuning],
                    ).fit(train.images, None if paradigm == "ul" else y)
                    row = record(classifier, test, np.array(train.class_names))
                    rows[f"{tuning} {data} {paradigm} {seed}"] = row
                    print(tuning, data, paradigm, seed, row["acc main"], flush=True)
    with open(arguments.output, "w", encoding="utf-8") as file:
        json.dump(rows, file, indent=1)
    if arguments.compare:
        with open(arguments.compare, encoding="utf-8") as file:
            changed = list(differences(rows, json.load(file)))
        print("\n".join(changed) or "nothing changed")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(1):
        main()
