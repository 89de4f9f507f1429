"""The part of a fit that prediction needs: trained weights, the Gaussians, or both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from capkit.gaussians import GaussianPrior
from capkit.images import ImageSource
from capkit.space import ConceptSpace
from capkit.training.module import DualAdapterModule
from capkit.training.predictor import (
    adapted_features,
    build_predictor,
    encode_batches,
    export_adapters,
    predict_logits,
)
from capkit.tuning import Tuning

if TYPE_CHECKING:
    from capkit.backbones import Backbone

__all__ = ["AdaptedModel", "Reader"]

_WEIGHTS, _PRIOR = "weights.", "prior."


@dataclasses.dataclass(frozen=True)
class Reader:
    """How images are read where a model predicts.

    Parameters
    ----------
    encode : callable
        From images to features (n, d) of the frozen model.
    backbone : callable
        Loads the frozen model.
    device : str
    batch_size : int
    n_jobs : int or None
        Workers that decode images.
    """

    encode: Callable[[ConceptSpace | ImageSource], np.ndarray]
    backbone: Callable[[], Backbone]
    device: str
    batch_size: int
    n_jobs: int | None


@dataclasses.dataclass(eq=False)
class AdaptedModel:
    """Predicts with trained prompts and adapters, with the Gaussians, or with both.

    Parameters
    ----------
    text_features : ndarray of shape (n_classes, d)
        Of the frozen model, as aligned.
    logit_scale : float
    prior : GaussianPrior or None
        The Gaussians' contribution to the logits.
    weights : dict of str to ndarray
        Trained weights; empty if nothing was trained or the result was discarded.
    tuning : Tuning
        How it was trained.
    """

    text_features: np.ndarray
    logit_scale: float
    prior: GaussianPrior | None
    weights: dict[str, np.ndarray]
    tuning: Tuning
    _built: tuple[str, DualAdapterModule] | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def from_training(
        cls, space: ConceptSpace, prior: GaussianPrior | None, module: DualAdapterModule, tuning
    ) -> AdaptedModel:
        """Take what prediction needs out of a trained module.

        Parameters
        ----------
        space : ConceptSpace
            As aligned.
        prior : GaussianPrior or None
        module : DualAdapterModule
        tuning : Tuning

        Returns
        -------
        AdaptedModel
        """
        weights = tuning.export(module.encoder) | export_adapters(module)
        return cls(space.text_features, space.logit_scale, prior, weights, tuning)

    def untrained(self) -> AdaptedModel:
        """The same without what was trained.

        Returns
        -------
        AdaptedModel
        """
        return dataclasses.replace(self, weights={}, _built=None)

    def trained_text_features(self) -> np.ndarray:
        """Class features after training, before the text adapter.

        Returns
        -------
        ndarray of shape (n_classes, d)
        """
        return self.weights.get("text_features", self.text_features)

    def logits(
        self, images: ConceptSpace | ImageSource, inference: str, reader: Reader
    ) -> np.ndarray:
        """Logits of images.

        Parameters
        ----------
        images : ConceptSpace or ImageSource
        inference : str
            With which parts to predict, where something was trained.
        reader : Reader

        Returns
        -------
        ndarray of shape (n, n_classes), dtype float32
        """
        if not self.weights:
            frozen = reader.encode(images)
            return self._with_prior(self.logit_scale * (frozen @ self.text_features.T), frozen)
        if self.prior is None:
            return self._trained_logits(images, inference, reader)
        frozen = reader.encode(images)  # once, for adapters and prior
        reader = dataclasses.replace(reader, encode=lambda images: frozen)
        return self._with_prior(self._trained_logits(images, inference, reader), frozen)

    def _with_prior(self, logits: np.ndarray, frozen: np.ndarray) -> np.ndarray:
        return logits if self.prior is None else self.prior(frozen, logits)

    def _trained_logits(
        self, images: ConceptSpace | ImageSource, inference: str, reader: Reader
    ) -> np.ndarray:
        return predict_logits(self._predictor(reader), self._features(images, reader), inference)

    def transform(
        self, images: ConceptSpace | ImageSource, inference: str, reader: Reader
    ) -> np.ndarray:
        """Features of images that are compared with the classes.

        Parameters
        ----------
        images : ConceptSpace or ImageSource
        inference : str
        reader : Reader

        Returns
        -------
        ndarray of shape (n, d), dtype float32
        """
        if not self.weights:
            return reader.encode(images)
        return adapted_features(self._predictor(reader), self._features(images, reader), inference)

    def _features(self, images: ConceptSpace | ImageSource, reader: Reader) -> torch.Tensor:
        """Features of new images before any adapter, (n, d)."""
        inputs = self.tuning.prediction_inputs(
            images, encode=reader.encode, backbone=reader.backbone, n_jobs=reader.n_jobs
        )
        return encode_batches(self._predictor(reader), inputs, reader.batch_size)

    def _predictor(self, reader: Reader) -> DualAdapterModule:
        """Module for prediction, built once for a device."""
        if self._built is None or self._built[0] != reader.device:
            module = build_predictor(
                self.weights,
                self.tuning.trained_encoder(self.weights, reader.backbone),
                logit_scale=self.logit_scale,
                adapter_weight=self.tuning.adapter_weight,
                device=reader.device,
            )
            self._built = (reader.device, module)
        return self._built[1]

    # -- saving

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All of it but the way of tuning, as arrays by name.

        Returns
        -------
        dict of str to ndarray
        """
        arrays = {_WEIGHTS + name: value for name, value in self.weights.items()}
        if self.prior is not None:
            arrays |= {_PRIOR + name: value for name, value in self.prior.to_arrays().items()}
        return arrays | {"frozen_text_features": self.text_features}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], logit_scale: float, tuning: Tuning
    ) -> AdaptedModel:
        """Put together what :meth:`to_arrays` took apart.

        Parameters
        ----------
        arrays : mapping of str to ndarray
        logit_scale : float
        tuning : Tuning

        Returns
        -------
        AdaptedModel
        """
        weights, prior = (
            {name.removeprefix(p): v for name, v in arrays.items() if name.startswith(p)}
            for p in (_WEIGHTS, _PRIOR)
        )
        gaussian = GaussianPrior.from_arrays(prior) if prior else None
        return cls(arrays["frozen_text_features"], logit_scale, gaussian, weights, tuning)

    def __getstate__(self):
        return self.__dict__ | {"_built": None}  # holds the backbone
