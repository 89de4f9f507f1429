"""The vision-language model without adaptation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from capkit.image_classifier import ImageClassifier
from capkit.space import ConceptSpace

if TYPE_CHECKING:
    from capkit.encoder import CLIPEncoder
    from capkit.images import ImageSource

__all__ = ["ZeroShotClassifier"]


class ZeroShotClassifier(ImageClassifier):
    """Classify images by the class text that is most similar, without any training.

    Takes images, or the :class:`~capkit.ConceptSpace` of the steps before it in a
    :class:`~sklearn.pipeline.Pipeline`; after :class:`~capkit.ConceptAligner` it classifies with
    the aligned texts.

    Parameters
    ----------
    class_names : sequence of str or None, default=None
        Names of the classes; pass them here or to :meth:`fit`.
    backbone : str or path, default="auto"
        Name of the model, see :func:`~capkit.backbones.load_backbone`. This and the next two are
        ignored if a ConceptSpace is given.
    encoder : CLIPEncoder or None, default=None
        How images and class names are encoded: templates, batch size, cache. None means a
        :class:`~capkit.CLIPEncoder` with its defaults.
    device : str, default="auto"
        ``"auto"`` means CUDA if there is a device, else Apple's GPU (MPS), else the CPU.
    verbose : int, default=0
        Above 0, a progress bar is shown while images are encoded.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted: names or indices, as in `y`; names if there was no `y`. The columns of
        :meth:`predict_proba` are in this order.
    class_names_ : tuple of str
        Names of the classes, in the order in which they were given.
    n_features_in_ : int
        Width ``d`` of the features.
    text_features_ : ndarray of shape (n_classes, d), dtype float32
        ``W``, unit rows, in the order of `class_names_`.
    logit_scale_ : float
        ``s``, the factor between cosine similarities and logits.
    backbone_name_ : str or None
        Name of the model; None if features were given without one.
    backbone_id_ : str or None
        Fingerprint of its configuration and weights.

    See Also
    --------
    capkit.CAPClassifier : Adapts the model to the images.

    References
    ----------
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021.

    Examples
    --------
    >>> from capkit.baselines import ZeroShotClassifier
    >>> from capkit.datasets import load_digits
    >>> digits = load_digits(split="test")
    >>> classifier = ZeroShotClassifier(backbone="glyph")
    >>> classifier = classifier.fit(digits.images, class_names=digits.class_names)
    >>> classifier.predict_proba(digits.images[:3]).shape
    (3, 10)
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str] | None = None,
        backbone: str | os.PathLike = "auto",
        encoder: CLIPEncoder | None = None,
        device: str = "auto",
        verbose: int = 0,
    ):
        self.class_names = class_names
        self.backbone = backbone
        self.encoder = encoder
        self.device = device
        self.verbose = verbose

    def _check_settings(self, images: ConceptSpace | ImageSource) -> None:
        self._make_encoder()  # raises if its settings contradict the classifier's

    def _encode(
        self, images: ConceptSpace | ImageSource, class_names: tuple[str, ...]
    ) -> ConceptSpace:
        """Encode only the classes, because nothing is learned from the images."""
        if isinstance(images, ConceptSpace):
            return images
        encoder = self._make_encoder().set_params(class_names=class_names).fit(images)
        return ConceptSpace(
            np.empty((0, encoder.n_features_out_)),
            encoder.text_features_,
            class_names,
            encoder.logit_scale_,
            sample_indices=np.empty(0),
            backbone=encoder.backbone_name_,
            backbone_id=encoder.backbone_id_,
        )

    def _fit_space(self, space: ConceptSpace, labels: np.ndarray) -> None:
        self.text_features_ = space.text_features

    def _logits(self, images: ConceptSpace | ImageSource) -> np.ndarray:
        return self.logit_scale_ * (self._encode_new(images) @ self.text_features_.T)
