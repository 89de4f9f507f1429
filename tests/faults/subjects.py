"""What faults are thrown at: a small fitted classifier, images, texts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from capkit import CAPClassifier, CLIPEncoder, ConceptSpace, GaussianTransduction
from capkit.datasets import load_digits, make_concept_space
from capkit.tuning import AdapterTuning
from faults.common import expect_same

TABLE = {
    "river": ["a winding blue band", "brown water, with banks of sand"],
    "café \u2019s roof": ['a flat roof of "red" tiles', "straight lines, gray"],
    "wood": ["dark green spots"],
}


def planted_space(n_images: int = 60, n_classes: int = 4) -> ConceptSpace:
    """Features that need no backbone."""
    return make_concept_space(
        n_images=n_images, n_classes=n_classes, n_features=16, random_state=0
    ).space


def quick_tuning(**parameters: Any) -> AdapterTuning:
    """Tuning that trains in some hundredths of a second."""
    return AdapterTuning(**{"epochs": 3, "steps_per_epoch": 3, "batch_size": 8, **parameters})


def quick_classifier(**parameters: Any) -> CAPClassifier:
    """Classifier whose training is kept, whatever the guard would say."""
    settings = {
        "tuning": quick_tuning(),
        "pseudo_labels": GaussianTransduction(guard=False),
        "random_state": 0,
        "device": "cpu",
    }
    return CAPClassifier(**{**settings, **parameters})


def quietly_fitted(classifier: CAPClassifier, *arguments: Any, **keywords: Any) -> CAPClassifier:
    """The classifier, fitted without what it says of the images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return classifier.fit(*arguments, **keywords)


def read_of(classifier: CAPClassifier, X: object) -> dict[str, Any]:
    """All that users read of a fitted classifier, by what they call for it."""
    return {
        "predict": classifier.predict(X),
        "predict_proba": classifier.predict_proba(X),
        "transform": classifier.transform(X),
        "classes_": classifier.classes_,
        "class_names_": classifier.class_names_,
        "mismatched_names_": classifier.mismatched_names_,
        "descriptions_": classifier.descriptions_,
        "text_features_": classifier.text_features_,
        "margin_matrix_": classifier.margin_matrix_,
        "pseudo_labels_": classifier.pseudo_labels_,
        "main_labels_": classifier.main_labels_,
        "history_": classifier.history_,
        "paradigm_": classifier.paradigm_,
        "seed_": classifier.seed_,
        "adaptation_report_": str(classifier.adaptation_report_),
        "parameters": repr(classifier) + repr(classifier.tuning_),
    }


def expect_same_reading(found: dict[str, Any], right: dict[str, Any]) -> None:
    """Hold what is read of a classifier against what is right, bit for bit."""
    for name, value in right.items():
        expect_same(found[name], value, name)


def few_digits(n: int = 12) -> tuple[np.ndarray, list[str]]:
    """Images (n, 32, 32, 3) and class names for the embedded backbone."""
    digits = load_digits(split="test")
    return np.asarray(digits.images[:n]), list(digits.class_names)


def encoder(**parameters: Any) -> CLIPEncoder:
    """Encoder with the embedded backbone, in one thread."""
    return CLIPEncoder(backbone="glyph", device="cpu", n_jobs=1, **parameters)
