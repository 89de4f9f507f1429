"""Weighting prompt templates with unlabeled images. Not in the paper."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
from scipy.special import softmax

from capkit._arrays import unit_rows
from capkit.base import check_concept_space
from capkit.exceptions import AdaptationWarning
from capkit.guard import LEAST_CLARITY, change_clarity
from capkit.space import ConceptSpace
from capkit.transduction import GaussianTransduction

__all__ = ["choose_prompts", "mix_prompts", "weigh_prompts"]

# Images whose similarities are in memory at a time.
_CHUNK_SIZE = 8192


def mix_prompts(prompt_features: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Combine the text features of several prompts into one per class.

    Parameters
    ----------
    prompt_features : ndarray of shape (n_prompts, n_classes, n_features)
        Features of unit length.
    weights : ndarray of shape (n_prompts, n_classes) or None, default=None
        None weights all prompts equally, the usual ensemble.

    Returns
    -------
    ndarray of shape (n_classes, n_features), dtype float32
        Unit rows.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.prompt_choice import mix_prompts
    >>> features = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> mix_prompts(features, np.array([[3.0], [4.0]]))
    array([[0.6, 0.8]], dtype=float32)
    """
    if weights is None:
        return unit_rows(prompt_features.mean(axis=0).astype(np.float32))
    return unit_rows(np.einsum("pc,pcd->cd", weights, prompt_features).astype(np.float32))


def weigh_prompts(
    image_features: np.ndarray, prompt_features: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Weight the prompts of each class by the labels that they give.

    For each class and prompt, count the images whose zero-shot label agrees with the given one if
    this class uses only this prompt and every other class the mean of its prompts. The weights are
    a softmax over the prompts of these counts, in standard deviations from their mean.

    Parameters
    ----------
    image_features : ndarray of shape (n_images, n_features)
        Unit rows.
    prompt_features : ndarray of shape (n_prompts, n_classes, n_features)
        Features of unit length.
    labels : ndarray of shape (n_images,), int
        Labels of the images that are better than those of the mean prompt, such as ``labels_`` of
        :class:`~capkit.GaussianTransduction`.

    Returns
    -------
    ndarray of shape (n_prompts, n_classes)
        Weights, which sum to 1 over the prompts.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.prompt_choice import weigh_prompts
    >>> images = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> prompts = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    >>> weigh_prompts(images, prompts, np.array([0, 1]))
    array([[0.88, 0.5 ],
           [0.12, 0.5 ]])
    """
    n_prompts, n_classes, _ = prompt_features.shape
    mean_texts = mix_prompts(prompt_features)
    right = np.zeros((n_prompts, n_classes))
    for start in range(0, len(image_features), _CHUNK_SIZE):
        images = image_features[start : start + _CHUNK_SIZE]
        truth = labels[start : start + _CHUNK_SIZE]
        similarity = images @ mean_texts.T
        for label in range(n_classes):
            others = similarity.copy()
            others[:, label] = -np.inf
            taken = prompt_features[:, label] @ images.T > others.max(axis=1)
            right_else = others.argmax(axis=1) == truth
            right[:, label] += np.where(taken, truth == label, right_else).sum(axis=1)
    spread = right.std(axis=0)
    return softmax((right - right.mean(axis=0)) / np.where(spread > 0, spread, 1.0), axis=0)


def choose_prompts(space: ConceptSpace, prompt_features: np.ndarray) -> ConceptSpace:
    """Give a space the mixture of prompts that suits its images, without any labels.

    :class:`~capkit.GaussianTransduction` labels the images with the mean of all prompts, and
    :func:`weigh_prompts` weights the prompts of each class by these labels. If the resulting label
    changes are not clear (:func:`~capkit.guard.change_clarity`), all prompts are weighted equally.

    Parameters
    ----------
    space : ConceptSpace
    prompt_features : array-like of shape (n_prompts, n_classes, n_features)
        Text features of each template filled with each class name, in the order of the space's
        classes.

    Returns
    -------
    ConceptSpace
        With new text features, and without prompts, because no single text is behind a feature.
        Results of earlier stages are dropped, because they belong to the old texts.

    Raises
    ------
    ValueError
        If `prompt_features` do not match the space, or are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.datasets import make_concept_space
    >>> from capkit.prompt_choice import choose_prompts
    >>> problem = make_concept_space(n_mismatched=0, random_state=0)
    >>> rng = np.random.default_rng(0)
    >>> texts = problem.space.text_features
    >>> prompts = texts + 0.1 * rng.standard_normal((20, *texts.shape))
    >>> chosen = choose_prompts(problem.space, prompts)
    >>> bool((chosen.predict() == problem.target).mean() > 0.95)
    True
    """
    transduction = GaussianTransduction()
    check_concept_space(space, transduction, min_images=1)
    features = np.asarray(prompt_features, dtype=np.float32)
    if features.ndim != 3 or not len(features) or features.shape[1:] != space.text_features.shape:
        raise ValueError(
            f"expected prompt_features of shape (n_prompts, {space.n_classes}, {space.shape[1]}), "
            f"a row of texts for each template, got {features.shape}."
        )
    if not np.isfinite(features).all():
        raise ValueError("expected finite prompt_features, got NaN or infinity.")
    features = unit_rows(features.reshape(-1, space.shape[1])).reshape(features.shape)
    mean = dataclasses.replace(
        space,
        text_features=mix_prompts(features),
        prompts=None,
        mismatch=None,
        alignment=None,
        margin=None,
        transduction=None,
    )
    labels = transduction.fit(mean).labels_
    weights = weigh_prompts(mean.image_features, features, labels)
    mixed = dataclasses.replace(mean, text_features=mix_prompts(features, weights))
    before, after = mean.predict(), mixed.predict()
    clarity = change_clarity(mean.image_features, before, after, mean.n_classes)
    if clarity >= LEAST_CLARITY:
        return mixed
    if (before != after).any():
        warnings.warn(
            "all prompts count alike: weighed by these images they change labels that are not "
            f"clear ({clarity:.2f} < {LEAST_CLARITY}). More images may tell more.",
            AdaptationWarning,
            stacklevel=2,
        )
    return mean
