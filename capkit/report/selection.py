"""Which images a report shows: of each class, of confused pairs, and in which order of need."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from capkit.metrics import expected_confusions
from capkit.report.content import ReportContent

__all__ = ["ConfusedPair", "class_examples", "confused_pairs", "rows_by_need"]

# Images that are shown of each class, of each mismatched class's cluster, and of each side of a
# confused pair.
N_CLASS_EXAMPLES, N_CLUSTER_IMAGES, N_PAIR_IMAGES = 4, 12, 4

# Doubtful images whose pictures come before those of any other section.
_FIRST_DOUBTFUL = 500
# Pairs that are shown, and how many images at least may be confused in each.
_MOST_PAIRS, _FEWEST_CONFUSED = 6, 0.5


class ConfusedPair(NamedTuple):
    """Two classes between which images may be confused."""

    first: int
    second: int
    n_expected: float  # images, by metrics.expected_confusions
    first_rows: np.ndarray  # labeled as the first, those most like the second ahead
    second_rows: np.ndarray


def class_examples(content: ReportContent) -> list[np.ndarray]:
    """Images of which the model is surest in each class.

    Parameters
    ----------
    content : ReportContent

    Returns
    -------
    list of ndarray of shape (at most 4,), dtype int64
        For each class, the surest first.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit import ConceptSpace
    >>> from capkit.images import ImageSource
    >>> from capkit.report import ReportContent
    >>> images = ImageSource.from_user(np.zeros((2, 8, 8, 3), dtype=np.uint8))
    >>> space = ConceptSpace(np.eye(2), np.eye(2), ["cat", "dog"], images=images)
    >>> content = ReportContent.from_space(space, image_names=["a.jpg", "b.jpg"])
    >>> [rows.tolist() for rows in class_examples(content)]
    [[0], [1]]
    """
    surest = np.argsort(-content.confidence, kind="stable")
    by_class = surest[np.argsort(content.labels[surest], kind="stable")]
    counts = np.bincount(content.labels, minlength=len(content.class_names))
    ends = np.cumsum(counts)
    return [
        by_class[end - count : end][:N_CLASS_EXAMPLES]
        for count, end in zip(counts, ends, strict=True)
    ]


def confused_pairs(content: ReportContent) -> list[ConfusedPair]:
    """Pairs of classes between which most images may be confused.

    Parameters
    ----------
    content : ReportContent

    Returns
    -------
    list of ConfusedPair
        At most 6, the most confused first; none of less than half an image.
    """
    confusions = np.triu(expected_confusions(content.probabilities))
    most = np.argsort(-confusions, axis=None, kind="stable")[:_MOST_PAIRS]
    pairs = []
    for first, second in zip(*np.unravel_index(most, confusions.shape), strict=True):
        n_expected = float(confusions[first, second])
        if n_expected >= _FEWEST_CONFUSED:
            sides = _most_like(content, first, second), _most_like(content, second, first)
            pairs.append(ConfusedPair(int(first), int(second), n_expected, *sides))
    return pairs


def _most_like(content: ReportContent, label: int, other: int) -> np.ndarray:
    """Images labeled as one class, those most probably of the other ahead."""
    rows = np.flatnonzero(content.labels == label)
    order = np.argsort(-content.probabilities[rows, other], kind="stable")
    return rows[order[:N_PAIR_IMAGES]]


def rows_by_need(content: ReportContent) -> np.ndarray:
    """All images, those whose picture is needed most ahead.

    The most doubtful ones come first, then what the sections on classes, mismatched classes and
    pairs show, then the rest, again the doubtful ahead.

    Parameters
    ----------
    content : ReportContent

    Returns
    -------
    ndarray of shape (n,), dtype int64
        Each image once.
    """
    doubtful = content.doubtful_first[: content.is_doubtful.sum()]
    parts = [doubtful[:_FIRST_DOUBTFUL], *class_examples(content)]
    parts += [found.rows[:N_CLUSTER_IMAGES] for found in content.mismatched]
    for pair in confused_pairs(content):
        parts += [pair.first_rows, pair.second_rows]
    rows = np.concatenate([*parts, content.doubtful_first])
    _, first_places = np.unique(rows, return_index=True)
    return rows[np.sort(first_places)]
