"""A fitted CAPClassifier as one file that executes nothing when it is read."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

import capkit
from capkit._files import write_atomically
from capkit._validation import LabelCodec
from capkit.alignment import ConceptAligner
from capkit.margins import MarginCalibrator
from capkit.mismatch import MismatchDetector
from capkit.training.config import TrainingConfig

if TYPE_CHECKING:
    from capkit.classifier import CAPClassifier

__all__ = ["load_classifier", "save_classifier"]

_FORMAT = 1
_METADATA_KEY = "capkit"
_WEIGHTS = "weights."
_ARRAYS = ("margin_matrix_", "pseudo_labels_", "main_labels_")
_VALUES = (
    "n_features_in_",
    "mismatched_",
    "descriptions_",
    "history_",
    "backbone_name_",
    "backbone_id_",
    "logit_scale_",
    "temperature_",
)
# The only classes that a file can name: a file must not choose what is imported.
_ESTIMATORS: dict[str, type[BaseEstimator]] = {
    cls.__name__: cls for cls in (ConceptAligner, MarginCalibrator, MismatchDetector)
}


def save_classifier(classifier: CAPClassifier, path: str | os.PathLike) -> None:
    """Write a fitted classifier: parameters, fitted attributes and trained weights.

    Not in the file are the frozen backbone, of which it has name and fingerprint, the fitted
    stages (``detector_``, ``aligner_``, ``calibrator_``), whose results it has, and parameters
    that JSON cannot hold, such as a function; those are named in a warning.

    Parameters
    ----------
    classifier : CAPClassifier
    path : path

    Raises
    ------
    NotFittedError
        If the classifier is not fitted.
    OSError
        If the file cannot be written.
    """
    check_is_fitted(classifier)
    left_out: list[str] = []
    header = {
        "format": _FORMAT,
        "version": capkit.__version__,
        "parameters": _encode_parameters(classifier.get_params(deep=False), "", left_out),
        "class_names": list(classifier.class_names_),
        "label_kind": classifier._codec.kind,
        "config": classifier.config_.fingerprint(),
        **{name: getattr(classifier, name) for name in _VALUES},
    }
    if left_out:
        warnings.warn(
            f"these parameters cannot be saved and will be their defaults in what is loaded: "
            f"{', '.join(left_out)}. Predictions do not depend on them.",
            UserWarning,
            stacklevel=3,
        )
    arrays = {_WEIGHTS + name: value for name, value in classifier._weights.items()}
    arrays |= {name: getattr(classifier, name) for name in _ARRAYS}
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    write_atomically(path, save(arrays, metadata={_METADATA_KEY: json.dumps(header)}))


def load_classifier(
    cls: type[CAPClassifier], path: str | os.PathLike, device: str
) -> CAPClassifier:
    """Read what :func:`save_classifier` wrote; the backbone is not loaded yet.

    Parameters
    ----------
    cls : type
        CAPClassifier, or a subclass with the same parameters.
    path : path
    device : str
        Becomes the classifier's parameter.

    Returns
    -------
    CAPClassifier
        Fitted.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If the file is not a saved classifier, or of a newer format.
    """
    header, arrays = _read(path)
    parameters = _decode_parameters(header["parameters"])
    classifier = cls(**(parameters | {"device": device}))
    classifier._weights = {
        name.removeprefix(_WEIGHTS): value
        for name, value in arrays.items()
        if name.startswith(_WEIGHTS)
    }
    classifier.text_features_ = classifier._weights["text_features"]
    classifier.class_names_ = tuple(header["class_names"])
    classifier._codec = LabelCodec(classifier.class_names_, header["label_kind"])
    classifier.classes_ = classifier._codec.classes
    classifier.config_ = TrainingConfig(**header["config"])
    classifier.detector_ = classifier.aligner_ = classifier.calibrator_ = None
    for name in _ARRAYS:
        setattr(classifier, name, arrays[name])
    for name in _VALUES:
        setattr(classifier, name, header[name])
    return classifier


def _read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_METADATA_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["format"] <= _FORMAT and "parameters" in header:
            return header, arrays
    except FileNotFoundError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(path)} is not a classifier saved by capkit, or is damaged: {error}"
        ) from error
    raise ValueError(
        f"{os.fspath(path)} is not a classifier that capkit {capkit.__version__} can read "
        f"(format {header['format']}, expected at most {_FORMAT})."
    )


def _encode_parameters(
    parameters: Mapping[str, Any], prefix: str, left_out: list[str]
) -> dict[str, Any]:
    encoded = {}
    for name, value in parameters.items():
        try:
            encoded[name] = _encode(value, f"{prefix}{name}__", left_out)
        except TypeError:
            left_out.append(prefix + name)
    return encoded


def _encode(value: Any, prefix: str, left_out: list[str]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_encode(item, prefix, left_out) for item in value]
    if _ESTIMATORS.get(type(value).__name__) is type(value):
        parameters = _encode_parameters(value.get_params(deep=False), prefix, left_out)
        return {"estimator": type(value).__name__, "parameters": parameters}
    raise TypeError(type(value).__name__)


def _decode_parameters(encoded: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _decode(value) for name, value in encoded.items()}


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    name = value["estimator"]
    if name not in _ESTIMATORS:
        raise ValueError(f"expected one of {sorted(_ESTIMATORS)}, the file names {name!r}.")
    return _ESTIMATORS[name](**_decode_parameters(value["parameters"]))
