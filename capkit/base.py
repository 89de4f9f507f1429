"""What stages have in common, and what classifiers have in common."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from capkit._validation import UNLABELED, LabelCodec, resolve_class_names
from capkit.exceptions import ClassNamesError
from capkit.images import ImageSource
from capkit.space import ConceptSpace

__all__ = [
    "ConceptStage",
    "ImageClassifierMixin",
    "check_concept_space",
    "check_fitted_classes",
    "check_images",
    "expected_n_labels",
]


def check_concept_space(X: object, owner: object, *, min_images: int = 0) -> ConceptSpace:
    """Return `X` if it is a usable :class:`~capkit.ConceptSpace`, else say what is expected.

    Parameters
    ----------
    X : object
    owner : object
        The estimator that asks; its class is named in the message.
    min_images : int, default=0
        Least number of images.

    Returns
    -------
    ConceptSpace

    Raises
    ------
    TypeError
        If `X` is not a ConceptSpace.
    ValueError
        If a feature is NaN or infinite, or there are too few images.
    """
    name = type(owner).__name__
    if not isinstance(X, ConceptSpace):
        raise TypeError(
            f"{name} expected a ConceptSpace, got {type(X).__name__}. Put CLIPEncoder before it, "
            "or build one: ConceptSpace(image_features, text_features, class_names)."
        )
    for field in ("image_features", "text_features"):
        if not np.isfinite(getattr(X, field)).all():
            raise ValueError(
                f"{name} expected finite features, got NaN or infinity in {field} of the "
                "ConceptSpace. Look at the images and the backbone that produced them."
            )
    if len(X) < min_images:
        raise ValueError(f"{name} expected at least {min_images} image(s), got {len(X)}.")
    return X


def check_images(
    X: object, owner: Any, class_names: Sequence[str] | None
) -> tuple[ConceptSpace | ImageSource, tuple[str, ...]]:
    """Return what a classifier can fit to, and its class names, or say what is expected.

    Parameters
    ----------
    X : sequence of images, or ConceptSpace
    owner : estimator
        Who asks; its ``class_names`` are looked at.
    class_names : sequence of str or None
        Argument of ``fit``.

    Returns
    -------
    images : ConceptSpace or ImageSource
        At least one image.
    class_names : tuple of str

    Raises
    ------
    ClassNamesError
        If they are missing, cannot be right, or are not those of the ConceptSpace.
    TypeError, ValueError
        If `X` holds no images.
    """
    if isinstance(X, ConceptSpace):
        space = check_concept_space(X, owner, min_images=1)
        for given in (owner.class_names, class_names):
            if given is not None and tuple(given) != space.class_names:
                raise ClassNamesError(
                    f"class_names ({len(given)}) differ from those of the ConceptSpace "
                    f"({space.n_classes}). Give them to CLIPEncoder only."
                )
        return space, resolve_class_names(space.class_names, None)
    source = ImageSource.from_user(X)
    if not len(source):
        raise ValueError(
            f"Found array with 0 sample(s): {type(owner).__name__} expected at least 1 image."
        )
    return source, resolve_class_names(owner.class_names, class_names, len(source))


def expected_n_labels(y: Sequence | None, images: ConceptSpace | ImageSource) -> int:
    """Length that labels of these images may have.

    Parameters
    ----------
    y : sequence or None
    images : ConceptSpace or ImageSource

    Returns
    -------
    int
        The number of images; of a space in which unreadable images are left out also the length
        of `y`, if that can be the number of all images.
    """
    rows = images.rows if isinstance(images, ConceptSpace) else None
    if rows is not None and isinstance(y, Sized) and len(y) > rows.max():
        return len(y)
    return len(images)


def check_fitted_classes(space: ConceptSpace, owner: object, class_names: tuple[str, ...]) -> None:
    """Refuse a space of other classes than those that a stage was fitted on.

    Parameters
    ----------
    space : ConceptSpace
    owner : object
        The fitted stage; its class is named in the message.
    class_names : tuple of str
        What it was fitted on.

    Raises
    ------
    ValueError
        If the names or their order differ.
    """
    if space.class_names != class_names:
        raise ValueError(
            f"{type(owner).__name__} was fitted on the {len(class_names)} classes "
            f"{class_names!r:.80}, got {space.n_classes}: {space.class_names!r:.80}. Fit it "
            "again, or give CLIPEncoder the same class_names in the same order."
        )


class ConceptStage(
    OneToOneFeatureMixin,
    TransformerMixin,
    BaseEstimator,
    auto_wrap_output_keys=None,  # type: ignore[call-arg]
):
    """Base of the transformers that take a ConceptSpace and return one."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Not even set_config(transform_output="pandas") makes a table of a ConceptSpace.
        super().__init_subclass__(auto_wrap_output_keys=None, **kwargs)

    def set_output(self, *, transform: str | None = None) -> ConceptStage:
        """Do nothing: a stage gives a ConceptSpace whatever container is asked for.

        Present so that ``Pipeline.set_output`` reaches the steps whose output is an array.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None

        Returns
        -------
        self : estimator
        """
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []  # float32, whatever the images are
        return tags


class ImageClassifierMixin(ClassifierMixin):
    """Predictions of a classifier that has a score for each image and class.

    The classifier sets ``class_names_``, ``classes_`` and ``_codec`` and has a method
    ``_scores(X)``: logits of shape (n_images, n_classes), columns in the order of ``classes_``.
    """

    class_names_: tuple[str, ...]
    classes_: np.ndarray
    _codec: LabelCodec

    def _scores(self, X: object) -> np.ndarray:
        raise NotImplementedError

    def decision_function(self, X: object) -> np.ndarray:
        """Logits of the classes; where probabilities are averaged, their logarithms.

        Parameters
        ----------
        X : sequence of images of length n_images, or ConceptSpace
            As :meth:`fit` takes it.

        Returns
        -------
        ndarray of shape (n_images, n_classes), or (n_images,) with two classes, dtype float32
            Columns in the order of ``classes_``. With two classes, the second's minus the
            first's.
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
        return softmax(self._scores(X).astype(np.float64), axis=1)

    def predict(self, X: object) -> np.ndarray:
        """Most probable class of each image.

        Parameters
        ----------
        X : sequence of images of length n_images, or ConceptSpace
            As :meth:`fit` takes it.

        Returns
        -------
        ndarray of shape (n_images,)
            In the kind that ``y`` had at :meth:`fit`; class names where there was none.
        """
        best = self._scores(X).argmax(axis=1)
        return self.classes_[best]

    def score(self, X: Any, y: Sequence, sample_weight: np.ndarray | None = None) -> float:
        """Accuracy on the labeled images.

        Parameters
        ----------
        X : sequence of images of length n_images, or ConceptSpace
            As :meth:`fit` takes it.
        y : sequence of length n_images
            Class names or indices into ``class_names_``; images marked -1 or None do not count.
        sample_weight : array-like of shape (n_images,) or None, default=None

        Returns
        -------
        float
            In [0, 1].

        Raises
        ------
        LabelError
            If a label is no class.
        ValueError
            If no image is labeled.
        """
        check_is_fitted(self)
        _, truth = LabelCodec.from_labels(y, self.class_names_, len(X))
        predicted = self._codec.encode(self.predict(X).tolist())
        weight = np.ones(len(truth)) if sample_weight is None else np.asarray(sample_weight)
        labeled = truth != UNLABELED
        if not weight[labeled].sum() > 0:
            raise ValueError("score expected at least one labeled image, got none.")
        return float(np.average(predicted[labeled] == truth[labeled], weights=weight[labeled]))
