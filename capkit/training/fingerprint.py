"""What a training depends on, in a form that two processes can compare."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from types import CodeType
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator

__all__ = [
    "as_fingerprint",
    "differences",
    "digest",
    "digest_of",
    "plain",
    "sketch",
    "sketch_of_gaussians",
]

_ADDRESS = re.compile(r" (?:object )?at 0x[0-9a-fA-F]+")
# Objects may refer to themselves.
_DEEPEST = 12
# Numbers kept of a row, and how far two of them may lie apart in units of their usual size:
# features differ in the last bits with the number of threads.
_SKETCH_SIZE, _TOLERANCE = 2, 1e-3


def plain(value: Any, _depth: int = 0) -> Any:
    """Turn a parameter into what JSON and a checkpoint can hold and two processes can compare.

    Parameters
    ----------
    value : object

    Returns
    -------
    None, bool, int, float, str, list or dict
        Of a builtin or a class its full name; of a function also what its code is and what it
        has been given; of an estimator its parameters; of any other object its ``repr`` and its
        public attributes. No address in memory.

    Examples
    --------
    >>> import numpy as np
    >>> plain({"tau": np.float64(0.5), "betas": (0.9, 0.999), "view": len})
    {'tau': 0.5, 'betas': [0.9, 0.999], 'view': 'builtins.len'}
    """
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if _depth == _DEEPEST:
        return _name(type(value))
    inner = functools.partial(plain, _depth=_depth + 1)
    if isinstance(value, torch.Tensor):
        return digest(value.detach().cpu().numpy())
    if isinstance(value, Mapping):
        return {str(key): inner(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [inner(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, map(inner, value)))
    return _plain_object(value, inner)


def _plain_object(value: Any, inner: functools.partial) -> Any:
    if isinstance(value, functools.partial):
        return {"partial": [inner(part) for part in (value.func, value.args, value.keywords)]}
    if inspect.ismethod(value):
        return {"method": value.__name__, "of": inner(value.__self__)}
    if inspect.isfunction(value):
        return _plain_function(value, inner)
    if isinstance(value, enum.Enum):
        return str(value)
    if hasattr(value, "__qualname__"):
        return _name(value)
    if isinstance(value, BaseEstimator):
        return {"object": _name(type(value)), **inner(value.get_params(deep=False))}
    public = {
        name: item for name, item in getattr(value, "__dict__", {}).items() if name[0] != "_"
    }
    shown = _ADDRESS.sub("", repr(value))
    return {"object": shown, **inner(public)} if public else shown


def _plain_function(function: Any, inner: functools.partial) -> Any:
    """Name, code and what it has been given: a file's lambdas all have the same name."""
    given = [
        [cell.cell_contents for cell in function.__closure__ or ()],
        function.__defaults__,
        function.__kwdefaults__,
    ]
    return {
        "function": _name(function),
        "code": digest_of(_plain_code(function.__code__)),
        "given": inner(given),
    }


def _plain_code(code: CodeType) -> Any:
    constants = [
        _plain_code(item) if isinstance(item, CodeType) else repr(plain(item))
        for item in code.co_consts
    ]
    return [code.co_code.hex(), code.co_names, constants]


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def digest(array: np.ndarray) -> str:
    """Hash of an array's content.

    Parameters
    ----------
    array : ndarray

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    content = np.ascontiguousarray(array)
    return hashlib.blake2b(content.data, digest_size=16).hexdigest()


def digest_of(value: Any) -> str:
    """Hash of plain values.

    Parameters
    ----------
    value : None, bool, int, float, str, list or dict

    Returns
    -------
    str
        16 hexadecimal digits.

    Examples
    --------
    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    written = json.dumps(value, sort_keys=True).encode()
    return hashlib.blake2b(written, digest_size=8).hexdigest()


def sketch(array: np.ndarray) -> torch.Tensor:
    """Two numbers for each row of an array, from which other rows can be told.

    They are the row's products with two fixed random vectors; so they hardly change where the
    row does in its last bits, as it does with another number of threads.

    Parameters
    ----------
    array : ndarray of shape (n, d)

    Returns
    -------
    Tensor of shape (n, 2), dtype float32
    """
    directions = np.random.default_rng(0).standard_normal((array.shape[1], _SKETCH_SIZE))
    return torch.from_numpy((array @ directions.astype(array.dtype)).astype(np.float32))


def sketch_of_gaussians(whitened_means: np.ndarray) -> torch.Tensor:
    """Two numbers for each of the means of Gaussians of one covariance.

    A covariance leaves open how the whitened space is turned, and last bits decide. So it is the
    means' products with each other that are looked at.

    Parameters
    ----------
    whitened_means : ndarray of shape (n_classes, d)

    Returns
    -------
    Tensor of shape (n_classes, 2), dtype float32
    """
    return sketch(whitened_means @ whitened_means.T)


def as_fingerprint(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint can hold and :func:`differences` compare.

    Parameters
    ----------
    parts : mapping of str to object
        What a training depends on; of arrays of features the :func:`sketch`.

    Returns
    -------
    dict of str to plain values or Tensor
    """
    return {
        name: part if isinstance(part, torch.Tensor) else plain(part)
        for name, part in parts.items()
    }


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, str]:
    """In what two trainings differ.

    Parameters
    ----------
    found, expected : mapping of str to plain values or Tensor
        Plain values are compared exactly, tensors up to the last bits of what they were made of.

    Returns
    -------
    dict of str to str
        What to say of each difference, by its name.
    """
    said = {
        name: _difference(found.get(name), expected.get(name))
        for name in sorted({*found, *expected})
    }
    return {name: difference for name, difference in said.items() if difference is not None}


def _difference(found: Any, expected: Any) -> str | None:
    if isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor):
        return _difference_of_tensors(found, expected)
    if isinstance(found, torch.Tensor) or isinstance(expected, torch.Tensor):
        words = ["none" if value is None else "some" for value in (found, expected)]
        return f"{words[0]} in the checkpoint, {words[1]} now"
    if found == expected:
        return None
    return f"{found!r:.60} in the checkpoint, {expected!r:.60} now"


def _difference_of_tensors(found: torch.Tensor, expected: torch.Tensor) -> str | None:
    if found.shape != expected.shape:
        return f"{len(found)} in the checkpoint, {len(expected)} now"
    found, expected = (tensor.reshape(len(tensor), -1) for tensor in (found, expected))
    usual = expected.square().mean().sqrt()
    same = ((found - expected).abs() <= _TOLERANCE * usual).all(dim=1)
    n_others = int((~same).sum())
    return f"{n_others} of {len(same)} are others" if n_others else None
