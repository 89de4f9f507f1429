"""Why the label of an image may be wrong, in words that a person can act on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from capkit._validation import UNLABELED

__all__ = ["reasons_for_doubt"]

# Probability of the label below which no class fits well, and lead over the runner-up below which
# two classes fit about equally well.
_WEAK, _CLOSE = 0.5, 0.25
# Probability that another class must reach before a label given by a person is doubted.
_SURE = 0.9
# An image fits no class if its similarity to the nearest class name is this many interquartile
# ranges below the lower quartile of all images, given at least this number of images.
_FAR, _FEWEST_IMAGES = 0.5, 20


def reasons_for_doubt(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    zero_shot: np.ndarray | None = None,
    known: np.ndarray | None = None,
    similarity: np.ndarray | None = None,
) -> list[str]:
    """For each image, the reasons to doubt its label.

    Parameters
    ----------
    probabilities : ndarray of shape (n_images, n_classes)
        Columns in the order of `class_names`; rows sum to 1.
    labels : ndarray of shape (n_images,), int
        Final labels of the images, as indices into `class_names`.
    class_names : sequence of str
    zero_shot : ndarray of shape (n_images,), int, or None, default=None
        Labels by the class names alone; None skips this check.
    known : ndarray of shape (n_images,), int, or None, default=None
        Labels that a person gave, -1 for images without one. They are only doubted if the model is
        confident of another class.
    similarity : ndarray of shape (n_images,) or None, default=None
        Similarity of each image to the class name that is most similar to it. It often reveals an
        image that belongs to none of the classes; probabilities cannot, because they sum to 1 over
        the classes. None skips this check.

    Returns
    -------
    list of str
        Reasons joined by "; ", or "" if there are none; of length n_images.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.doubts import reasons_for_doubt
    >>> probabilities = np.array([[0.95, 0.05], [0.45, 0.55]])
    >>> reasons_for_doubt(probabilities, np.array([0, 1]), class_names=["cat", "dog"])
    ['', 'may be cat as well (45%)']
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    others = probabilities.copy()
    others[rows, labels] = -1.0
    runner_up = others.argmax(axis=1)
    lead = own - others[rows, runner_up]
    strange = _far_below_others(similarity, len(labels))
    reasons = []
    for row, label in enumerate(labels.tolist()):
        other = class_names[runner_up[row]]
        if known is not None and known[row] != UNLABELED:
            doubted = probabilities[row, runner_up[row]] >= _SURE
            reasons.append(f"labeled by hand, but looks like {other}" if doubted else "")
            continue
        found = []
        if lead[row] < _CLOSE:
            found.append(f"may be {other} as well ({probabilities[row, runner_up[row]]:.0%})")
        elif own[row] < _WEAK:
            found.append(f"no class fits well (the best {own[row]:.0%})")
        if zero_shot is not None and zero_shot[row] != label:
            found.append(f"{class_names[zero_shot[row]]} by the names alone")
        if strange[row]:
            found.append("may be of no class")
        reasons.append("; ".join(found))
    return reasons


def _far_below_others(similarity: np.ndarray | None, n_images: int) -> np.ndarray:
    if similarity is None or n_images < _FEWEST_IMAGES:
        return np.zeros(n_images, dtype=bool)
    lower, upper = np.percentile(similarity, [25, 75])
    return similarity < lower - _FAR * (upper - lower)
