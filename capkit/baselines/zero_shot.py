"""The vision-language model as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from capkit._validation import LabelCodec
from capkit.base import (
    ImageClassifierMixin,
    check_concept_space,
    check_images,
    expected_n_labels,
)
from capkit.encoder import CLIPEncoder
from capkit.exceptions import BackboneMismatchError
from capkit.space import ConceptSpace

__all__ = ["ZeroShotClassifier"]


class ZeroShotClassifier(ImageClassifierMixin, BaseEstimator):
    """Classify images by the class text that is most similar, without any training.

    Takes images, or the :class:`~capkit.ConceptSpace` of the steps before it in a
    :class:`~sklearn.pipeline.Pipeline`; behind :class:`~capkit.ConceptAligner` it classifies by
    the aligned texts.

    Parameters
    ----------
    class_names : sequence of str or None, default=None
        Names of the classes; here or at :meth:`fit`.
    backbone : str or path, default="auto"
        Name of the model, see :func:`~capkit.backbones.load_backbone`. This and the following
        are not looked at where a ConceptSpace is given.
    template : str or sequence of str, default="a photo of a {}"
        Text that a class name is put into, in place of ``{}``. Of several templates the features
        are averaged.
    batch_size : int, default=256
        Number of images that are encoded at once.
    device : str, default="auto"
        ``"auto"`` is CUDA where there is a device, else the CPU.
    cache_dir : path or None, default=None
        Folder in which features are kept; None keeps some in memory.
    n_jobs : int or None, default=None
        Number of threads that decode images. None means one for each CPU, at most 8.
    verbose : int, default=0
        Above 0, a progress bar is shown while images are encoded.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in the kind that `y` had, class names where there was none; sorted. The columns
        of :meth:`predict_proba` are in this order.
    class_names_ : tuple of str
        Names of the classes, in the order that was given.
    n_features_in_ : int
        Width ``d`` of the features.
    text_features_ : ndarray of shape (n_classes, d), dtype float32
        ``W``, unit rows, in the order of `class_names_`.
    logit_scale_ : float
        ``s``, the factor between cosine similarities and logits.
    backbone_id_ : str or None
        Fingerprint of the model; None where features were given without one.
    encoder_ : CLIPEncoder or None
        Encodes images; None if fitted to a ConceptSpace, which is then needed to predict too.

    See Also
    --------
    capkit.CAPClassifier : Adapts the model to the images.

    Notes
    -----
    ``cross_val_predict(method="predict_proba")``, ``VotingClassifier``, ``StackingClassifier`` and
    ``CalibratedClassifierCV(ensemble=False)`` of scikit-learn pass on, in place of `y`, positions
    in the sorted labels. Nothing changes where `y` holds indices, or where `class_names` are in
    alphabetical order, as long as every class occurs in `y`. Names in another order would be
    mistaken for other names, as nothing tells positions from indices into `class_names`: pass
    indices instead, or to cross_val_predict no `y`.

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

    # class_names is routed to fit without a set_fit_request of the user
    __metadata_request__fit = {"class_names": True}

    _parameter_constraints: dict = {
        "class_names": ["array-like", None],
        "backbone": [str, os.PathLike],
        "template": [str, "array-like"],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
        "cache_dir": [str, os.PathLike, None],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        class_names: Sequence[str] | None = None,
        backbone: str | os.PathLike = "auto",
        template: str | Sequence[str] = "a photo of a {}",
        batch_size: int = 256,
        device: str = "auto",
        cache_dir: str | os.PathLike | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ):
        self.class_names = class_names
        self.backbone = backbone
        self.template = template
        self.batch_size = batch_size
        self.device = device
        self.cache_dir = cache_dir
        self.n_jobs = n_jobs
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: object,
        y: Sequence | None = None,
        *,
        class_names: Sequence[str] | None = None,
    ) -> ZeroShotClassifier:
        """Encode the class names; nothing is learned from the images.

        Parameters
        ----------
        X : sequence of images of length n_images, or ConceptSpace
            Paths, PIL images, arrays, an array (n, H, W, 3), a tensor (n, 3, H, W) or a Dataset;
            or what the stages before this step made.
        y : sequence of length n_images or None, default=None
            Class names or indices into `class_names`. Says only in which kind to predict.
        class_names : sequence of str or None, default=None
            Names of the classes, if the constructor was given none.

        Returns
        -------
        self : ZeroShotClassifier

        Raises
        ------
        ClassNamesError
            If there are no class names, or they cannot be right.
        BackboneError
            If the backbone cannot be loaded.
        """
        images, names = check_images(X, self, class_names)
        codec = LabelCodec.kind_only(y, names, expected_n_labels(y, images))
        if isinstance(images, ConceptSpace):
            self.encoder_ = None
            self.text_features_ = images.text_features
            self.logit_scale_ = images.logit_scale
            self.backbone_id_ = images.backbone_id
        else:
            self.encoder_ = self._make_encoder(names).fit(images)
            self.text_features_ = self.encoder_.text_features_
            self.logit_scale_ = self.encoder_.logit_scale_
            self.backbone_id_ = self.encoder_.backbone_id_
        self._codec = codec
        self.class_names_ = names
        self.classes_ = codec.classes
        self.n_features_in_ = self.text_features_.shape[1]
        return self

    def _make_encoder(self, class_names: tuple[str, ...]) -> CLIPEncoder:
        return CLIPEncoder(
            self.backbone,
            class_names=class_names,
            template=self.template,
            batch_size=self.batch_size,
            device=self.device,
            cache_dir=self.cache_dir,
            n_jobs=self.n_jobs,
            verbose=self.verbose,
        )

    def _scores(self, X: object) -> np.ndarray:
        check_is_fitted(self)
        if self.encoder_ is None or isinstance(X, ConceptSpace):
            space = check_concept_space(X, self)
            self._check_same_model(space)
        else:
            space = self.encoder_.transform(X)
        texts = self.text_features_[self._codec.column_order]
        return self.logit_scale_ * (space.image_features @ texts.T)

    def _check_same_model(self, space: ConceptSpace) -> None:
        if space.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {space.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        known = None not in (space.backbone_id, self.backbone_id_)
        if known and space.backbone_id != self.backbone_id_:
            raise BackboneMismatchError(
                f"{type(self).__name__} was fitted with another backbone than the one behind this "
                f"ConceptSpace ({space.backbone!r}). Encode the images with the same one."
            )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # images, or a ConceptSpace
        tags.target_tags.required = False
        return tags
