"""A fitted model as one file that executes nothing when it is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sklearn.base import BaseEstimator

import capkit
from capkit._files import write_atomically

__all__ = ["SavedModel", "read_model", "write_model"]

_FORMAT = 3
_METADATA_KEY, _DIGEST_KEY = "capkit", "blake2b"
# What comes of values that are not what was expected; the last of lists in lists without end.
_NO_MODEL = (AttributeError, LookupError, TypeError, ValueError, RecursionError)


class SavedModel(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    parameters : dict of str to object
        Of the estimator, for its constructor.
    values : dict of str to object
        What JSON can hold, estimators among them.
    arrays : dict of str to ndarray
    """

    parameters: dict[str, Any]
    values: dict[str, Any]
    arrays: dict[str, np.ndarray]


def write_model(
    path: str | os.PathLike, model: SavedModel, estimators: Collection[type[BaseEstimator]]
) -> list[str]:
    """Write a model; parameters that JSON cannot hold, such as functions, are left out.

    Parameters
    ----------
    path : path
    model : SavedModel
    estimators : collection of classes
        Objects of these are written as the class's name and parameters.

    Returns
    -------
    list of str
        Names of the parameters that were left out.

    Raises
    ------
    OSError
        If the file cannot be written; an older one is left as it was.
    """
    left_out: list[str] = []
    header = {
        "format": _FORMAT,
        "version": capkit.__version__,
        "parameters": _encode_parameters(model.parameters, "", left_out, estimators),
        "values": _encode_parameters(model.values, "", [], estimators),
    }
    arrays = {name: np.ascontiguousarray(value) for name, value in model.arrays.items()}
    header[_DIGEST_KEY] = _digest(header, arrays)
    write_atomically(path, save(arrays, metadata={_METADATA_KEY: json.dumps(header)}))
    return left_out


def read_model(
    path: str | os.PathLike,
    estimators: Collection[type[BaseEstimator]],
    check: Callable[[SavedModel], None],
) -> SavedModel:
    """Read what :func:`write_model` wrote.

    Parameters
    ----------
    path : path
    estimators : collection of classes
        The only ones that the file can name: a file must not choose what is imported. Their
        parameters have to be in their ranges.
    check : callable
        Raises a ValueError if a SavedModel is not what is expected.

    Returns
    -------
    SavedModel

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If the file is not a saved model, damaged, of another format, names another class, or
        holds what is not expected.
    """
    name = os.fspath(path)
    header, arrays = _read_file(name)
    classes = {cls.__name__: cls for cls in estimators}
    try:
        parameters, values = (
            {name: _decode(value, classes) for name, value in header[part].items()}
            for part in ("parameters", "values")
        )
        model = SavedModel(parameters, values, arrays)
        check(model)
    except _NO_MODEL as error:
        raise ValueError(
            f"{name} is not what capkit saves: {error!s:.300} Get it again from where it came "
            "from, or fit and save anew."
        ) from error
    return model


def _read_file(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a file of this format."""
    if os.path.isdir(name):
        raise ValueError(f"expected the file of a saved classifier, {name} is a folder.")
    try:
        with safe_open(name, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_METADATA_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found, written = header["format"], header.pop(_DIGEST_KEY, None)
        is_whole = written == _digest(header, arrays)
    except (SafetensorError, *_NO_MODEL) as error:
        raise ValueError(
            f"{name} is not a classifier saved by capkit, or is damaged: {error}"
        ) from error
    if found != _FORMAT or header.keys() != {"format", "version", "parameters", "values"}:
        raise ValueError(
            f"{name} is not a classifier that capkit {capkit.__version__} can read (format "
            f"{found!r:.20}, expected {_FORMAT}; with {', '.join(sorted(header)):.80})."
        )
    if not is_whole:
        raise ValueError(
            f"{name} is damaged: its content is not what was written. Get it again from where it "
            "came from, or fit and save anew."
        )
    return header, arrays


def _digest(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Hash of all that a file says, so that no flipped bit passes for a model."""
    # In the header and not beside it: safetensors writes several entries in a random order.
    state = hashlib.blake2b(json.dumps(header).encode(), digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.dtype.str} {array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def _encode_parameters(
    parameters: Mapping[str, Any],
    prefix: str,
    left_out: list[str],
    estimators: Collection[type[BaseEstimator]],
) -> dict[str, Any]:
    encoded = {}
    for name, value in parameters.items():
        try:
            encoded[name] = _encode(value, f"{prefix}{name}__", left_out, estimators)
        except TypeError:
            left_out.append(prefix + name)
    return encoded


def _encode(
    value: Any, prefix: str, left_out: list[str], estimators: Collection[type[BaseEstimator]]
) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_encode(item, prefix, left_out, estimators) for item in value]
    if isinstance(value, Mapping):
        return {"mapping": {k: _encode(v, prefix, left_out, estimators) for k, v in value.items()}}
    if type(value) in estimators:
        parameters = value.get_params(deep=False)
        parameters = _encode_parameters(parameters, prefix, left_out, estimators)
        return {"estimator": type(value).__name__, "parameters": parameters}
    raise TypeError(type(value).__name__)


def _decode(value: Any, classes: Mapping[str, type[BaseEstimator]]) -> Any:
    if isinstance(value, list):
        return [_decode(item, classes) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"mapping"}:
        return {key: _decode(item, classes) for key, item in value["mapping"].items()}
    if value.keys() != {"estimator", "parameters"}:
        raise ValueError(f"expected an object's name and parameters, the file has {value!r:.60}.")
    name = value["estimator"]
    if name not in classes:
        raise ValueError(f"expected one of {sorted(classes)}, the file names {name!r}.")
    estimator = classes[name](
        **{key: _decode(item, classes) for key, item in value["parameters"].items()}
    )
    estimator._validate_params()
    return estimator
