"""What the stages have in common."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin

from capkit.images import ImageSource
from capkit.space import ConceptSpace

__all__ = [
    "ConceptStage",
    "check_concept_space",
    "check_fitted_classes",
    "check_fitted_width",
    "check_images",
    "expected_n_labels",
    "labels_of_rows",
]


def check_concept_space(X: object, owner: object, *, min_images: int = 0) -> ConceptSpace:
    """Return `X` if it is a usable :class:`~capkit.ConceptSpace`, otherwise raise.

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
            f"{name} expected a ConceptSpace, got {type(X).__name__}. Put CLIPEncoder with "
            "class_names before it (without them it gives an array of features), or build one: "
            "ConceptSpace(image_features, text_features, class_names)."
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


def check_images(X: object, owner: object) -> ImageSource:
    """Return the images that a user gave as an ImageSource, or raise if they are none.

    Parameters
    ----------
    X : sequence of images
    owner : object
        The estimator that asks; its class is named in the message.

    Returns
    -------
    ImageSource
        At least one image.

    Raises
    ------
    TypeError, ValueError
        If `X` holds no images.
    """
    source = ImageSource.from_user(X)
    if not len(source):
        raise ValueError(
            f"Found array with 0 sample(s): {type(owner).__name__} expected at least 1 image."
        )
    return source


def check_fitted_classes(space: ConceptSpace, owner: object, class_names: tuple[str, ...]) -> None:
    """Refuse a space whose classes differ from those of a stage's fit.

    Parameters
    ----------
    space : ConceptSpace
    owner : object
        The fitted stage; its class is named in the message.
    class_names : tuple of str
        The classes that it was fitted on.

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


def check_fitted_width(space: ConceptSpace, owner: object, n_features: int) -> None:
    """Refuse a space whose number of features differs from that of a stage's fit.

    Parameters
    ----------
    space : ConceptSpace
    owner : object
        The fitted stage; its class is named in the message.
    n_features : int
        Number of features that it was fitted on.

    Raises
    ------
    ValueError
        If the numbers differ; with scikit-learn's message.
    """
    if space.shape[1] != n_features:
        raise ValueError(
            f"X has {space.shape[1]} features, but {type(owner).__name__} is expecting "
            f"{n_features} features as input. Give it features of the model that it was fitted "
            "on, or fit it again."
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
        """Do nothing: a stage returns a ConceptSpace whatever container is requested.

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


def expected_n_labels(y: object, images: ConceptSpace | ImageSource) -> int:
    """Number of labels that these images may have.

    The number of images. For a space without the unreadable images, also the length of `y`, if
    that can be the number of all images.

    Parameters
    ----------
    y : object
    images : ConceptSpace or ImageSource

    Returns
    -------
    int
    """
    rows = images.sample_indices if isinstance(images, ConceptSpace) else None
    if rows is not None and isinstance(y, Sized) and len(y) > rows.max():
        return len(y)
    return len(images)


def labels_of_rows(labels: np.ndarray, images: ConceptSpace | ImageSource) -> np.ndarray:
    """Labels of these images, given their own labels or those of all images behind a space.

    Parameters
    ----------
    labels : ndarray of shape (n_labels,)
    images : ConceptSpace or ImageSource

    Returns
    -------
    ndarray of shape (n_images,)
    """
    if len(labels) == len(images) or isinstance(images, ImageSource):
        return labels
    return labels[images.sample_indices]
