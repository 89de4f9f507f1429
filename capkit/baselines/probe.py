"""A classifier on features that learns only from the labeled images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils._param_validation import HasMethods

from capkit._threads import one_thread
from capkit._validation import UNLABELED, LabelCodec
from capkit.exceptions import LabelError
from capkit.image_classifier import ImageClassifier

if TYPE_CHECKING:
    from capkit.encoder import CLIPEncoder
    from capkit.images import ImageSource
    from capkit.space import ConceptSpace

__all__ = ["LabelProbe"]

# Replaces a probability of zero, whose logarithm is infinite.
_TINY = 1e-30


class LabelProbe(ImageClassifier):
    """Classify images with a scikit-learn classifier fitted to the labeled images' features.

    It uses neither texts nor unlabeled images, so it shows how far the labels alone go. A class
    without a labeled image is never predicted.

    Parameters
    ----------
    estimator : classifier or None, default=None
        Any scikit-learn classifier with ``predict_proba``; it is cloned and gets unit features.
        None means ``LogisticRegression(C=10, max_iter=1000)``.
    class_names : sequence of str or None, default=None
        Names of the classes; pass them here or to :meth:`fit`.
    backbone : str or path, default="auto"
        Name of the model, see :func:`~capkit.backbones.load_backbone`. This and the next two are
        ignored if a ConceptSpace is given.
    encoder : CLIPEncoder or None, default=None
        How images are encoded. None means a :class:`~capkit.CLIPEncoder` with its defaults.
    device : str, default="auto"
        ``"auto"`` means CUDA if there is a device, else Apple's GPU (MPS), else the CPU.
    verbose : int, default=0
        Above 0, a progress bar is shown while images are encoded.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted: names or indices, as in `y`; classes without a labeled image are included.
        The columns of :meth:`predict_proba` are in this order.
    class_names_ : tuple of str
        Names of the classes, in the order in which they were given.
    n_features_in_ : int
        Width ``d`` of the features.
    estimator_ : classifier
        The fitted classifier. Its ``classes_`` are the classes that have labeled images, as
        indices into `class_names_`.
    logit_scale_ : float
        ``s``, the factor between cosine similarities and logits. Not used.
    backbone_name_ : str or None
        Name of the model; None if features were given without one.
    backbone_id_ : str or None
        Fingerprint of its configuration and weights.

    See Also
    --------
    ZeroShotClassifier : Texts alone.
    GaussianTransductionClassifier : Texts, unlabeled images and, if asked for, labels.

    Notes
    -----
    Fitting raises LabelError if no image is labeled, or only images of one class.

    ``C = 10`` was chosen on the features of four data sets together (WHU-RS19, pets, CIFAR-10,
    reptiles of ImageNet), computed with OpenAI's ViT-B/32, over three seeds. The table shows mean
    accuracies. With 8 labels per class the last set is not included, as no images are left to test
    on:

    ======  ========  ========
    C       2 labels  8 labels
    ======  ========  ========
    1       63.2%     86.2%
    3       64.1%     88.3%
    10      65.1%     89.4%
    100     65.1%     89.7%
    1000    65.2%     89.9%
    ======  ========  ========

    scikit-learn functions that renumber labels, such as VotingClassifier, turn the unlabeled
    images into a class of their own: leave unlabeled images out there.

    Examples
    --------
    >>> from capkit.baselines import LabelProbe
    >>> from capkit.datasets import load_digits
    >>> train, test = load_digits(split="train"), load_digits(split="test")
    >>> labels = train.target.copy()
    >>> labels[50:] = -1
    >>> probe = LabelProbe(backbone="glyph", class_names=train.class_names)
    >>> probe = probe.fit(train.images, labels)
    >>> print(f"{probe.score(test.images, test.target):.2f}")
    0.90
    """

    _parameter_constraints: ClassVar[dict] = {
        **ImageClassifier._parameter_constraints,
        "estimator": [HasMethods(["fit"]), None],
    }

    def __init__(
        self,
        estimator: ClassifierMixin | None = None,
        *,
        class_names: Sequence[str] | None = None,
        backbone: str | os.PathLike = "auto",
        encoder: CLIPEncoder | None = None,
        device: str = "auto",
        verbose: int = 0,
    ):
        self.estimator = estimator
        self.class_names = class_names
        self.backbone = backbone
        self.encoder = encoder
        self.device = device
        self.verbose = verbose

    @property
    def _uses_labels(self) -> bool:
        return True

    def _check_settings(self, images: ConceptSpace | ImageSource) -> None:
        self._make_encoder()  # raises if its settings contradict the classifier's
        if self.estimator is not None and not hasattr(self.estimator, "predict_proba"):
            raise ValueError(
                f"LabelProbe expected an estimator with predict_proba, got {self.estimator!r}. "
                "Wrap it in sklearn.calibration.CalibratedClassifierCV, or set the parameter "
                "that makes it estimate probabilities."
            )

    def _read_labels(
        self,
        y: Sequence | None,
        class_names: tuple[str, ...],
        images: ConceptSpace | ImageSource,
    ) -> tuple[LabelCodec, np.ndarray]:
        if y is None:
            raise LabelError(
                "LabelProbe requires y to be passed, but the target y is None. Pass labels, with "
                "-1 or None for the unlabeled images; ZeroShotClassifier needs none."
            )
        return super()._read_labels(y, class_names, images)

    def _check_labels(self, labels: np.ndarray, class_names: tuple[str, ...]) -> None:
        present = np.unique(labels[labels != UNLABELED])
        if len(present) < 2:
            got = f"1 class, {class_names[present[0]]!r}" if len(present) else "no labeled image"
            raise LabelError(
                f"LabelProbe expected labeled images of at least 2 classes, got {got}. Label an "
                "image of each class that is to be predicted; ZeroShotClassifier needs no labels."
            )

    def _fit_space(self, space: ConceptSpace, labels: np.ndarray) -> None:
        if self.estimator is None:
            estimator = LogisticRegression(C=10, max_iter=1000)
        else:
            estimator = clone(self.estimator)
        labeled = labels != UNLABELED
        features = space.image_features[labeled]
        with one_thread(features.size):
            self.estimator_ = estimator.fit(features, labels[labeled])

    def _logits(self, images: ConceptSpace | ImageSource) -> np.ndarray:
        features = self._encode_new(images)
        probabilities = np.zeros((len(features), len(self.class_names_)))
        with one_thread(features.size):
            probabilities[:, self.estimator_.classes_] = self.estimator_.predict_proba(features)
        return np.log(np.maximum(probabilities, _TINY)).astype(np.float32)
