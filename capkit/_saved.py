"""What the file of a CAPClassifier holds, checked in full before anything is done with it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from capkit._validation import resolve_class_names
from capkit.guard import AdaptationReport
from capkit.persistence import SavedModel
from capkit.tuning import Tuning

__all__ = ["check_saved"]

_PARADIGMS, _LABEL_KINDS = ("ul", "ssl", "trzsl"), ("name", "index")
_LARGEST_SEED = 2**32 - 1
_FLOAT, _FLOATS, _INTEGERS = ("float32",), ("float32", "float64"), ("int32", "int64")
_ADAPTERS = ("text_adapter", "main_adapter", "pseudo_adapter")

# What an array is: the types that it may have, and its shape; None stands for any length.
_Kind = tuple[Collection[str], tuple[int | None, ...]]


def check_saved(model: SavedModel) -> None:
    """Refuse what no classifier has written.

    Parameters
    ----------
    model : SavedModel
        Its parameters are not looked at: those of each object are checked by itself.

    Raises
    ------
    ValueError
        If something is missing or unknown, of another type or shape, not finite, or out of its
        range.
    """
    _check_values(model.values)
    n_classes, dim = len(model.values["class_names_"]), model.values["n_features_in_"]
    kinds = _kinds(model.arrays, n_classes, dim, model.values["tuning_"])
    _check_names("arrays", model.arrays, kinds)
    for name, kind in kinds.items():
        _check_array(name, model.arrays[name], kind)
    _check_contents(model.arrays, n_classes, model.values["logit_scale_"])


# -- values


def _check_values(values: Mapping[str, Any]) -> None:
    _check_names("values", values, _VALUES)
    for name, (is_right, expected) in _VALUES.items():
        if not is_right(values[name]):
            raise ValueError(f"expected {name} as {expected}, the file has {values[name]!r:.60}.")
    names = resolve_class_names(values["class_names_"], None)
    unknown = sorted(set(values["descriptions_"]) - set(names))
    if unknown:
        raise ValueError(f"it has a description of {unknown[0]!r}, which is not a class.")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_integer(value: Any, least: int = 0, most: float = math.inf) -> bool:
    return type(value) is int and least <= value <= most


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of(is_right: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and all(map(is_right, value))


def _is_mapping_to(is_right: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_right, value.values()))


def _is_entry(value: Any) -> bool:
    return _is_number(value) or _is_list_of(_is_number, value)


def _is_report(value: Any) -> bool:
    try:
        report = AdaptationReport.from_dict(value)
    except (KeyError, TypeError, ValueError):
        return False
    numbers = (report.trust, report.n_images, report.images_per_class, report.evenness)
    return (
        report.kept in ("zero_shot", "gaussian", "training")
        and all(map(_is_number, (*numbers, report.n_changed)))
        and all(
            _is_text(step.name)
            and _is_text(step.reason)
            and type(step.kept) is bool
            and all(map(_is_number, (step.n_changed, step.clarity)))
            for step in report.steps
        )
    )


# Whether a value is right, and what to say of one that is not.
_VALUES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "adaptation_report_": (_is_report, "an adaptation report"),
    "backbone_id_": (
        lambda value: value is None or (_is_text(value) and bool(re.fullmatch(r"\S+", value))),
        "a fingerprint or None",
    ),
    "backbone_name_": (lambda value: value is None or _is_text(value), "a str or None"),
    "class_names_": (lambda value: _is_list_of(_is_text, value), "a list of str"),
    "descriptions_": (lambda value: _is_mapping_to(_is_text, value), "descriptions of classes"),
    "history_": (
        lambda value: _is_list_of(lambda row: _is_mapping_to(_is_entry, row), value),
        "a list of rows of numbers",
    ),
    "label_kind": (lambda value: value in _LABEL_KINDS, f"one of {_LABEL_KINDS}"),
    "logit_scale_": (_is_positive, "a number above 0"),
    "n_features_in_": (lambda value: _is_integer(value, 1), "an integer above 0"),
    "paradigm_": (lambda value: value in _PARADIGMS, f"one of {_PARADIGMS}"),
    "seed_": (lambda value: _is_integer(value, 0, _LARGEST_SEED), "a seed of numpy"),
    "temperature_": (_is_positive, "a number above 0"),
    "tuning_": (lambda value: isinstance(value, Tuning), "a way of tuning"),
}


# -- arrays


def _kinds(
    arrays: Mapping[str, np.ndarray], n_classes: int, dim: int, tuning: Tuning
) -> dict[str, _Kind]:
    """All arrays that there have to be: what is of training or of the Gaussians is so together."""
    kinds: dict[str, _Kind] = {
        "frozen_text_features": (_FLOAT, (n_classes, dim)),
        "main_labels_": (_INTEGERS, (None,)),
        "margin_matrix_": (_FLOAT, (n_classes, n_classes)),
        "mismatched_": (_INTEGERS, (None,)),
        "pseudo_labels_": (_INTEGERS, (None,)),
    }
    if any(name.startswith("weights.") for name in arrays):
        kinds |= {
            f"weights.{name}": kind for name, kind in _weights(n_classes, dim, tuning).items()
        }
    if any(name.startswith("prior.") for name in arrays):
        kinds |= {f"prior.{name}": kind for name, kind in _prior(n_classes, dim).items()}
    return kinds


def _weights(n_classes: int, dim: int, tuning: Tuning) -> dict[str, _Kind]:
    hidden = tuning.adapter_dim
    kinds: dict[str, _Kind] = {"text_features": (_FLOAT, (n_classes, dim))}
    for adapter in _ADAPTERS:
        kinds |= {
            f"{adapter}.fc1.weight": (_FLOAT, (hidden, dim)),
            f"{adapter}.fc1.bias": (_FLOAT, (hidden,)),
            f"{adapter}.fc2.weight": (_FLOAT, (dim, hidden)),
            f"{adapter}.fc2.bias": (_FLOAT, (dim,)),
        }
    if tuning.trains_encoder:
        length = tuning.get_params()["prompt_length"]
        kinds["visual_prompts"] = (_FLOAT, (None, length, None))
    return kinds


def _prior(n_classes: int, dim: int) -> dict[str, _Kind]:
    return {
        "dimension": (_FLOATS, (1,)),
        "keys": (("uint64",), (None,)),
        "log_prior": (_FLOATS, (n_classes,)),
        "logit_scale": (_FLOATS, (1,)),
        "mean_variance": (_FLOATS, (n_classes,)),
        "mismatched": (_INTEGERS, (None,)),
        "own_classes": (_INTEGERS, (None, None)),
        "own_share": (_FLOATS, (None, None)),
        "text_features": (_FLOAT, (n_classes, dim)),
        "trust": (_FLOATS, (1,)),
        "whitened_means": (_FLOATS, (n_classes, dim)),
        "whitening": (_FLOATS, (dim, dim)),
    }


def _check_array(name: str, array: np.ndarray, kind: _Kind) -> None:
    types, shape = kind
    if array.dtype.name not in types:
        raise ValueError(f"expected {name} as {' or '.join(types)}, the file has {array.dtype}.")
    fits = array.ndim == len(shape) and all(
        wanted in (None, length) for wanted, length in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"expected {name} of shape ({wanted}), the file has {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite.")


def _check_contents(arrays: Mapping[str, np.ndarray], n_classes: int, logit_scale: float) -> None:
    for name in ("main_labels_", "pseudo_labels_"):
        _check_range(name, arrays[name], -1, n_classes - 1)
    _check_lengths(arrays, "main_labels_", "pseudo_labels_")
    _check_range("mismatched_", arrays["mismatched_"], 0, n_classes - 1)
    _check_ascending("mismatched_", arrays["mismatched_"], strictly=True)
    if arrays.get("weights.visual_prompts", np.empty(1)).size == 0:
        raise ValueError("weights.visual_prompts is empty.")
    if "prior.keys" not in arrays:
        return
    _check_lengths(arrays, "prior.keys", "prior.own_classes")
    shapes = [arrays[f"prior.{name}"].shape for name in ("own_classes", "own_share")]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"expected prior.own_share of shape {shapes[0]}, the file has {shapes[1]}."
        )
    _check_ascending("prior.keys", arrays["prior.keys"])  # of images, two of which may be equal
    _check_range("prior.mismatched", arrays["prior.mismatched"], 0, n_classes - 1)
    _check_ascending("prior.mismatched", arrays["prior.mismatched"], strictly=True)
    _check_range("prior.own_classes", arrays["prior.own_classes"], 0, n_classes - 1)
    _check_range("prior.own_share", arrays["prior.own_share"], 0, math.inf)
    _check_range("prior.mean_variance", arrays["prior.mean_variance"], 0, math.inf)
    _check_range("prior.dimension", arrays["prior.dimension"], 0, math.inf)
    _check_range("prior.trust", arrays["prior.trust"], 0, 1)
    _check_range("prior.logit_scale", arrays["prior.logit_scale"], logit_scale, logit_scale)


def _check_range(name: str, array: np.ndarray, least: float, most: float) -> None:
    outside = array[(array < least) | (array > most)]
    if outside.size:
        raise ValueError(f"expected {name} in [{least}, {most}], the file has {outside[0]}.")


def _check_ascending(name: str, array: np.ndarray, *, strictly: bool = False) -> None:
    before, after = array[:-1], array[1:]
    if not (after > before if strictly else after >= before).all():
        raise ValueError(f"expected {name} in ascending order, the file has another one.")


def _check_lengths(arrays: Mapping[str, np.ndarray], first: str, second: str) -> None:
    lengths = len(arrays[first]), len(arrays[second])
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"expected {first} and {second} of one length, the file has {lengths[0]} and "
            f"{lengths[1]}."
        )


# -- names


def _check_names(what: str, found: Collection[str], expected: Collection[str]) -> None:
    missing, unknown = sorted({*expected} - {*found}), sorted({*found} - {*expected})
    if missing or unknown:
        raise ValueError(
            f"its {what} lack {missing or 'none'} and have {unknown or 'none'} that no "
            "classifier writes."
        )
