"""Fitted classifiers as ONNX files, which predict without torch and without capkit."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

import capkit
from capkit._files import write_atomically
from capkit.adapted import AdaptedModel
from capkit.backbones.registry import is_path
from capkit.backbones.reloading import reload_backbone
from capkit.baselines.gaussian import GaussianTransductionClassifier
from capkit.baselines.zero_shot import ZeroShotClassifier
from capkit.gaussians import GaussianPrior
from capkit.trained_classifier import TrainedClassifier
from capkit.training.predictor import build_predictor
from capkit.tuning import AdapterTuning

if TYPE_CHECKING:
    from capkit.backbones import Backbone
    from capkit.image_classifier import ImageClassifier
    from capkit.training.module import DualAdapterModule

__all__ = ["to_onnx"]

# Opsets that torch can export and that have LayerNormalization as one operator.
_OPSETS = range(17, 21)
# A protobuf file is limited to 2 GiB; the remainder is for everything but the image tower.
_LARGEST_TOWER = 2**31 - 2**26


def to_onnx(model: ImageClassifier, path: str | os.PathLike, *, opset: int = 17) -> None:
    """Export a fitted classifier to one ONNX file.

    The graph goes from ``pixels``, uint8 of shape (n, S, S, 3), to ``probabilities``, float32 of
    shape (n, n_classes), and ``labels``, int64 of shape (n,), for any n from 1. It contains pixel
    normalisation, the image tower with trained prompts, the adapters, class features, Gaussians,
    inference mode and temperature. Labels and columns are in the order of the names in the
    metadata, which is the order of ``classes_``. The metadata of the file are

    - ``class_names``: JSON list of str;
    - ``preprocessing``: JSON object that says how to turn an RGB image into the graph's pixels:
      ``size`` (S), ``resize_mode`` (``"shortest"``, ``"squash"`` or ``"longest"``),
      ``interpolation``, ``crop`` and ``fill_color``; also ``mean`` and ``std``, which the graph
      applies itself;
    - ``backbone_name``, ``backbone_fingerprint``: the frozen model; for a path, only its last
      part;
    - ``method``, ``inference``, ``temperature`` and ``capkit_version``.

    Parameters
    ----------
    model : CAPClassifier or another of capkit's classifiers
        A fitted classifier. TransCLIPClassifier, ZLaPClassifier and LabelProbe cannot be exported.
        Its ``inference`` and ``temperature_`` are fixed in the file.
    path : path
        In a folder that exists. An older file is replaced once the new one is on the disk.
    opset : int, default=17
        Version of ONNX's operator set, 17 to 20.

    Raises
    ------
    ImportError
        If the package onnx is missing.
    NotFittedError
        If the classifier is not fitted.
    TypeError
        If the classifier is of a kind that cannot be exported.
    ValueError
        If the features that it was fitted to name no backbone, if the image tower exceeds the 2
        GiB that one file can hold, or if `opset` is out of range.
    BackboneError
        If the backbone cannot be loaded, or is not the one used in the fit.
    OSError
        If the file cannot be written; an older one is left as it was.

    See Also
    --------
    capkit.CAPClassifier.save : For further use in Python, without the weights of the frozen model.

    Notes
    -----
    Probabilities agree with ``predict_proba`` on the CPU up to float32 rounding. On a GPU, trained
    prompts run in bfloat16, so the difference is larger.

    The exported model treats the images that the Gaussians were fitted to like any others, while
    :class:`~capkit.CAPClassifier` recognises such an image and leaves it out of its class mean.
    Their probabilities differ accordingly.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from capkit.baselines import ZeroShotClassifier
    >>> from capkit.datasets import load_digits
    >>> from capkit.export import to_onnx
    >>> digits = load_digits(split="test")
    >>> classifier = ZeroShotClassifier(backbone="glyph")
    >>> classifier = classifier.fit(digits.images, class_names=digits.class_names)
    >>> import onnxruntime
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_onnx(classifier, Path(folder) / "model.onnx")
    ...     session = onnxruntime.InferenceSession(Path(folder) / "model.onnx")
    >>> labels, = session.run(["labels"], {"pixels": np.zeros((2, 32, 32, 3), np.uint8)})
    >>> labels.shape
    (2,)
    """
    if importlib.util.find_spec("onnx") is None:
        raise ImportError(
            "to_onnx needs the package onnx, which is not installed. "
            "Run: python -m pip install onnx"
        )
    if opset not in _OPSETS:
        raise ValueError(
            f"expected an opset from {_OPSETS.start} to {_OPSETS.stop - 1}, got {opset!r}."
        )
    adapted, inference = _what_predicts(model)
    backbone = reload_backbone(
        model.backbone_name_,
        model.backbone_id_,
        device="cpu",
        owner=f"what this {type(model).__name__} was fitted to",
    )
    _check_size(backbone)
    graph = _Graph(backbone, adapted, inference, model._temperature, model._codec.column_order)
    metadata = _metadata(model, backbone, inference)
    write_atomically(path, _with_metadata(_traced(graph, backbone.image_size, opset), metadata))


def _what_predicts(model: ImageClassifier) -> tuple[AdaptedModel, str]:
    """Weights and Gaussians of a classifier, and its inference mode."""
    check_is_fitted(model)
    if isinstance(model, TrainedClassifier):
        return model._model, model._inference()
    prior = None
    if isinstance(model, GaussianTransductionClassifier):
        prior = model._prior
    elif not isinstance(model, ZeroShotClassifier):
        raise TypeError(
            "expected a classifier that predicts by class features, adapters or Gaussians, got "
            f"{type(model).__name__}. Export CAPClassifier, a peer that trains, "
            "ZeroShotClassifier or GaussianTransductionClassifier."
        )
    untrained = AdaptedModel(model.text_features_, model.logit_scale_, prior, {}, AdapterTuning())
    return untrained, "no_adapters"


def _check_size(backbone: Backbone) -> None:
    n_bytes = sum(p.numel() * p.element_size() for p in backbone.model.visual.parameters())
    if n_bytes > _LARGEST_TOWER:
        raise ValueError(
            f"the image tower of {backbone.name!r} takes {n_bytes / 2**30:.1f} GiB, and an ONNX "
            "file holds 2 GiB. Fit with a smaller backbone, or serve with capkit itself."
        )


# -- the graph


class _Graph(nn.Module):
    """From pixels to probabilities, with the modules that the classifier itself uses."""

    def __init__(
        self,
        backbone: Backbone,
        adapted: AdaptedModel,
        inference: str,
        temperature: float,
        column_order: object,
    ) -> None:
        super().__init__()
        self.backbone, self.tower = backbone, backbone.model  # a module, to name its weights
        self.trained = _predictor(adapted, backbone) if adapted.weights else None
        self.reads_pixels = adapted.tuning.trains_encoder
        self.evidence = None if adapted.prior is None else _Evidence(adapted.prior)
        self.logit_scale = adapted.logit_scale
        self.inference = inference
        self.temperature = temperature
        self.register_buffer("text_features", torch.tensor(adapted.text_features))
        self.register_buffer("column_order", torch.tensor(column_order))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (n, C) and labels (n,) of pixels (n, S, S, 3), uint8."""
        images = pixels.permute(0, 3, 1, 2)
        frozen = self.backbone.encode_images(images)  # left out of the file if unused
        logits = self._logits(images, frozen)
        if self.evidence is not None:
            logits = self.evidence(frozen, logits)
        logits = logits[:, self.column_order]
        return (logits / self.temperature).softmax(dim=1), logits.argmax(dim=1)

    def _logits(self, images: Tensor, frozen: Tensor) -> Tensor:
        if self.trained is None:
            return self.logit_scale * (frozen @ self.text_features.T)
        features = self.trained.features(images if self.reads_pixels else frozen)
        return self.trained.logits(features, self.trained.text_features(), self.inference)


def _predictor(adapted: AdaptedModel, backbone: Backbone) -> DualAdapterModule:
    return build_predictor(
        adapted.weights,
        adapted.tuning.trained_encoder(adapted.weights, lambda: backbone),
        logit_scale=adapted.logit_scale,
        adapter_weight=adapted.tuning.adapter_weight,
        device="cpu",
    )


class _Evidence(nn.Module):
    """:class:`~capkit.gaussians.GaussianPrior` for images that it was not fitted to."""

    def __init__(self, prior: GaussianPrior) -> None:
        super().__init__()
        classes = prior.classes
        middle = classes.whitened_means.mean(axis=0)
        means = classes.whitened_means - middle
        # Precomputed terms that do not depend on the image, such as squared lengths of the means.
        excess = (means**2).sum(axis=1) - classes.dimension * classes.mean_variance
        numbers = {
            "whitening": classes.whitening,
            "middle": middle,
            "means": means,
            "excess": excess,
            "log_prior": classes.log_prior,
        }
        for name, value in numbers.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))
        self.trust = classes.trust
        self.mismatched = prior.mismatched.tolist()
        without_text = torch.zeros(len(means), dtype=torch.bool)
        without_text[self.mismatched] = True
        self.register_buffer("without_text", without_text)
        self.register_buffer("with_text", torch.nonzero(~without_text)[:, 0])

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """Logits (n, C) plus the evidence from the features (n, d) of the frozen model."""
        whitened = features @ self.whitening - self.middle
        distance = (whitened**2).sum(dim=1, keepdim=True) - 2 * whitened @ self.means.T
        evidence = self.log_prior - 0.5 * self.trust * (distance + self.excess)
        return self._text_log_probabilities(logits) + evidence

    def _text_log_probabilities(self, logits: Tensor) -> Tensor:
        if self.mismatched:
            believed = logits[:, self.with_text]
            average = believed.logsumexp(dim=1, keepdim=True) - math.log(believed.shape[1])
            logits = torch.where(self.without_text, average, logits)
        return logits.log_softmax(dim=1)


# -- the file


def _traced(graph: _Graph, size: int, opset: int) -> bytes:
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    outputs = ["probabilities", "labels"]
    file = io.BytesIO()
    with _without_fused_attention(), warnings.catch_warnings(), torch.no_grad():
        # Silence warnings about traced branches, which only depend on the model's shape, and about
        # the exporter's age: the new exporter gives the same graph but takes twenty times as long
        # and four more packages.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            (example,),
            file,
            input_names=["pixels"],
            output_names=outputs,
            dynamic_axes={name: {0: "n"} for name in ("pixels", *outputs)},
            opset_version=opset,
            dynamo=False,
        )
    return file.getvalue()


@contextlib.contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Compute attention with operators that ONNX has."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _metadata(model: ImageClassifier, backbone: Backbone, inference: str) -> dict[str, str]:
    config, name = backbone.preprocess, backbone.name
    names = [model.class_names_[column] for column in model._codec.column_order]
    preprocessing = {
        "size": backbone.image_size,
        "resize_mode": config.resize_mode,
        "interpolation": config.interpolation,
        "crop": "center" if config.resize_mode == "shortest" else "none",
        "fill_color": config.fill_color,
        "mean": list(config.mean),
        "std": list(config.std),
    }
    return {
        "class_names": json.dumps(names),
        "preprocessing": json.dumps(preprocessing),
        "backbone_name": Path(name).name if is_path(name) else name,
        "backbone_fingerprint": backbone.identity,
        "method": type(model).__name__,
        "inference": inference,
        "temperature": repr(model._temperature),
        "capkit_version": capkit.__version__,
    }


def _with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    import onnx

    graph = onnx.load_model_from_string(content)
    onnx.helper.set_model_props(graph, metadata)
    onnx.checker.check_model(graph)
    return graph.SerializeToString()
