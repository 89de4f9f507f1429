"""Errors and warnings of capkit; each also inherits a suitable builtin."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sklearn.exceptions import NotFittedError

__all__ = [
    "AdaptationWarning",
    "BackboneError",
    "BackboneMismatchError",
    "BackboneNotFoundError",
    "CacheError",
    "CacheWarning",
    "CapkitError",
    "CheckpointError",
    "CheckpointMismatchError",
    "ClassNamesError",
    "DatasetDownloadError",
    "DatasetError",
    "DescriberAnswerError",
    "DescriberConnectionError",
    "DescriberError",
    "DescriberModelError",
    "DescriberTimeoutError",
    "ImageReadError",
    "LabelError",
    "NoConfidentPredictionWarning",
    "NotFittedError",
    "OutOfMemoryError",
    "SkippedImagesWarning",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "UnsupportedBackboneError",
]


class CapkitError(Exception):
    """Base of every error that capkit raises itself."""


class ClassNamesError(CapkitError, ValueError):
    """The class names are missing, duplicated, or cannot belong to these images."""


class LabelError(CapkitError, ValueError):
    """A label is not one of the class names, or the paradigm cannot use these labels."""


class ImageReadError(CapkitError, OSError):
    """An image could not be read.

    Parameters
    ----------
    index : int
        Position of the image in the input.
    name : str
        Its path, or a description of what was given.
    reason : object
        What went wrong; kept as a str.
    """

    def __init__(self, index: int, name: str, reason: object):
        super().__init__(index, name, reason)
        self.index = index
        self.name = name
        self.reason = str(reason)

    def __str__(self) -> str:
        return (
            f"image {self.index} ({self.name}) could not be read: {self.reason}. "
            "Repair or remove it, or leave such images out by CLIPEncoder(on_error='skip')."
        )


class BackboneError(CapkitError, RuntimeError):
    """A vision-language model could not be loaded or used."""


class BackboneNotFoundError(BackboneError, LookupError):
    """No backbone of this name exists, or its weights cannot be reached."""


class BackboneMismatchError(BackboneError, ValueError):
    """Weights, a configuration or a saved model belong to another backbone."""


class UnsupportedBackboneError(BackboneError, TypeError):
    """Prompts cannot be inserted into this architecture."""


class CacheError(CapkitError, OSError):
    """A cache on disk, of features or of answers, could not be read or written."""


class DatasetError(CapkitError, OSError):
    """A data set on disk is damaged or incomplete, or is not there."""


class DatasetDownloadError(CapkitError, ConnectionError):
    """A file of a data set could not be downloaded; the message says where to put it by hand."""


class DescriberError(CapkitError, RuntimeError):
    """A describer could not give descriptions of a class.

    Attributes
    ----------
    descriptions : mapping of str to list of str
        The descriptions obtained before the failure, by class;
        :func:`~capkit.describers.save_descriptions` accepts them.
    """

    descriptions: Mapping[str, list[str]] = MappingProxyType({})


class DescriberConnectionError(DescriberError, ConnectionError):
    """The server that answers the describer cannot be reached."""


class DescriberModelError(DescriberError, LookupError):
    """The language model is not available on the server, or another one answered."""


class DescriberTimeoutError(DescriberError, TimeoutError):
    """The language model did not answer in time."""


class DescriberAnswerError(DescriberError, ValueError):
    """The answer is empty or not what was asked for."""


class TrainingDivergedError(CapkitError, ArithmeticError):
    """The loss became NaN or infinite."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training was interrupted; the estimator is not fitted.

    Not a :class:`CapkitError`: those are Exceptions, which a parameter search catches before it
    continues with the next candidate.
    """


class OutOfMemoryError(CapkitError, MemoryError):
    """A step needs more memory than the device has."""


class CheckpointError(CapkitError, OSError):
    """A training checkpoint could not be written or read."""


class CheckpointMismatchError(CheckpointError, ValueError):
    """A checkpoint belongs to other data, classes, parameters or another backbone."""


class NoConfidentPredictionWarning(UserWarning):
    """No image passes the confidence threshold tau."""


class AdaptationWarning(UserWarning):
    """Adaptation was held back because the images do not show that it helps."""


class CacheWarning(UserWarning):
    """Cached features on disk are damaged and are computed again."""


class SkippedImagesWarning(UserWarning):
    """Images that could not be read were left out."""
