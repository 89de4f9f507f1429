"""Concept spaces whose truth is known, in the geometry of CLIP's embeddings."""

from __future__ import annotations

import numpy as np
from sklearn.utils import Bunch, check_random_state

from capkit._arrays import unit_rows
from capkit.space import ConceptSpace

__all__ = ["make_concept_space"]

# Length of the mean of a modality, next to class directions of length one: CLIP's images lie in
# one narrow cone and its texts in another.
_CONE = 1.5

# What a mismatched text keeps of its class's direction, next to the wrong one of length one: too
# little to be predicted, enough to tell two mismatched classes apart.
_TRACE = 0.2

# Classes of one group resemble each other.
_GROUP_SIZE = 5


def make_concept_space(
    n_images: int = 1000,
    n_classes: int = 20,
    n_features: int = 64,
    *,
    n_mismatched: int = 2,
    noise: float = 1.5,
    confusion: float = 0.5,
    text_noise: float = 0.3,
    logit_scale: float = 100.0,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Generate images and classes with planted mismatched classes and planted confusions.

    Images and texts lie in two narrow cones, a modality gap apart. The images of a class are
    spread around the class's direction. Its text points into the same direction; that of a
    mismatched class keeps a trace of it and points to where no image is. Classes come in groups
    of five that share a part of their direction. Every class has the same number of images, up
    to one.

    Parameters
    ----------
    n_images : int, default=1000
    n_classes : int, default=20
    n_features : int, default=64
        From ``n_classes + n_mismatched + ceil(n_classes / 5) + 2`` on, the directions are at right
        angles with each other; with fewer features they point anywhere.
    n_mismatched : int, default=2
        Number of classes whose text is moved elsewhere.
    noise : float, default=1.5
        Length of the noise of an image, where the class's direction has length 1.
    confusion : float, default=0.5
        Length of the direction that the classes of a group share.
    text_noise : float, default=0.3
        Length of the noise of a text.
    logit_scale : float, default=100.0
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    Bunch
        space : ConceptSpace
            Without images or prompts: features only.
        target : ndarray of shape (n_images,), dtype int64
            True class of each image.
        mismatched : ndarray of shape (n_mismatched,), dtype int64
            Classes whose text was moved, ascending.
        fitting_text_features : ndarray of shape (n_classes, n_features), dtype float32
            The text features as they were before.

    Raises
    ------
    ValueError
        If `n_mismatched` is more than `n_classes`.

    Examples
    --------
    >>> from capkit.datasets import make_concept_space
    >>> problem = make_concept_space(random_state=0)
    >>> problem.space
    ConceptSpace(n_images=1000, n_classes=20, n_features=64)
    >>> predicted = problem.space.predict()
    >>> bool((predicted == problem.target).mean() > 0.8)
    True
    """
    n_groups = -(-n_classes // _GROUP_SIZE)
    n_directions = n_classes + n_mismatched + n_groups + 2
    if not 0 <= n_mismatched <= n_classes:
        raise ValueError(f"expected n_mismatched from 0 to {n_classes}, got {n_mismatched}")
    rng = check_random_state(random_state)
    directions = _directions(rng, n_directions, n_features)
    own, elsewhere, shared, means = np.split(
        directions, np.cumsum([n_classes, n_mismatched, n_groups])
    )
    concepts = unit_rows(own + confusion * shared[np.arange(n_classes) // _GROUP_SIZE])
    mismatched = np.sort(rng.permutation(n_classes)[:n_mismatched])
    text_concepts = concepts.copy()
    text_concepts[mismatched] = unit_rows(elsewhere + _TRACE * own[mismatched])
    text_offsets = _CONE * means[1] + _noise(rng, n_classes, n_features, text_noise)
    target = rng.permutation(np.arange(n_images) % n_classes)
    images = concepts[target] + _noise(rng, n_images, n_features, noise)
    space = ConceptSpace(
        image_features=unit_rows(_CONE * means[0] + images),
        text_features=unit_rows(text_offsets + text_concepts),
        class_names=tuple(f"class {index}" for index in range(n_classes)),
        logit_scale=logit_scale,
    )
    return Bunch(
        space=space,
        target=target.astype(np.int64),
        mismatched=mismatched.astype(np.int64),
        fitting_text_features=unit_rows(text_offsets + concepts).astype(np.float32),
    )


def _directions(rng: np.random.RandomState, n: int, n_features: int) -> np.ndarray:
    drawn = rng.standard_normal((n_features, n))
    return np.linalg.qr(drawn)[0].T if n <= n_features else unit_rows(drawn.T)


def _noise(rng: np.random.RandomState, n_rows: int, n_features: int, length: float) -> np.ndarray:
    return length / np.sqrt(n_features) * rng.standard_normal((n_rows, n_features))
