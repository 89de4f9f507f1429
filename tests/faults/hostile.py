"""Saved models that say what cannot be, under a digest that is right.

A value that another fit could have left is no fault: nothing tells it from what was fitted. So
only values are put in that stand for no model; parameters of a next fit, which checks them, and
the numbers of the training's course and of the report have to be readable and are not compared.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from capkit import CAPClassifier
from faults.common import HARMLESS, Fault, WrongResult
from faults.subjects import (
    expect_same_reading,
    planted_space,
    quick_classifier,
    quietly_fitted,
    read_of,
)

#: Values that stand where another kind belongs, whatever it is; by what they are called.
WRONG_VALUES: dict[str, Any] = {
    "NaN": math.nan,
    "infinity": math.inf,
    "below 0": -1e9,
    "a list": [[1, "x"]],
    "a text": "\x00 nonsense",
    "a mapping": {"mapping": {"x": 1}},
    "an object of no kind": {"x": 1},
    "a class of Python": {"estimator": "os.system", "parameters": {"command": "true"}},
    "parameters of no class": {"estimator": "AdapterTuning", "parameters": {"nonsense": 1}},
    "wrong parameters": {"estimator": "AdapterTuning", "parameters": [1]},
    "another class": {"estimator": "MarginCalibrator", "parameters": {"m": "x"}},
    "a mapping that is none": {"mapping": 1},
}
DEPTHS = (100, 900, 5000, 100_000)
# What ends loading or the first use; capkit's own errors of a model are among ValueError.
REFUSALS = (ValueError, TypeError)
_NOT_COMPARED = {"parameters", "history_", "adaptation_report_"}
# Arrays that may be empty: no class was found mismatched.
_MAY_BE_EMPTY = {"mismatched_", "prior.mismatched"}


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a saved model."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["capkit"])
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write(path: Path, header: object, arrays: Mapping[str, np.ndarray]) -> None:
    """A file whose digest is that of what it says."""
    text = json.dumps(header)
    if isinstance(header, dict):
        header = {name: value for name, value in header.items() if name != "blake2b"}
        text = json.dumps(header | {"blake2b": digest(header, arrays)})
    write_text(path, text, arrays)


def write_text(path: Path, header: str, arrays: Mapping[str, np.ndarray]) -> None:
    """A file whose header is any text."""
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    save_file(arrays, path, metadata={"capkit": header})


def digest(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """What stands in a file for all else that it says."""
    state = hashlib.blake2b(json.dumps(header).encode(), digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.dtype.str} {array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def faults(folder: Path) -> Iterator[Fault]:
    """All faults of this kind; the files lie in `folder`."""
    space, path = planted_space(), folder / "hostile.capkit"
    quietly_fitted(quick_classifier(), space).save(path)
    header, arrays = read(path)
    right = read_of(CAPClassifier.load(path, device="cpu"), space)

    compared = {name: value for name, value in right.items() if name not in _NOT_COMPARED}

    def attempt_with(writer: Callable[[], None]) -> Callable[[], str]:
        def attempt() -> str:
            writer()
            found = read_of(CAPClassifier.load(path, device="cpu"), space)
            _expect_readable(found["history_"])
            expect_same_reading(found, compared)
            return HARMLESS

        return attempt

    for name, changed in changed_headers(header):
        writer = lambda changed=changed: write(path, changed, arrays)  # noqa: E731
        yield Fault("saved model, hostile metadata", name, attempt_with(writer), REFUSALS)
    for name, text in odd_headers(header, arrays):
        writer = lambda text=text: write_text(path, text, arrays)  # noqa: E731
        yield Fault("saved model, hostile metadata", name, attempt_with(writer), REFUSALS)
    for name, changed in changed_arrays(arrays):
        writer = lambda changed=changed: write(path, header, changed)  # noqa: E731
        yield Fault("saved model, hostile arrays", name, attempt_with(writer), REFUSALS)


def _expect_readable(history: object) -> None:
    if not isinstance(history, list) or not all(isinstance(epoch, dict) for epoch in history):
        raise WrongResult(f"history_: expected a list of dicts, got {history!r:.80}")


def changed_headers(header: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The header with one value replaced or left out, everywhere in it."""
    for place in _places(header):
        if place == ("blake2b",):
            continue
        shown = ".".join(map(str, place))
        yield f"{shown} left out", _changed(header, place, lambda parent, key: parent.pop(key))
        for name, value in WRONG_VALUES.items():
            if name == "a text" and "class_names_" in place:
                continue  # which is a name like another

            def put(parent: Any, key: Any, value: Any = value) -> None:
                parent[key] = value

            yield f"{shown} is {name}", _changed(header, place, put)
    for name, value in WRONG_VALUES.items():
        yield f"all is {name}", value


def _places(value: Any, place: tuple = ()) -> Iterator[tuple]:
    """Where values stand; of the epochs, which are alike, those of the first."""
    if place:
        yield place
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*place, key))
    elif isinstance(value, list):
        for number, item in enumerate(value[:1]):
            yield from _places(item, (*place, number))


def _changed(header: Any, place: tuple, change: Callable[[Any, Any], object]) -> Any:
    changed = copy.deepcopy(header)
    parent = changed
    for key in place[:-1]:
        parent = parent[key]
    change(parent, place[-1])
    return changed


def odd_headers(
    header: dict[str, Any], arrays: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, str]]:
    """Texts that no JSON writer of ours would write."""
    for depth in DEPTHS:
        for name, opened, closed in (("lists", "[", "]"), ("objects", '{"a":', "}")):
            deep = opened * depth + "1" + closed * depth
            yield f"{depth} {name} in each other", deep
            yield f"{depth} {name} in its parameters", _spliced(header, arrays, deep)
    text = json.dumps(header)
    yield "a key twice", text[:-1] + ', "format": 3}'
    yield "a number of a million digits", _spliced(header, arrays, "1" * 10**6)
    yield "half of a surrogate pair", _spliced(header, arrays, '"\\ud800"')
    yield "no JSON", "nonsense"
    yield "nothing", ""


def _spliced(header: dict[str, Any], arrays: Mapping[str, np.ndarray], value: str) -> str:
    """The header with a text in the place of ``verbose``; its digest where that can be had."""
    unsigned = {name: part for name, part in header.items() if name != "blake2b"}
    unsigned = {**unsigned, "parameters": {**header["parameters"], "verbose": "HERE"}}
    text = json.dumps(unsigned).replace('"HERE"', value)
    try:
        mark = digest(json.loads(text), arrays)
    except (RecursionError, ValueError):
        mark = header["blake2b"]
    return text[:-1] + f', "blake2b": "{mark}"}}'


def changed_arrays(
    arrays: dict[str, np.ndarray],
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """One array replaced or left out."""
    for name, array in arrays.items():
        yield f"{name} left out", {key: value for key, value in arrays.items() if key != name}
        for change, wrong in _wrong_arrays(array):
            if len(wrong) or name not in _MAY_BE_EMPTY:
                yield f"{name} {change}", {**arrays, name: wrong}


def _wrong_arrays(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    floating = array.dtype.kind == "f"
    if floating and array.size:
        yield "with a NaN", _with_first(array, np.nan)
        yield "with an infinity", _with_first(array, np.inf)
        yield "all NaN", np.full_like(array, np.nan)
    elif array.size:
        yield "with the largest integer", _with_first(array, np.iinfo(array.dtype).max)
        if array.dtype.kind == "i":
            yield "with the smallest integer", _with_first(array, np.iinfo(array.dtype).min)
    yield "empty", array[:0]
    yield "of one more row", np.concatenate([array, array[:1]])
    yield "of one dimension more", array[None]
    yield "in one dimension", array.reshape(-1) if array.ndim > 1 else array.reshape(-1, 1, 1)
    yield "of booleans", np.ones(array.shape, dtype=bool)
    yield "of bytes", np.ones(array.shape, dtype=np.uint8)
    yield "of halves", np.full(array.shape, 0.5, dtype=np.float16)
    if array.ndim > 1 and array.shape[0] != array.shape[1]:
        yield "transposed", np.ascontiguousarray(array.T)


def _with_first(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed.reshape(-1)[0] = value
    return changed
