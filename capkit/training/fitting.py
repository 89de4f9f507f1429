"""What CAPClassifier does with torch: a whole fit, and predictions from what it left."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional as F

from capkit.backbones import load_backbone
from capkit.backbones.prompting import PromptedTowers
from capkit.backbones.registry import resolve_device
from capkit.encoder import encode_images
from capkit.exceptions import BackboneMismatchError
from capkit.feature_store import open_feature_store
from capkit.images import ImageSource
from capkit.space import ConceptSpace
from capkit.training.checks import FitInput, check_labels
from capkit.training.config import TrainingConfig
from capkit.training.predictor import build_predictor, export_weights, predict_features
from capkit.training.prepare import build_task, read_inputs
from capkit.training.run import train
from capkit.training.stages import encode, run_stages
from capkit.training.state import CHECKPOINT_NAME, read_fingerprint

if TYPE_CHECKING:
    from capkit.backbones import Backbone
    from capkit.classifier import CAPClassifier
    from capkit.training.module import DualAdapterModule

__all__ = [
    "FitResult",
    "fit",
    "fit_temperature",
    "load_fitted_backbone",
    "prepare_predictor",
    "scores",
    "transform",
]


@dataclasses.dataclass(frozen=True, eq=False)
class FitResult:
    """What a fit leaves.

    Parameters
    ----------
    weights : dict of str to ndarray
        See :func:`~capkit.training.predictor.export_weights`.
    attributes : dict of str to object
        Fitted attributes of the classifier.
    space : ConceptSpace
        The training images, as aligned.
    labels : ndarray of shape (n_images,), int64
        Of the rows of the space, -1 where unlabeled.
    """

    weights: dict[str, np.ndarray]
    attributes: dict[str, Any]
    space: ConceptSpace
    labels: np.ndarray


def fit(classifier: CAPClassifier, given: FitInput) -> FitResult:
    """Encode, align and train.

    Parameters
    ----------
    classifier : CAPClassifier
    given : FitInput

    Returns
    -------
    FitResult
    """
    seed = _choose_seed(classifier)
    device = str(resolve_device(classifier.device))
    config = TrainingConfig.resolve(classifier.get_params(deep=False), seed)
    space, labels = _encode(classifier, given, device)
    staged = run_stages(classifier, space, seed)
    space, seen = staged.space, np.empty(0, dtype=np.int64)
    if classifier.paradigm == "trzsl":
        seen = np.unique(labels[labels >= 0])
    task = build_task(
        space,
        labels,
        seen,
        config,
        staged.calibrator,
        device=device,
        backbone=_prompted_backbone(space, device) if config.tuning == "prompt" else None,
        n_jobs=classifier.n_jobs,
        checkpoint_dir=classifier.checkpoint_dir,
        n_devices=classifier.n_devices,
        verbose=classifier.verbose,
    )
    state, module = train(task)
    weights = export_weights(module)
    confident = (state.confidence > staged.calibrator.tau) & (labels < 0)
    mismatched = () if space.mismatch is None else space.mismatch.mismatched
    attributes = {
        "n_features_in_": space.shape[1],
        "mismatched_": [space.class_names[index] for index in mismatched],
        "descriptions_": {} if space.alignment is None else dict(space.alignment.descriptions),
        "text_features_": weights["text_features"],
        "margin_matrix_": state.margin_matrix,
        "pseudo_labels_": np.where(confident, state.pseudo_labels, -1),
        "main_labels_": state.main_labels,
        "history_": state.history,
        "detector_": staged.detector,
        "aligner_": staged.aligner,
        "calibrator_": task.calibrator,
        "config_": config,
        "backbone_name_": space.backbone,
        "backbone_id_": space.backbone_id,
        "logit_scale_": space.logit_scale,
    }
    return FitResult(weights, attributes, space, labels)


def _choose_seed(classifier: CAPClassifier) -> int:
    if isinstance(classifier.random_state, (int, np.integer)):
        return int(classifier.random_state)
    if classifier.random_state is None and classifier.checkpoint_dir is not None:
        # Without a seed of its own, a fit that goes on takes that of the fit that was killed.
        path = Path(classifier.checkpoint_dir) / CHECKPOINT_NAME
        fingerprint = read_fingerprint(path)
        if fingerprint is not None:
            return fingerprint["seed"]
    return int(check_random_state(classifier.random_state).randint(2**31 - 1))


def _encode(classifier, given: FitInput, device: str) -> tuple[ConceptSpace, np.ndarray]:
    if isinstance(given.images, ConceptSpace):
        return given.images, given.labels
    if classifier.tuning == "prompt":
        # Raises for a tower without a place for prompts, before every image is encoded.
        PromptedTowers(load_backbone(classifier.backbone, device=device).model)
    space = encode(classifier, given.images, given.class_names)
    labels = given.labels_of(space)
    check_labels(labels, classifier.paradigm, given.class_names)  # some images may be left out
    return space, labels


def _prompted_backbone(space: ConceptSpace, device: str) -> Backbone:
    backbone = load_backbone(space.backbone, device=device)
    _check_same_backbone(backbone.identity, space.backbone_id, space.backbone)
    return backbone


def _check_same_backbone(found: str | None, expected: str | None, name: str | None) -> None:
    if found is not None and expected is not None and found != expected:
        raise BackboneMismatchError(
            f"expected the backbone with the fingerprint {expected[:12]}..., which the "
            f"classifier was fitted with, got {name!r} with {found[:12]}.... Bring the old "
            "weights back, or fit again."
        )


def load_fitted_backbone(classifier: CAPClassifier) -> Backbone:
    """Load the backbone that a classifier was fitted with.

    Parameters
    ----------
    classifier : CAPClassifier
        Fitted.

    Returns
    -------
    Backbone

    Raises
    ------
    ValueError
        If it was fitted with features whose backbone is not known.
    BackboneMismatchError
        If the name stands for other weights now.
    """
    check_is_fitted(classifier)
    if classifier.backbone_name_ is None:
        raise ValueError(
            "this classifier was fitted with a ConceptSpace that names no backbone, so it "
            "cannot encode images. Pass a ConceptSpace."
        )
    backbone = load_backbone(classifier.backbone_name_, device=classifier.device)
    _check_same_backbone(backbone.identity, classifier.backbone_id_, backbone.name)
    return backbone


def scores(classifier: CAPClassifier, X: object) -> np.ndarray:
    """Logits of images in the order of ``class_names_``.

    Parameters
    ----------
    classifier : CAPClassifier
        Fitted.
    X : sequence of images, or ConceptSpace

    Returns
    -------
    ndarray of shape (n_images, C), float32
    """
    module, features = _encode_for_prediction(classifier, X)
    with torch.no_grad():
        texts = module.text_features()
        return module.logits(features, texts, classifier._inference()).cpu().numpy()


def transform(classifier: CAPClassifier, X: object) -> np.ndarray:
    """Adapted features of images.

    Parameters
    ----------
    classifier : CAPClassifier
        Fitted.
    X : sequence of images, or ConceptSpace

    Returns
    -------
    ndarray of shape (n_images, d), float32
        Unit rows.
    """
    module, features = _encode_for_prediction(classifier, X)
    adapters = {
        "prompts": (),
        "main": (module.main_adapter,),
        "pseudo": (module.pseudo_adapter,),
        "ensemble": (module.main_adapter, module.pseudo_adapter),
    }[classifier._inference()]
    with torch.no_grad():
        if adapters:
            adapted = torch.stack([adapter(features) for adapter in adapters]).mean(dim=0)
            features = F.normalize(adapted, dim=-1)
        return features.cpu().numpy()


def _encode_for_prediction(classifier: CAPClassifier, X: object):
    """The module, and features of images before any adapter."""
    check_is_fitted(classifier)
    classifier._inference()  # a wrong one is found before anything is encoded
    space = _read_space(classifier, X) if isinstance(X, ConceptSpace) else None
    source = ImageSource.from_user(X) if space is None else space.images
    n_images = len(source) if space is None else len(space)
    if not n_images:
        raise ValueError(
            f"Found array with 0 sample(s): {type(classifier).__name__} expected at least 1 image."
        )
    module = prepare_predictor(classifier)
    if classifier.config_.tuning == "prompt":
        pixels = read_inputs(source, classifier.backbone_, classifier.n_jobs)
        return module, predict_features(module, pixels, classifier.encode_batch_size)
    features = _encode_source(classifier, source) if space is None else space.image_features
    return module, predict_features(module, torch.tensor(features), n_images)


def _read_space(classifier: CAPClassifier, space: ConceptSpace) -> ConceptSpace:
    _check_same_backbone(space.backbone_id, classifier.backbone_id_, space.backbone)
    if space.shape[1] != classifier.n_features_in_:
        raise ValueError(
            f"X has {space.shape[1]} features, but {type(classifier).__name__} is expecting "
            f"{classifier.n_features_in_} features as input."
        )
    if space.images is None and classifier.config_.tuning == "prompt":
        raise ValueError(
            "a classifier with tuned prompts reads pixels, and this ConceptSpace has no images. "
            "Pass the images, or what CLIPEncoder makes of them."
        )
    return space


def _encode_source(classifier: CAPClassifier, source: ImageSource) -> np.ndarray:
    with open_feature_store(classifier.cache_dir) as store:
        features, _ = encode_images(
            classifier.backbone_,
            source,
            store,
            batch_size=classifier.encode_batch_size,
            n_jobs=classifier.n_jobs,
            verbose=classifier.verbose,
        )
    return features


def prepare_predictor(classifier: CAPClassifier) -> DualAdapterModule:
    """Build the module for prediction, once for a fitted classifier and device.

    Parameters
    ----------
    classifier : CAPClassifier
        Fitted.

    Returns
    -------
    DualAdapterModule
    """
    device = str(resolve_device(classifier.device))
    cached = getattr(classifier, "_predictor", None)
    if cached is not None and cached[0] is classifier._weights and cached[1] == device:
        return cached[2]
    prompted = classifier.config_.tuning == "prompt"
    module = build_predictor(
        classifier._weights,
        logit_scale=classifier.logit_scale_,
        adapter_weight=classifier.config_.adapter_weight,
        device=device,
        backbone=classifier.backbone_ if prompted else None,
    )
    classifier._predictor = (classifier._weights, device, module)
    return module


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature under which the labels are most probable.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    Parameters
    ----------
    logits : ndarray of shape (n, C)
    labels : ndarray of shape (n,), int64

    Returns
    -------
    float
        Between 0.01 and 100.
    """
    logits = logits.astype(np.float64)
    of_label = logits[np.arange(len(labels)), labels]

    def negative_log_likelihood(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.mean(logsumexp(logits * scale, axis=1) - of_label * scale))

    bounds = (np.log(0.01), np.log(100.0))
    found = minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded")
    return float(np.exp(found.x))
