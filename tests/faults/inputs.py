"""Parameters, labels, names, images and features that cannot be right."""

from __future__ import annotations

import dataclasses
import datetime
import fractions
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import generate_invalid_param_val, make_constraint

import capkit
from capkit import CAPClassifier, CLIPEncoder, ConceptSpace, baselines
from capkit.datasets import make_concept_space
from capkit.images import ImageSource
from capkit.tuning import AdapterTuning, PromptTuning
from faults.common import Fault, WrongResult
from faults.subjects import few_digits, planted_space, quick_classifier, quietly_fitted

STAGES = ("MismatchDetector", "ConceptAligner", "GaussianTransduction", "MarginCalibrator")
PEERS = tuple(baselines.__all__)
N_SEEDS = 12
OBJECTS = ([], {}, object(), np.nan, -1.5, "\x00 nonsense", (1, 2), b"bytes", {1, 2})


def faults(folder: Path) -> Iterator[Fault]:
    """All faults of this kind."""
    yield from of_parameters()
    yield from of_class_names()
    yield from of_labels()
    yield from of_labels_not_learned_from()
    yield from of_images()
    yield from of_features()
    yield from of_widths()


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
    no_sequence: dict[str, Any] = {
        "a set": set(names),
        "a frozen set": frozenset(names),
        "keys of a dict": dict.fromkeys(names).keys(),
        "a text": "cat",
        "bytes": b"cat",
        "a number": 10,
        "a class": list,
        "a mapping": dict.fromkeys(names, 1),
        "an array of two dimensions": np.array([names, names]),
        "an array of no dimension": np.array(names[0]),
        "an array of no dimension, of objects": np.array(names, dtype=object)[0:1].reshape(()),
        "a table": pd.DataFrame({name: [1] for name in names}),
    }
    wrong: dict[str, Any] = {
        "doubled": [*names, names[0]],
        "one": names[:1],
        "none": [],
        "numbers": list(range(10)),
        "an empty one": [*names, " "],
        "-1": [*names, "-1"],
        "a lone surrogate": [*names, "\ud800"],
        "NaN": [*names, np.nan],
        "None": [*names, None],
        "bytes among them": [*names, b"cat"],
        "lists of one": [[name] for name in names],
    }
    kind, space = "class names", planted_space()
    classes = (CLIPEncoder, CAPClassifier, baselines.ZeroShotClassifier)
    for what, value in {**no_sequence, **wrong}.items():
        for cls in classes:
            name, at_fit = f"{cls.__name__}, {what}", cls(backbone="glyph")
            before = cls(backbone="glyph", class_names=value)
            yield _refused(kind, name, at_fit.fit, images, class_names=value)
            yield _refused(kind, f"{name}, of the constructor", before.fit, images)
            if cls is not CLIPEncoder:
                yield _refused(kind, f"{name}, of a space", cls(class_names=value).fit, space)
    arrays = np.ones((3, 2)), np.ones((len(names), 2))
    for what, value in no_sequence.items():
        yield _refused(kind, f"ConceptSpace, {what}", ConceptSpace, *arrays, value)


def _refused(
    kind: str, name: str, function: Callable, /, *arguments: object, **keywords: object
) -> Fault:
    """A call that has to be refused."""

    def attempt() -> str:
        raise WrongResult(f"it gave {function(*arguments, **keywords)!r:.60}")

    return Fault(kind, name, attempt, (ValueError, TypeError))


def of_labels() -> Iterator[Fault]:
    """Labels of other lengths, kinds and classes."""
    space = planted_space()
    n = len(space)
    wrong = {
        **_no_labels(space),
        "all labeled": [0] * n,
        "none labeled": [-1] * n,
    }
    trained = [cls for cls in PEERS if hasattr(getattr(baselines, cls)(), "tuning")]
    for what, y in wrong.items():
        for method in ("CAPClassifier", *trained):
            for paradigm in ("ssl", "trzsl"):
                cls = getattr(capkit, method, None) or getattr(baselines, method)
                fit = cls(paradigm, tuning="adapter").fit
                yield _refused("labels", f"{method}({paradigm!r}), {what}", fit, space, y)


def of_labels_not_learned_from() -> Iterator[Fault]:
    """Where labels only say what predictions are to be; unlabeled marks are no fault there."""
    space = planted_space()
    kind = "labels that are not learned from"
    wrong = {**_no_labels(space), **_labels_with_one_that_is_none(space)}
    for method in ("CAPClassifier", *PEERS):
        estimator = (getattr(capkit, method, None) or getattr(baselines, method))()
        if "paradigm" in estimator.get_params():
            estimator.set_params(paradigm="ul")
        elif method == "LabelProbe":  # which learns from labels alone
            continue
        if "tuning" in estimator.get_params():
            estimator.set_params(tuning="adapter")
        for what, y in wrong.items():
            yield _refused(kind, f"{method}, {what}", estimator.fit, space, y)


def _no_labels(space: ConceptSpace) -> dict[str, Any]:
    n, name = len(space), space.class_names[0]
    return {
        "too few": [0] * (n - 1),
        "too many": [0] * (n + 1),
        "one": 0,
        "an array of no dimension": np.array(0),
        "beyond the classes": [99] * n,
        "below -1": [-2] * n,
        "names that are none": ["nonsense"] * n,
        "mixed": [name, 0] * (n // 2),
        "halves": [0.5] * n,
        "of two dimensions": np.zeros((n, 2), dtype=int),
        "complex": [1j] * n,
        "objects": [object()] * n,
        "lists": [[0]] * n,
        "a set": {0, 1},
        "a set of the right length": set(range(n)),
        "a mapping of the right length": dict.fromkeys(range(n), 0),
        "a class": list,
        "bytes": b"x" * n,
    }


def _labels_with_one_that_is_none(space: ConceptSpace) -> dict[str, list]:
    """Right labels, unlabeled marks among them, but for one at some place."""
    names = space.class_names
    found = {}
    for seed in range(N_SEEDS):
        generator = np.random.default_rng(seed)
        place = int(generator.integers(len(space)))
        wrong_names = ("nonsense", names[0].upper(), f" {names[1]}", "", str(len(names)))
        right = [
            (*names, None, -1)[i] for i in generator.integers(len(names) + 2, size=len(space))
        ]
        name = wrong_names[seed % len(wrong_names)]
        found[f"{name!r} at {place}"] = [*right[:place], name, *right[place + 1 :]]
        index = (len(names), -2, 10**20, 0.5)[seed % 4]
        right = [None, *generator.integers(len(names), size=len(space) - 1).tolist()]
        place = 1 + place % (len(space) - 1)
        found[f"{index!r} at {place}"] = [*right[:place], index, *right[place + 1 :]]
    return found


class _Pictures:
    """A Dataset, whose class is no Dataset."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Image.Image:
        return Image.new("RGB", (4, 4))


def of_images() -> Iterator[Fault]:
    """What is no sequence of images: arrays of no dimension, classes, single things."""
    images, names = few_digits()
    wrong: dict[str, Any] = {
        **{
            f"an array of no dimension of {np.dtype(kind)}": np.zeros((), kind)
            for kind in ("u1", "i8", "f4", "f8", "?", "c8", "U8", "S8", "O", "M8[s]")
        },
        "a path as an array": np.array("picture.png"),
        "a tensor of no dimension": torch.tensor(1.0),
        **{
            f"the class {cls.__name__}": cls
            for cls in (
                *(list, tuple, dict, str, bytes, set, object, range, Path),
                *(np.ndarray, torch.Tensor, torch.utils.data.TensorDataset),
                *(pd.Series, pd.DataFrame, Image.Image, ImageSource, ConceptSpace, _Pictures),
            )
        },
        "a number": 3,
        "none": None,
        "a text": "folder",
        "bytes": b"GIF89a",
        "a set of paths": {"a.png", "b.png"},
        "a mapping": {"images": []},
        "a generator": (item for item in ["a.png"]),
        "a function": len,
        "a module": np,
        "a picture": Image.new("RGB", (4, 4)),
        "classes": [Image.Image, Image.Image],
        "lists of nothing": [[], []],
    }
    options = {"backbone": "glyph", "class_names": names}
    fitted = baselines.ZeroShotClassifier(**options).fit(images)
    uses: dict[str, Callable] = {
        "CLIPEncoder": CLIPEncoder(**options).fit_transform,
        "CAPClassifier": CAPClassifier(**options).fit,
        "predict": fitted.predict,
        "ImageSource": ImageSource.from_user,
    }
    for what, value in wrong.items():
        for use, function in uses.items():
            yield _refused("images that are none", f"{use}, {what}", function, value)


def of_features() -> Iterator[Fault]:
    """Features that are no numbers, not finite or do not fit together."""
    space = planted_space()
    right = {"image_features": space.image_features, "text_features": space.text_features}
    names = space.class_names
    for field, array in right.items():
        for what, wrong in _wrong_features(array).items():
            arrays = {**right, field: wrong}
            name = f"{field}: {what}"
            yield _refused("features", name, ConceptSpace, **arrays, class_names=names)
    make = partial(ConceptSpace, **right, class_names=names)
    for what, scale in _wrong_scales().items():
        yield _refused("logit scale", what, make, logit_scale=scale)
    n = len(space)
    for what, indices in {
        "below 0": [*range(n - 1), -1],
        "halves": np.arange(n) + 0.5,
        "a mask": np.ones(n, dtype=bool),
        "texts": ["1"] * n,
        "complex": np.arange(n) * 1j,
        "too few": np.arange(n - 1),
        "one": 3,
    }.items():
        yield _refused("sample indices", what, make, sample_indices=indices)


def _wrong_features(array: np.ndarray) -> dict[str, Any]:
    """What cannot stand in the place of an array of features."""
    rows = array.tolist()
    wrong: dict[str, Any] = {
        "another width": array[:, 1:],
        "one dimension": array[0],
        "three dimensions": array[None],
        "no dimension": np.float32(1),
        "nothing": [],
        "none": None,
        "a class": np.ndarray,
        "a text": "features",
        "a mapping": dict(enumerate(rows)),
        "a set": {1.0, 2.0},
        "a generator": (row for row in rows),
        "sparse": scipy.sparse.csr_array(array),
        "complex": array.astype(np.complex64),
        "complex without an imaginary part": array + 0j,
        "complex numbers in lists": [[complex(number) for number in row] for row in rows],
        "a complex tensor": torch.complex(torch.tensor(array), torch.ones(array.shape)),
        "texts": array.astype(str),
        "texts in lists": [[str(number) for number in row] for row in rows],
        "bytes": array.astype("S"),
        "objects": np.full(array.shape, object()),
        "Nones": np.full(array.shape, None),
        "dates": np.full(array.shape, np.datetime64("2026-01-01")),
        "times": np.full(array.shape, np.timedelta64(1, "s")),
        "records": np.zeros(array.shape, dtype=[("x", "f4")]),
        "integers that no float holds": [[10**400] * len(row) for row in rows],
        "numbers that float32 does not hold": array.astype(np.float64) * 1e300,
        "a tensor that is trained": torch.tensor(array, requires_grad=True),
    }
    for seed in range(N_SEEDS):
        generator = np.random.default_rng(seed)
        row, column = (int(generator.integers(size)) for size in array.shape)
        for value in (np.nan, np.inf, -np.inf):
            broken = array.copy()
            broken[row, column] = value
            wrong[f"{value} at {row}, {column}"] = broken
        for value in (1j, "x", b"x", None, [1.0], {}, object(), datetime.date(2026, 1, 1)):
            broken_rows = [list(numbers) for numbers in rows]
            broken_rows[row][column] = value
            wrong[f"{value!r:.12} at {row}, {column} of lists"] = broken_rows
        ragged = [list(numbers) for numbers in rows]
        del ragged[row][column]
        wrong[f"row {row} one shorter"] = ragged
    return wrong


def _wrong_scales() -> dict[str, Any]:
    return {
        f"{type(value).__name__} {value!r:.30}": value
        for value in (
            *(np.nan, np.inf, -np.inf, 0, 0.0, -0.0, -1, -100.0, 1e300, 1e-300, 10**400),
            *(None, "100", "x", "", b"100", 1j, 100 + 0j, np.complex128(100), [100.0], (100.0,)),
            *({}, {100.0}, object(), float, len, datetime.timedelta(seconds=100)),
            *(np.float32(np.nan), np.float64(-1), np.str_("100"), np.datetime64("2026-01-01")),
            *(np.array(np.nan), np.array(100j), np.array("100"), np.array(None)),
            *(np.ones(1), np.ones((1, 1)), np.ones(2), torch.ones(1), torch.tensor(-1.0)),
            *(torch.tensor(100j), fractions.Fraction(-1, 2)),
        )
    }


def of_widths() -> Iterator[Fault]:
    """A space of the same classes, but of another width than that of the fit."""
    space = planted_space()
    kind = "features of another width"
    classifiers = (
        quick_classifier(),
        baselines.ZeroShotClassifier(),
        baselines.GaussianTransductionClassifier(),
    )
    stages = [getattr(capkit, name)().fit(space) for name in STAGES]
    calibrator = capkit.MarginCalibrator().fit_from_predictions(
        space.image_features, space.text_features, space.predict(), np.ones(len(space))
    )
    uses: dict[str, Callable[[ConceptSpace], object]] = {
        **{type(stage).__name__: stage.transform for stage in stages},
        "MarginCalibrator of predictions": calibrator.transform,
        **{type(one).__name__: quietly_fitted(one, space).predict_proba for one in classifiers},
    }
    for width in (1, 2, 5, 15, 17, 31, 64):
        for seed in range(N_SEEDS):
            made = make_concept_space(
                n_images=10, n_classes=space.n_classes, n_features=width, random_state=seed
            ).space
            other = dataclasses.replace(made, class_names=space.class_names)
            for name, use in uses.items():
                yield _refused(kind, f"{name}, {width}, seed {seed}", use, other)
