"""The base of every classifier of images: check, encode, one hook, predict, score."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context, clone
from sklearn.utils.validation import check_is_fitted

from capkit._validation import (
    UNLABELED,
    LabelCodec,
    check_ordered,
    resolve_class_names,
    validate_nested,
)
from capkit.backbones.reloading import check_same_backbone, reload_backbone
from capkit.base import (
    check_concept_space,
    check_fitted_width,
    check_images,
    expected_n_labels,
    labels_of_rows,
)
from capkit.encoder import CLIPEncoder, encode_images
from capkit.exceptions import ClassNamesError, TrainingInterrupted
from capkit.feature_store import open_feature_store
from capkit.images import ImageSource
from capkit.space import ConceptSpace

if TYPE_CHECKING:
    from capkit.backbones import Backbone

__all__ = ["ImageClassifier"]

_AUTO = "auto"


class ImageClassifier(ClassifierMixin, BaseEstimator):
    """Base of the classifiers that take images, or a ConceptSpace of them.

    :meth:`fit` checks images, class names and labels, encodes, and calls ``_fit_space`` with a
    :class:`~capkit.ConceptSpace` and labels. A subclass fills in the hooks:

    - ``_fit_space(space, labels)`` learns and sets fitted attributes;
    - ``_logits(images)`` gives logits (n, C) in the order of ``class_names_``;
    - ``_check_settings(images)`` raises where parameters contradict each other, before anything
      is loaded;
    - ``_uses_labels`` says whether labels are learned from, ``_check_labels(labels, class_names)``
      whether these can be.

    Its constructor has at least ``class_names``, ``backbone``, ``encoder``, ``device`` and
    ``verbose``.
    """

    class_names: Sequence[str] | None
    backbone: str | os.PathLike
    encoder: CLIPEncoder | None
    device: str
    verbose: int

    class_names_: tuple[str, ...]
    classes_: np.ndarray
    n_features_in_: int
    logit_scale_: float
    backbone_name_: str | None
    backbone_id_: str | None
    _codec: LabelCodec

    # class_names is routed to fit without a set_fit_request of the user
    __metadata_request__fit: ClassVar[dict] = {"class_names": True}

    _parameter_constraints: ClassVar[dict] = {
        "class_names": ["array-like", None],
        "backbone": [str, os.PathLike],
        "encoder": [CLIPEncoder, None],
        "device": [str],
        "verbose": ["verbose"],
    }

    # -- the hooks

    @property
    def _uses_labels(self) -> bool:
        return False

    def _check_settings(self, images: ConceptSpace | ImageSource) -> None:
        pass

    def _check_labels(self, labels: np.ndarray, class_names: tuple[str, ...]) -> None:
        pass

    def _fit_space(self, space: ConceptSpace, labels: np.ndarray) -> None:
        raise NotImplementedError

    def _logits(self, images: ConceptSpace | ImageSource) -> np.ndarray:
        raise NotImplementedError

    @property
    def _temperature(self) -> float:
        """What logits are divided by to make probabilities."""
        return 1.0

    def _after_interrupt(self) -> str:
        """What a user can do after an interrupt, as a sentence behind a blank, or nothing."""
        return ""

    # -- fit

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: object,
        y: Sequence | None = None,
        *,
        class_names: Sequence[str] | None = None,
    ) -> ImageClassifier:
        """Fit to images, or to a ConceptSpace, whose finished stages are not repeated.

        Invalid input is found before anything is loaded or encoded.

        Parameters
        ----------
        X : sequence of images of length n_images, or ConceptSpace
            Paths, PIL images, arrays, an array (n, H, W, 3), a tensor (n, 3, H, W) or a Dataset;
            or the output of the stages before this step.
        y : sequence of length n_images or None, default=None
            Class names or indices into `class_names`; -1 or None marks an unlabeled image. Even if
            labels are not used for learning, they have to be valid: they then only determine
            whether predictions are names or indices. In that case, an index for every image is
            refused if scikit-learn could have replaced the labels by positions of sorted labels.
        class_names : sequence of str or None, default=None
            Names of all classes, if none were passed to the constructor.

        Returns
        -------
        self : estimator

        Raises
        ------
        ClassNamesError, LabelError
            If the class names or the labels are invalid.
        ValueError
            If parameters contradict each other.
        BackboneError
            If the backbone cannot be loaded or used.
        TrainingInterrupted
            If the user interrupts it; the classifier is then not fitted.
        """
        validate_nested(self)
        images, names = self._check_input(X, class_names)
        codec, labels = self._read_labels(y, names, images)
        self._check_settings(images)
        self._forget()  # an error further down must not leave an older fit behind
        try:
            space = self._encode(images, names)
            labels = labels_of_rows(labels, space)
            self._check_labels(labels, names)  # some images may have been left out
            self.class_names_, self.classes_, self._codec = names, codec.classes, codec
            self.n_features_in_, self.logit_scale_ = space.shape[1], space.logit_scale
            self.backbone_name_, self.backbone_id_ = space.backbone, space.backbone_id
            self._fit_space(space, labels)
        except BaseException as error:
            self._forget()
            if not isinstance(error, KeyboardInterrupt):
                raise
            raise TrainingInterrupted(
                f"fit was interrupted: this {type(self).__name__} is not fitted."
                f"{self._after_interrupt()}"
            ) from None
        return self

    def _check_input(
        self, X: object, class_names: Sequence[str] | None
    ) -> tuple[ConceptSpace | ImageSource, tuple[str, ...]]:
        """What can be fitted to, and the class names."""
        if isinstance(X, ConceptSpace):
            space = check_concept_space(X, self, min_images=1)
            for given in (self.class_names, class_names):
                if given is None:
                    continue
                check_ordered(given)
                if tuple(given) != space.class_names:
                    raise ClassNamesError(
                        f"class_names ({len(given)}) differ from those of the ConceptSpace "
                        f"({space.n_classes}). Give them to CLIPEncoder only."
                    )
            return space, resolve_class_names(space.class_names, None)
        source, parameter = check_images(X, self), self.class_names
        if parameter is None and self.encoder is not None:
            parameter = self.encoder.class_names
        return source, resolve_class_names(parameter, class_names, len(source))

    def _read_labels(
        self,
        y: Sequence | None,
        class_names: tuple[str, ...],
        images: ConceptSpace | ImageSource,
    ) -> tuple[LabelCodec, np.ndarray]:
        """How labels are written, and indices into the class names; -1 where not learned from."""
        n_labels = expected_n_labels(y, images)
        if self._uses_labels:
            codec, labels = LabelCodec.from_labels(y, class_names, n_labels)
        else:
            codec = LabelCodec.kind_only(y, class_names, n_labels)
            labels = np.full(n_labels, UNLABELED, dtype=np.int64)
        self._check_labels(labels_of_rows(labels, images), class_names)
        return codec, labels

    def _forget(self) -> None:
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)

    # -- encoding

    def _make_encoder(self) -> CLIPEncoder:
        """Encoder with this classifier's backbone and device, where it names none itself."""
        encoder = CLIPEncoder() if self.encoder is None else clone(self.encoder)
        for name in ("backbone", "device"):
            own, given = getattr(self, name), getattr(encoder, name)
            if given == _AUTO:
                encoder.set_params(**{name: own})
            elif own != _AUTO and os.fspath(own) != os.fspath(given):
                raise ValueError(
                    f"{name}={own!r} and the encoder's {name}={given!r} differ. Name it in one "
                    "place only."
                )
        return encoder.set_params(verbose=max(encoder.verbose, self.verbose))

    def _encode(
        self, images: ConceptSpace | ImageSource, class_names: tuple[str, ...]
    ) -> ConceptSpace:
        """Encode as a CLIPEncoder in front of this classifier does."""
        if isinstance(images, ConceptSpace):
            return images
        encoder = self._make_encoder().set_params(class_names=class_names)
        return encoder.fit_transform(images)

    def _encode_new(self, images: ConceptSpace | ImageSource) -> np.ndarray:
        """Features (n, d) of images that are to be predicted: every one has to be readable."""
        if isinstance(images, ConceptSpace):
            return images.image_features
        encoder = self._make_encoder()
        with open_feature_store(encoder.cache_dir) as store:
            features, _ = encode_images(
                self.backbone_,
                images,
                store,
                batch_size=encoder.batch_size,
                n_jobs=encoder.n_jobs,
                verbose=encoder.verbose,
            )
        return features

    @property
    def backbone_(self) -> Backbone:
        """The frozen model, loaded once per process and not part of the pickled classifier."""
        check_is_fitted(self)
        return reload_backbone(
            self.backbone_name_,
            self.backbone_id_,
            device=self._make_encoder().device,
            owner=f"what this {type(self).__name__} was fitted to",
        )

    # -- prediction

    def _read(self, X: object) -> ConceptSpace | ImageSource:
        """New images, checked against those that were fitted to."""
        check_is_fitted(self)
        if not isinstance(X, ConceptSpace):
            return check_images(X, self).limited(self._make_encoder().max_pixels)
        space, name = check_concept_space(X, self, min_images=1), type(self).__name__
        check_same_backbone(space.backbone_id, self.backbone_id_, name=space.backbone, owner=name)
        check_fitted_width(space, self, self.n_features_in_)
        return space

    def _scores(self, X: object) -> np.ndarray:
        """Logits with columns in the order of ``classes_``."""
        return self._logits(self._read(X))[:, self._codec.column_order]

    def decision_function(self, X: object) -> np.ndarray:
        """Logits of the classes; if probabilities are averaged, their logarithms.

        Parameters
        ----------
        X : sequence of images of length n_images, or ConceptSpace
            As :meth:`fit` takes it.

        Returns
        -------
        ndarray of shape (n_images, n_classes), or (n_images,) with two classes, dtype float32
            Columns in the order of ``classes_``. With two classes, the second logit minus the
            first.
        """
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict_proba(self, X: object) -> np.ndarray:
        """Probabilities of the classes.

        Parameters
        ----------
        X : sequence of images of length n_images, or ConceptSpace
            As :meth:`fit` takes it.

        Returns
        -------
        ndarray of shape (n_images, n_classes), dtype float64
            Columns in the order of ``classes_``.
        """
        return self._probabilities(self._scores(X))

    def _probabilities(self, scores: np.ndarray) -> np.ndarray:
        return softmax(scores.astype(np.float64) / self._temperature, axis=1)

    def predict(self, X: object, *, reject: float = 0.0) -> np.ndarray:
        """Most probable class of each image.

        Parameters
        ----------
        X : sequence of images of length n_images, or ConceptSpace
            As :meth:`fit` takes it.
        reject : float, default=0.0
            If the probability of the most probable class is below this threshold in [0, 1], the
            image gets no class.

        Returns
        -------
        ndarray of shape (n_images,)
            Names or indices, as in ``y`` of :meth:`fit`; names if there was no ``y``. A rejected
            image gets None instead of a name, in an array of objects, or -1 instead of an index;
            :meth:`fit` accepts these as unlabeled.

        Raises
        ------
        ValueError
            If `reject` is not in [0, 1].
        """
        if not 0 <= reject <= 1:
            raise ValueError(f"expected reject in [0, 1], a probability, got {reject!r}.")
        scores = self._scores(X)
        labels = self.classes_[scores.argmax(axis=1)]
        if not reject:
            return labels
        doubtful = self._probabilities(scores).max(axis=1) < reject
        if self._codec.kind == "name":
            labels = labels.astype(object)
        labels[doubtful] = UNLABELED if self._codec.kind == "index" else None
        return labels

    def score(self, X: Any, y: Sequence, sample_weight: np.ndarray | None = None) -> float:
        """Accuracy on the labeled images.

        Parameters
        ----------
        X : sequence of images of length n_images, or ConceptSpace
            As :meth:`fit` takes it.
        y : sequence of length n_images
            Class names or indices into ``class_names_``; images marked -1 or None do not count.
        sample_weight : array-like of shape (n_images,) or None, default=None
            Finite numbers of at least 0.

        Returns
        -------
        float
            In [0, 1].

        Raises
        ------
        LabelError
            If a label is no class.
        ValueError
            If no image is labeled, or the weights are invalid.
        """
        check_is_fitted(self)
        _, truth = LabelCodec.from_labels(y, self.class_names_, len(X))
        weight = _checked_weights(sample_weight, len(truth))
        labeled = truth != UNLABELED
        if not labeled.any():
            raise ValueError("score expected at least one labeled image, got none.")
        if not weight[labeled].any():
            raise ValueError(
                "score expected a sample_weight above 0 of at least one labeled image, got 0 of "
                f"all {labeled.sum()}."
            )
        predicted = self._codec.encode(self.predict(X).tolist())
        return float(np.average(predicted[labeled] == truth[labeled], weights=weight[labeled]))

    # -- scikit-learn's interface

    def set_params(self, **params: Any) -> ImageClassifier:
        """Set parameters, including nested ones such as ``encoder__template``.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self : estimator

        Raises
        ------
        ValueError
            If there is no such parameter, or no such object.
        """
        for name in params:
            owner, _, nested = name.partition("__")
            value = params.get(owner, getattr(self, owner, self))
            if nested and not isinstance(value, BaseEstimator):
                raise ValueError(
                    f"{name} cannot be set, as {owner}={value!r} is no object with parameters of "
                    f"its own. Pass one as {owner} first."
                )
        return super().set_params(**params)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # images, or a ConceptSpace
        tags.target_tags.required = self._uses_labels
        return tags


def _checked_weights(sample_weight: np.ndarray | None, n_images: int) -> np.ndarray:
    if sample_weight is None:
        return np.ones(n_images)
    try:
        weight = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"expected sample_weight as {n_images} numbers, one for each image, got "
            f"{sample_weight!r:.80}."
        ) from None
    if weight.shape != (n_images,):
        raise ValueError(
            f"expected sample_weight of shape ({n_images},), one for each image, got "
            f"{weight.shape}."
        )
    wrong = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(wrong):
        raise ValueError(
            "expected sample_weight of finite numbers of at least 0, got "
            f"{weight[wrong[0]]:g} for image {wrong[0]}. Leave an image out by a weight of 0."
        )
    return weight
