"""Finding bad input to a fit before anything is loaded or encoded."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from capkit._validation import UNLABELED, LabelCodec
from capkit.base import check_images, expected_n_labels
from capkit.exceptions import LabelError
from capkit.images import ImageSource
from capkit.space import ConceptSpace

if TYPE_CHECKING:
    from capkit.classifier import CAPClassifier

__all__ = ["FitInput", "check_fit_input", "check_inference", "check_labels", "check_settings"]


@dataclasses.dataclass(frozen=True, eq=False)
class FitInput:
    """What a user passed to ``fit``, checked.

    Parameters
    ----------
    images : ConceptSpace or ImageSource
    class_names : tuple of str
    codec : LabelCodec
        Gives predictions in the kind of ``y``.
    labels : ndarray of shape (n_images,), int64
        Indices into `class_names`; -1 where unlabeled, and everywhere in ``ul``.
    """

    images: ConceptSpace | ImageSource
    class_names: tuple[str, ...]
    codec: LabelCodec
    labels: np.ndarray

    def labels_of(self, space: ConceptSpace) -> np.ndarray:
        """Labels of the rows of a space, in which unreadable images are left out."""
        return _of_rows(self.labels, space)


def check_fit_input(
    classifier: CAPClassifier,
    X: object,
    y: Sequence | None,
    class_names: Sequence[str] | None,
) -> FitInput:
    """Check images, labels and class names against each other and the paradigm.

    Parameters
    ----------
    classifier : CAPClassifier
    X : sequence of images, or ConceptSpace
    y : sequence of labels or None
    class_names : sequence of str or None
        Argument of ``fit``.

    Returns
    -------
    FitInput

    Raises
    ------
    ClassNamesError, LabelError, TypeError, ValueError
        If something is wrong with them.
    """
    images, names = check_images(X, classifier, class_names)
    n_labels = expected_n_labels(y, images)
    if classifier.paradigm == "ul":
        codec = LabelCodec.kind_only(y, names, n_labels)
        labels = np.full(len(images), UNLABELED, dtype=np.int64)
    else:
        codec, labels = LabelCodec.from_labels(y, names, n_labels)
        labels = _of_rows(labels, images)
    check_labels(labels, classifier.paradigm, names)
    return FitInput(images, names, codec, labels)


def check_labels(labels: np.ndarray, paradigm: str, class_names: Sequence[str]) -> None:
    """Raise unless a paradigm can work with these labels.

    Parameters
    ----------
    labels : ndarray of shape (n_images,), int64
        -1 where unlabeled.
    paradigm : {"ul", "ssl", "trzsl"}
    class_names : sequence of str

    Raises
    ------
    LabelError
        If it cannot; the message says what to do.
    """
    if paradigm == "ul":
        return
    present = np.unique(labels[labels != UNLABELED])
    if not len(present):
        raise LabelError(
            f"paradigm={paradigm!r} expected labels of some images, got none. Pass y with -1 for "
            "the unlabeled images, or use paradigm='ul', which needs no label."
        )
    if (labels != UNLABELED).all():
        raise LabelError(
            f"paradigm={paradigm!r} expected some unlabeled images, got a label for each of "
            f"{len(labels)}. Mark the unlabeled ones by -1; where all are labeled, an ordinary "
            "classifier behind CLIPEncoder is what you want. (If you did mark them: "
            "cross_val_predict(method='predict_proba'), VotingClassifier and StackingClassifier "
            "number all labels anew, -1 too, and cannot be used with this paradigm.)"
        )
    if paradigm == "ssl" and len(present) < 2:
        raise LabelError(
            "paradigm='ssl' expected labels of at least 2 classes, got 1 class: "
            f"{class_names[present[0]]!r}. Label images of other classes too, or use 'trzsl' if "
            "the unlabeled images belong to the others."
        )
    if paradigm == "trzsl" and len(present) == len(class_names):
        raise LabelError(
            "paradigm='trzsl' expected classes without any label, to which the unlabeled images "
            f"belong; all {len(class_names)} have one. Use paradigm='ssl', or name the unseen "
            "classes in class_names too."
        )


def check_settings(classifier: CAPClassifier, images: ConceptSpace | ImageSource) -> None:
    """Raise if parameters contradict each other or what is there to train on.

    Parameters
    ----------
    classifier : CAPClassifier
    images : ConceptSpace or ImageSource

    Raises
    ------
    ValueError
        If they do.
    ImportError
        If several devices are asked for and accelerate is missing.
    """
    check_inference(classifier.inference, classifier.tuning)
    _check_augment(classifier.augment, classifier.tuning)
    if classifier.temperature == "labeled" and classifier.paradigm == "ul":
        raise ValueError(
            "temperature='labeled' needs labels, and paradigm='ul' looks at none. Pass a number."
        )
    if isinstance(images, ConceptSpace) and classifier.tuning == "prompt":
        _check_prompts_can_train(images)
    if classifier.n_devices > 1:
        _check_devices(classifier.n_devices, classifier.batch_size)


def check_inference(inference: str | None, tuning: str) -> None:
    """Raise if a way to predict uses what the way of tuning does not train.

    Parameters
    ----------
    inference : str or None
    tuning : {"prompt", "adapter"}

    Raises
    ------
    ValueError
        If it does.
    """
    if inference == "prompts" and tuning == "adapter":
        raise ValueError(
            "inference='prompts' predicts without adapters, and tuning='adapter' trains nothing "
            "else. Use 'main', 'pseudo' or 'ensemble', or tuning='prompt'."
        )


def _check_augment(augment: object, tuning: str) -> None:
    is_number = isinstance(augment, (int, float))
    if tuning == "prompt" and is_number:
        raise ValueError(
            f"augment={augment!r} is for tuning='adapter'. With tuning='prompt' it is "
            "'crop_flip', 'crop', 'affine' or a transform of pixels."
        )
    if tuning == "prompt" and isinstance(augment, str):
        from capkit.training.views import make_strong_view  # imports torch

        make_strong_view(augment)  # raises for a name that it does not know
    if tuning == "adapter" and isinstance(augment, str):
        raise ValueError(
            f"augment={augment!r} changes pixels, and tuning='adapter' trains on features. Use "
            "a number, the length of the noise, or a transform of a feature."
        )


def _check_prompts_can_train(space: ConceptSpace) -> None:
    missing = [name for name in ("images", "prompts", "backbone") if getattr(space, name) is None]
    if missing:
        raise ValueError(
            f"tuning='prompt' trains on pixels and texts, and the ConceptSpace has no "
            f"{' and no '.join(missing)}. Use tuning='adapter', or pass the images themselves or "
            "what CLIPEncoder makes of them."
        )


def _check_devices(n_devices: int, batch_size: int) -> None:
    if batch_size % n_devices:
        raise ValueError(
            f"expected batch_size to be a multiple of n_devices={n_devices}, got {batch_size}: "
            "each device takes an equal part."
        )
    if importlib.util.find_spec("accelerate") is None:
        raise ImportError(
            f"n_devices={n_devices} needs accelerate, which is not installed. "
            "Run: python -m pip install accelerate"
        )


def _of_rows(labels: np.ndarray, images: ConceptSpace | ImageSource) -> np.ndarray:
    """Labels of these images, from theirs or from those of all images behind a space."""
    if len(labels) == len(images) or isinstance(images, ImageSource):
        return labels
    return labels[images.rows]
