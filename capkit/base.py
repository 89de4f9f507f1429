"""What the stages between :class:`~capkit.CLIPEncoder` and the classifier have in common."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from capkit.space import ConceptSpace

__all__ = ["ConceptStage", "check_concept_space"]


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


class ConceptStage(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """Base of the transformers that take a ConceptSpace and return one."""

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
        tags.requires_fit = True
        return tags
