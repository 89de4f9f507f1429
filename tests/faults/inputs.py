"""Parameters, labels, names and features that cannot be right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import generate_invalid_param_val, make_constraint

import capkit
from capkit import CAPClassifier, CLIPEncoder, ConceptSpace, baselines
from capkit.tuning import AdapterTuning, PromptTuning
from faults.common import Fault, WrongResult
from faults.subjects import few_digits, planted_space

STAGES = ("MismatchDetector", "ConceptAligner", "GaussianTransduction", "MarginCalibrator")
PEERS = tuple(baselines.__all__)
OBJECTS = ([], {}, object(), np.nan, -1.5, "\x00 nonsense", (1, 2), b"bytes", {1, 2})


def faults(folder: Path) -> Iterator[Fault]:
    """All faults of this kind."""
    yield from of_parameters()
    yield from of_class_names()
    yield from of_labels()
    yield from of_features()


def of_parameters() -> Iterator[Fault]:
    """Values that the constraints of each estimator exclude, and objects of other kinds."""
    space, (images, names) = planted_space(), few_digits()
    for name in (*STAGES, *PEERS, "CAPClassifier"):
        cls = getattr(capkit, name, None) or getattr(baselines, name)
        yield from _of_parameters(name, cls, lambda est: est.fit(space, None), {})
    yield from _of_parameters(
        "CLIPEncoder", CLIPEncoder, lambda est: est.fit(images, class_names=names), {}
    )
    for tuning in (AdapterTuning, PromptTuning):
        yield from _of_parameters(
            tuning.__name__, tuning, lambda t: CAPClassifier(tuning=t).fit(space), {}
        )


def _of_parameters(
    name: str, cls: type[BaseEstimator], use: Callable[[Any], object], given: dict[str, Any]
) -> Iterator[Fault]:
    for parameter, constraints in cls._parameter_constraints.items():
        for value in _invalid(constraints):

            def attempt(parameter: str = parameter, value: object = value) -> str:
                use(cls(**{**given, parameter: value}))
                raise WrongResult(f"fitted with {parameter}={value!r:.60}")

            shown = f"{name}({parameter}={value!r:.40})"
            yield Fault("parameter out of its range", shown, attempt, (ValueError, TypeError))


def _invalid(constraints: list) -> Iterator[object]:
    made = [make_constraint(constraint) for constraint in constraints]
    for constraint in constraints:
        try:
            value = generate_invalid_param_val(make_constraint(constraint))
        except NotImplementedError:
            continue
        if not any(one.is_satisfied_by(value) for one in made):
            yield value
    for value in OBJECTS:
        if not any(one.is_satisfied_by(value) for one in made):
            yield value


def of_class_names() -> Iterator[Fault]:
    """Names of no order, no text, doubled, or that mark unlabeled images."""
    images, names = few_digits()
    wrong: dict[str, Any] = {
        "a set": set(names),
        "keys of a dict": dict.fromkeys(names).keys(),
        "a text": "cat",
        "doubled": [*names, names[0]],
        "one": names[:1],
        "none": [],
        "numbers": list(range(10)),
        "an empty one": [*names, " "],
        "-1": [*names, "-1"],
        "a lone surrogate": [*names, "\ud800"],
        "NaN": [*names, np.nan],
        "a mapping": dict.fromkeys(names, 1),
        "an array of two dimensions": np.array([names, names]),
    }
    for name, value in wrong.items():
        for cls in (CLIPEncoder, CAPClassifier, baselines.ZeroShotClassifier):

            def attempt(cls: type = cls, value: object = value) -> str:
                cls(backbone="glyph").fit(images, class_names=value)
                raise WrongResult(f"fitted to {value!r:.60}")

            yield Fault("class names", f"{cls.__name__}, {name}", attempt, (ValueError, TypeError))


def of_labels() -> Iterator[Fault]:
    """Labels of other lengths, kinds and classes."""
    space = planted_space()
    n, name = len(space), space.class_names[0]
    wrong: dict[str, Any] = {
        "too few": [0] * (n - 1),
        "too many": [0] * (n + 1),
        "one": 0,
        "beyond the classes": [99] * n,
        "below -1": [-2] * n,
        "names that are none": ["nonsense"] * n,
        "mixed": [name, 0] * (n // 2),
        "halves": [0.5] * n,
        "all labeled": [0] * n,
        "none labeled": [-1] * n,
        "of two dimensions": np.zeros((n, 2), dtype=int),
        "complex": [1j] * n,
        "objects": [object()] * n,
        "a set": {0, 1},
    }
    trained = [cls for cls in PEERS if hasattr(getattr(baselines, cls)(), "tuning")]
    for what, y in wrong.items():
        for method in ("CAPClassifier", *trained):
            for paradigm in ("ssl", "trzsl"):
                cls = getattr(capkit, method, None) or getattr(baselines, method)

                def attempt(cls: type = cls, y: object = y, paradigm: str = paradigm) -> str:
                    cls(paradigm, tuning="adapter").fit(space, y)
                    raise WrongResult(f"fitted to {y!r:.60}")

                shown = f"{method}({paradigm!r}), {what}"
                yield Fault("labels", shown, attempt, (ValueError, TypeError))


def of_features() -> Iterator[Fault]:
    """Features that are not finite or do not fit together."""
    space = planted_space()
    images, texts, names = space.image_features, space.text_features, space.class_names
    broken = [np.nan, np.inf, -np.inf]
    wrong: dict[str, tuple] = {
        "texts of another width": (images, texts[:, 1:], names),
        "fewer texts than names": (images, texts[1:], names),
        "one dimension": (images[0], texts, names),
        "three dimensions": (images[None], texts, names),
    }
    for value in broken:
        for part in ("images", "texts"):
            arrays = {"images": images.copy(), "texts": texts.copy()}
            arrays[part][1, 2] = value
            wrong[f"{value} in {part}"] = (arrays["images"], arrays["texts"], names)
        wrong[f"logit_scale={value}"] = (images, texts, names, value)
    wrong["logit_scale=0"] = (images, texts, names, 0.0)
    for name, arguments in wrong.items():

        def attempt(arguments: tuple = arguments) -> str:
            ConceptSpace(*arguments)
            raise WrongResult("a space was made")

        yield Fault("features", name, attempt, (ValueError, TypeError))
