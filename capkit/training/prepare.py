"""From a ConceptSpace and labels to a training: checks, first main samples, the task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from capkit._validation import UNLABELED
from capkit.images import ImageSource, decode_pixels
from capkit.pseudolabels import top_k_pseudo_labels
from capkit.space import ConceptSpace
from capkit.training.config import TrainingConfig
from capkit.training.run import TrainingTask
from capkit.training.streams import TrainingImages

if TYPE_CHECKING:
    from capkit.backbones import Backbone
    from capkit.margins import MarginCalibrator

__all__ = ["build_task", "first_main_samples", "read_inputs"]


def first_main_samples(
    space: ConceptSpace, labels: np.ndarray, seen: np.ndarray, k: int
) -> np.ndarray:
    """Choose the main samples that training starts with (``D_PL``, method section 1).

    Parameters
    ----------
    space : ConceptSpace
        As aligned.
    labels : ndarray of shape (n,), int64
        -1 where unlabeled. Only unlabeled images are chosen.
    seen : ndarray of int
        Classes that no unlabeled image belongs to.
    k : int
        Images of each class.

    Returns
    -------
    ndarray of shape (n,), int64
        Class of each main sample, -1 for the other images.
    """
    unlabeled = np.flatnonzero(labels == UNLABELED)
    classes = np.setdiff1d(np.arange(space.n_classes), seen)
    similarities = space.image_features[unlabeled] @ space.text_features[classes].T
    aligned = () if space.alignment is None else space.alignment.aligned
    chosen = top_k_pseudo_labels(
        softmax(space.logit_scale * similarities, axis=1),
        k,
        similarities,
        np.flatnonzero(np.isin(classes, aligned)),
    )
    main_labels = np.full(len(labels), UNLABELED, dtype=np.int64)
    main_labels[unlabeled] = np.where(chosen == UNLABELED, UNLABELED, classes[chosen])
    return main_labels


def read_inputs(images: ImageSource, backbone: Backbone, n_jobs: int | None) -> Tensor:
    """Read the pixels of all images, decoded and resized once.

    Parameters
    ----------
    images : ImageSource
    backbone : Backbone
    n_jobs : int or None
        Threads that decode.

    Returns
    -------
    Tensor of shape (n, S, S, 3), uint8
    """
    pixels = decode_pixels(images, backbone.preprocessing, n_jobs=n_jobs)
    # torch does not share memory that it may not write to
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())


def build_task(
    space: ConceptSpace,
    labels: np.ndarray,
    seen: np.ndarray,
    config: TrainingConfig,
    calibrator: MarginCalibrator,
    *,
    device: str,
    backbone: Backbone | None = None,
    n_jobs: int | None = None,
    **options: Any,
) -> TrainingTask:
    """Collect all that a training needs.

    Parameters
    ----------
    space : ConceptSpace
        As aligned.
    labels : ndarray of shape (n,), int64
        -1 where unlabeled.
    seen : ndarray of int
        Labeled classes of ``trzsl``, else empty.
    config : TrainingConfig
    calibrator : MarginCalibrator
    device : str
    backbone : Backbone or None, default=None
        Needed for prompt tuning.
    n_jobs : int or None, default=None
        Threads that decode.
    **options
        ``checkpoint_dir``, ``n_devices`` and ``verbose`` of the task.

    Returns
    -------
    TrainingTask
    """
    main_labels = first_main_samples(space, labels, seen, config.top_k)
    prompted: dict[str, Any] = {}
    if config.tuning == "adapter":
        inputs = torch.tensor(space.image_features)
    else:
        inputs = read_inputs(space.images, backbone, n_jobs)
        shift = None if space.alignment is None else space.alignment.shift
        prompted = {"backbone": backbone.name, "prompts": space.prompts, "shift": shift}
    return TrainingTask(
        config=config,
        images=TrainingImages(inputs, labels),
        image_features=space.image_features,
        text_features=space.text_features,
        logit_scale=space.logit_scale,
        main_labels=main_labels,
        calibrator=calibrator,
        seen=seen,
        fingerprint=_fingerprint(space, labels, main_labels, config, calibrator),
        device=device,
        **prompted,
        **options,
    )


def _fingerprint(
    space: ConceptSpace,
    labels: np.ndarray,
    main_labels: np.ndarray,
    config: TrainingConfig,
    calibrator: MarginCalibrator,
) -> Mapping[str, Any]:
    """What decides how a training goes, to compare a checkpoint by; each part by its name."""
    margin = calibrator.get_params(deep=False)
    return {
        "images": _digest(space.image_features),
        "labels": _digest(labels),
        "class_names": list(space.class_names),
        "class texts": None if space.prompts is None else list(space.prompts),
        "class features": _digest(space.text_features),
        "main samples": _digest(main_labels),
        "backbone": space.backbone,
        "backbone fingerprint": space.backbone_id,
        **config.fingerprint(),
        **margin,
    }


def _digest(array: np.ndarray) -> str:
    content = np.ascontiguousarray(array)
    return hashlib.blake2b(content.data, digest_size=16).hexdigest()
