"""Gaussian transduction as a classifier."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from sklearn.base import clone
from sklearn.utils._param_validation import StrOptions

from capkit._validation import check_labels_of_paradigm
from capkit.gaussians import GaussianPrior, evidence_temperature
from capkit.image_classifier import ImageClassifier
from capkit.transduction import GaussianTransduction

if TYPE_CHECKING:
    from capkit.encoder import CLIPEncoder
    from capkit.images import ImageSource
    from capkit.space import ConceptSpace

__all__ = ["GaussianTransductionClassifier"]


class GaussianTransductionClassifier(ImageClassifier):
    """Classify images by the class texts and by their position among the training images.

    Nothing is trained: see :class:`~capkit.GaussianTransduction`. It takes a second for thousands
    of images, needs no GPU, and is the baseline that any training has to beat.

    Parameters
    ----------
    paradigm : {"ul", "ssl", "trzsl"}, default="ul"
        How labels are used, see :class:`~capkit.CAPClassifier`: labeled images count only for
        their class; in ``"trzsl"`` the other images count only for the unlabeled classes.
    class_names : sequence of str or None, default=None
        Names of the classes; pass them here or to :meth:`fit`.
    backbone : str or path, default="auto"
        Name of the model, see :func:`~capkit.backbones.load_backbone`. This and the next two are
        ignored if a ConceptSpace is given.
    encoder : CLIPEncoder or None, default=None
        How images and class names are encoded. None means a :class:`~capkit.CLIPEncoder` with its
        defaults.
    device : str, default="auto"
        ``"auto"`` means CUDA if there is a device, else Apple's GPU (MPS), else the CPU.
    transduction : GaussianTransduction or None, default=None
        None means one with its defaults.
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
    transduction_ : GaussianTransduction
        The fitted transduction.
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
    ZeroShotClassifier : Predicts each image separately.
    capkit.CAPClassifier : Trains the model on the images.

    Examples
    --------
    >>> from capkit.baselines import GaussianTransductionClassifier
    >>> from capkit.datasets import load_digits
    >>> train, test = load_digits(split="train"), load_digits(split="test")
    >>> classifier = GaussianTransductionClassifier(backbone="glyph")
    >>> classifier = classifier.fit(train.images, class_names=train.class_names)
    >>> print(f"{classifier.score(test.images, test.target):.2f}")
    0.95
    """

    _parameter_constraints: ClassVar[dict] = {
        **ImageClassifier._parameter_constraints,
        "transduction": [GaussianTransduction, None],
        "paradigm": [StrOptions({"ul", "ssl", "trzsl"})],
    }

    def __init__(
        self,
        paradigm: str = "ul",
        *,
        class_names: Sequence[str] | None = None,
        backbone: str | os.PathLike = "auto",
        encoder: CLIPEncoder | None = None,
        device: str = "auto",
        transduction: GaussianTransduction | None = None,
        verbose: int = 0,
    ):
        self.paradigm = paradigm
        self.class_names = class_names
        self.backbone = backbone
        self.encoder = encoder
        self.device = device
        self.transduction = transduction
        self.verbose = verbose

    @property
    def _uses_labels(self) -> bool:
        return self.paradigm != "ul"

    def _check_labels(self, labels: np.ndarray, class_names: tuple[str, ...]) -> None:
        check_labels_of_paradigm(labels, self.paradigm, class_names)

    def _check_settings(self, images: ConceptSpace | ImageSource) -> None:
        self._make_encoder()  # raises if its settings contradict the classifier's

    def _fit_space(self, space: ConceptSpace, labels: np.ndarray) -> None:
        given = GaussianTransduction() if self.transduction is None else self.transduction
        stage = clone(given).set_params(paradigm=self.paradigm)
        self.transduction_ = stage.fit(space, labels)
        self.text_features_ = space.text_features
        result = self.transduction_.transform(space).transduction
        self._prior = GaussianPrior(
            space.text_features, space.logit_scale, result.classes, result.mismatched
        )

    def _logits(self, images: ConceptSpace | ImageSource) -> np.ndarray:
        features = self._encode_new(images)
        return self._prior(features)

    @property
    def _temperature(self) -> float:
        return evidence_temperature(self._prior.classes.trust)
