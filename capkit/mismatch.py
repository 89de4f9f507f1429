"""Finding classes whose text does not fit their images, without labels (method section 1)."""

from __future__ import annotations

import dataclasses
import math
import warnings
from numbers import Integral

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, RealNotInt, StrOptions
from sklearn.utils.validation import check_is_fitted

from capkit._clustering import ScratchClusters, WarmClusters
from capkit._threads import one_thread
from capkit.base import (
    ConceptStage,
    check_concept_space,
    check_fitted_classes,
    check_fitted_width,
)
from capkit.space import ConceptSpace, MismatchResult

__all__ = [
    "MismatchDetector",
    "ZeroShotSummary",
    "fewest_predicted",
    "images_of_match",
    "match_classes",
    "n_classes_left",
    "pair_with_centers",
    "summarize_predictions",
    "surest_match",
]

# Images whose probabilities are in memory at a time.
_CHUNK_SIZE = 8192

# Texts this close give the same prediction for every image.
_SAME_TEXT = 1.0 - 1e-6


@dataclasses.dataclass(frozen=True)
class ZeroShotSummary:
    """Summary of the zero-shot predictions, as detection needs it.

    Attributes
    ----------
    predicted : ndarray of shape (n_images,), dtype int64
        Most probable class of each image.
    confidence : ndarray of shape (n_images,)
        Its probability.
    counts : ndarray of shape (n_classes,), dtype int64
        Number of images predicted as each class.
    mass : ndarray of shape (n_classes,)
        Sum of each class's probability over the images.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    counts: np.ndarray
    mass: np.ndarray


def summarize_predictions(space: ConceptSpace) -> ZeroShotSummary:
    """Predict every image in chunks, so that not all probabilities are in memory at once.

    Parameters
    ----------
    space : ConceptSpace

    Returns
    -------
    ZeroShotSummary
    """
    n_images = len(space)
    predicted = np.empty(n_images, dtype=np.int64)
    confidence = np.empty(n_images)
    mass = np.zeros(space.n_classes)
    for start in range(0, n_images, _CHUNK_SIZE):
        chunk = slice(start, start + _CHUNK_SIZE)
        logits = space.logit_scale * (space.image_features[chunk] @ space.text_features.T)
        probabilities = softmax(logits, axis=1)
        predicted[chunk] = probabilities.argmax(axis=1)
        confidence[chunk] = probabilities.max(axis=1)
        mass += probabilities.sum(axis=0, dtype=np.float64)
    counts = np.bincount(predicted, minlength=space.n_classes)
    return ZeroShotSummary(predicted, confidence, counts, mass)


def n_classes_left(t: int | float | None, n_classes: int) -> int:
    """Turn the parameter `t` into a number of classes.

    Parameters
    ----------
    t : int, float or None
        A number of classes, a fraction of them (rounded up), or None for ``ceil(C / 10)``.
    n_classes : int

    Returns
    -------
    int
        Less than `n_classes`.

    Raises
    ------
    ValueError
        If `t` leaves no class to match.

    Examples
    --------
    >>> from capkit.mismatch import n_classes_left
    >>> n_classes_left(None, 45), n_classes_left(0.2, 45), n_classes_left(3, 45)
    (5, 9, 3)
    """
    if t is None:
        return min(math.ceil(n_classes / 10), n_classes - 1)
    # 0.07 * 100 is a little more than 7: do not round that up to 8.
    left = int(t) if isinstance(t, Integral) else math.ceil(t * n_classes - 1e-9)
    if left >= n_classes:
        raise ValueError(
            f"t={t!r} leaves all {n_classes} classes, so that none would be matched. Expected a "
            f"number of classes up to {n_classes - 1}, or a smaller fraction."
        )
    return left


def fewest_predicted(counts: np.ndarray, mass: np.ndarray, t: int) -> np.ndarray:
    """Classes with the fewest zero-shot predictions (``Y_low_t``, method section 1).

    Parameters
    ----------
    counts : array-like of shape (n_classes,)
        Number of images predicted as each class.
    mass : array-like of shape (n_classes,)
        Sum of each class's probability; breaks ties in the counts, then the index does.
    t : int

    Returns
    -------
    ndarray of shape (t,), dtype int64
        Fewest first.

    Examples
    --------
    >>> from capkit.mismatch import fewest_predicted
    >>> fewest_predicted([5, 0, 0, 3], [4.0, 0.5, 0.2, 3.3], t=2)
    array([2, 1])
    """
    return np.lexsort((mass, counts))[:t]


def surest_match(logits: np.ndarray) -> tuple[int, int, float]:
    """Find the most probable pair of class and cluster (method section 1, steps 3 and 4).

    Parameters
    ----------
    logits : ndarray of shape (n_classes, n_clusters)
        Scaled similarities; a softmax over the clusters makes them probabilities.

    Returns
    -------
    row, cluster : int
        Ties go to the lower row, then to the lower cluster.
    probability : float

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.mismatch import surest_match
    >>> surest_match(np.log([[0.6, 0.4], [0.1, 0.9]]))
    (1, 1, 0.9)
    """
    # A row's highest probability belongs to its highest logit: one exponential per entry.
    highest = logits.max(axis=1, keepdims=True)
    inverse = np.exp(logits - highest).sum(axis=1)
    row = int(inverse.argmin())
    return row, int(logits[row].argmax()), float(1 / inverse[row])


def images_of_match(
    matched_class: int,
    predicted: np.ndarray,
    confidence: np.ndarray,
    in_cluster: np.ndarray,
    limit: int,
) -> np.ndarray:
    """Choose the images that are removed with a matched class (method section 1, step 4).

    Parameters
    ----------
    matched_class : int
    predicted : ndarray of shape (n_left,)
        Predicted class of the remaining images.
    confidence : ndarray of shape (n_left,)
        Its probability.
    in_cluster : ndarray of shape (n_left,), dtype bool
        Whether an image belongs to the matched cluster.
    limit : int
        Largest number of images.

    Returns
    -------
    ndarray of shape (at most limit,), dtype int64
        Positions of images predicted as the class: those in the cluster first, the most confident
        first, ties to the lower index. Empty for a class that is never predicted.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.mismatch import images_of_match
    >>> in_cluster = np.array([False, True, True, True])
    >>> images_of_match(7, np.array([7, 7, 7, 2]), np.array([0.9, 0.5, 0.6, 0.9]), in_cluster, 2)
    array([2, 1])
    """
    candidates = np.flatnonzero(predicted == matched_class)
    order = np.lexsort((-confidence[candidates], ~in_cluster[candidates]))
    return candidates[order[:limit]]


def pair_with_centers(similarity: np.ndarray) -> np.ndarray:
    """Pair classes and centres one to one so that the sum of similarities is largest.

    Parameters
    ----------
    similarity : array-like of shape (n_classes, n_centers)

    Returns
    -------
    ndarray of shape (n_classes,), dtype int64
        Centre of each class, -1 for classes that get none.

    Examples
    --------
    >>> from capkit.mismatch import pair_with_centers
    >>> pair_with_centers([[0.3, 0.2], [0.3, 0.1]])
    array([1, 0])
    """
    similarity = np.asarray(similarity)
    paired = np.full(len(similarity), -1, dtype=np.int64)
    classes, centers = linear_sum_assignment(similarity, maximize=True)
    paired[classes] = centers
    return paired


@dataclasses.dataclass(frozen=True)
class _Matches:
    order: np.ndarray  # classes in the order in which they were matched
    left: np.ndarray  # classes that were not matched, ascending
    confidence: np.ndarray  # (n_classes,) probability of each class's match
    centers: np.ndarray  # (n_centers, n_features) of the matched classes in order, then the rest
    center_of_class: np.ndarray  # (n_classes,) row of centers, -1 for none


def match_classes(
    clusters: ScratchClusters | WarmClusters,
    summary: ZeroShotSummary,
    logit_scale: float,
    t: int,
) -> _Matches:
    """Match classes with clusters, most confident first, until `t` remain (method section 1).

    Parameters
    ----------
    clusters : ScratchClusters or WarmClusters
        Clusters of all images, as many as there are classes; modified in place.
    summary : ZeroShotSummary
    logit_scale : float
        ``s``.
    t : int

    Returns
    -------
    _Matches
    """
    n_classes, n_images = len(summary.counts), len(summary.predicted)
    limit = max(1, n_images // n_classes)
    left = np.arange(n_classes)
    order, centers, confidence = [], [], np.zeros(n_classes)
    while len(left) > t and clusters.n_clusters:
        row, cluster, probability = surest_match(logit_scale * clusters.similarity[left])
        matched = int(left[row])
        order.append(matched)
        confidence[matched] = probability
        centers.append(clusters.center(cluster))
        images = clusters.images
        removed = images_of_match(
            matched,
            summary.predicted[images],
            summary.confidence[images],
            clusters.labels == cluster,
            limit,
        )
        clusters.shrink(removed)
        left = np.delete(left, row)

    center_of_class = np.full(n_classes, -1, dtype=np.int64)
    center_of_class[order] = np.arange(len(order))
    similarity = clusters.similarity[left]
    if similarity.size:
        confidence[left] = softmax(logit_scale * similarity, axis=1).max(axis=1)
        paired = pair_with_centers(similarity)
        center_of_class[left] = np.where(paired >= 0, len(order) + paired, -1)
    return _Matches(
        order=np.array(order, dtype=np.int64),
        left=left,
        confidence=confidence,
        centers=np.concatenate([np.reshape(centers, (len(order), -1)), clusters.centers])
        if order
        else clusters.centers,
        center_of_class=center_of_class,
    )


class MismatchDetector(ConceptStage):
    """Find the classes whose text embedding is far from their images, without labels.

    Clusters the images, matches the class and the cluster that fit together best, removes both
    together with their images, and repeats this until `t` classes remain. A remaining class is
    mismatched if it is also among the `t` classes with the fewest predictions. See the method's
    section 1.

    Parameters
    ----------
    t : int, float or None, default=None
        How many classes remain when detection stops, which is also the largest possible number of
        mismatched classes: a number, or a fraction of the classes in (0, 1), rounded up. None
        means a tenth of the classes, rounded up. 0 detects nothing.
    recluster : {"warm", "scratch"}, default="warm"
        How the remaining images are clustered after a match. "scratch" runs K-Means from scratch,
        as in the paper. "warm" continues from the remaining centres and updates only what changed;
        it runs K-Means from scratch each time a sixth of the clusters is gone. With fewer than 12
        classes that is after every match, and the two are the same.
    n_init : int, default=5
        Number of starts of each K-Means run; the best is kept. "warm" starts once with spare
        clusters instead, except for the last 11 clusters.
    max_iter : int, default=100
        Largest number of iterations of each K-Means run; at most 20 with spare clusters.
    random_state : int, RandomState instance or None, default=None
        Determines the starts of K-Means. An int gives the same result in every call.

    Attributes
    ----------
    mismatched_ : ndarray of shape (n_mismatched,), dtype int64
        Indices of the mismatched classes, ascending.
    t_ : int
        Number of classes that `t` stands for.
    class_names_ : tuple of str
        Names of the classes that the detector was fitted on.
    n_features_in_ : int
        Width ``d`` of the features.
    match_order_ : ndarray of shape (n_matched,), dtype int64
        Indices of the matched classes, first match first.
    match_confidence_ : ndarray of shape (n_classes,)
        Probability with which each class was matched; for a remaining class, its highest
        probability among the remaining clusters.
    unmatched_ : ndarray of shape (n_classes - n_matched,), dtype int64
        ``Y_final``: indices of the remaining classes, ascending.
    fewest_predicted_ : ndarray of shape (t,), dtype int64
        ``Y_low_t``: indices of the classes with the fewest predictions, fewest first.
    prediction_counts_ : ndarray of shape (n_classes,), dtype int64
        Number of images predicted as each class.
    cluster_centers_ : ndarray of shape (n_clusters, n_features), dtype float32
        Unit-norm centres: those of the matches in their order, then the remaining ones.
    class_cluster_ : ndarray of shape (n_classes,), dtype int64
        Row of `cluster_centers_` for each class: the matched cluster, or for a remaining class the
        one that a linear assignment pairs with it. -1 for a class that gets none because there are
        too few images.

    See Also
    --------
    ConceptAligner : Replaces the texts of the mismatched classes.
    capkit.inspection.MismatchDisplay : Draws why a class was called mismatched.

    Notes
    -----
    A match removes at most ``max(1, n_images // n_classes)`` images, all of them predicted as the
    matched class; a class that is never predicted removes none. Two classes with equal text cause
    a warning, because the first one gets all their predictions. With fewer images than classes
    there are as many clusters as images, and a class without a cluster is never called mismatched.

    A round of "warm" computes only the similarities of the images to the few centres that moved,
    and the problems that it clusters from scratch shrink geometrically, so the total cost grows
    with n_images * n_classes. The cost of "scratch" grows with the square of n_classes. K-Means
    finds one of many possible clusterings, so in borderline cases the two can find different
    classes, as either can with another seed.

    References
    ----------
    Wang et al., "Handling Imbalanced Pseudolabels for Vision-Language Models with Concept
    Alignment and Confusion-Aware Calibrated Margin", ICML 2025, :arxiv:`2505.02056`.

    Examples
    --------
    >>> from capkit import MismatchDetector
    >>> from capkit.datasets import make_concept_space
    >>> problem = make_concept_space(n_mismatched=2, random_state=0)
    >>> detector = MismatchDetector(random_state=0).fit(problem.space)
    >>> detector.mismatched_.tolist() == problem.mismatched.tolist()
    True
    """

    _parameter_constraints: dict = {
        "t": [
            Interval(Integral, 0, None, closed="left"),
            Interval(RealNotInt, 0, 1, closed="neither"),
            None,
        ],
        "recluster": [StrOptions({"warm", "scratch"})],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(self, t=None, recluster="warm", n_init=5, max_iter=100, random_state=None):
        self.t = t
        self.recluster = recluster
        self.n_init = n_init
        self.max_iter = max_iter
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ConceptSpace, y=None) -> MismatchDetector:
        """Detect the mismatched classes of a space.

        Parameters
        ----------
        X : ConceptSpace
            At least one image.
        y : ignored

        Returns
        -------
        self : MismatchDetector

        Raises
        ------
        ValueError
            If a feature is NaN or infinite, there is no image, or `t` leaves all classes.
        """
        space = check_concept_space(X, self, min_images=1)
        self.t_ = n_classes_left(self.t, space.n_classes)
        _warn_of_degenerate_input(space)
        clusters_class = WarmClusters if self.recluster == "warm" else ScratchClusters
        with one_thread(space.image_features.size):
            summary = summarize_predictions(space)
            clusters = clusters_class(
                space.image_features,
                space.text_features,
                min(space.n_classes, len(space)),
                n_init=self.n_init,
                max_iter=self.max_iter,
                random_state=check_random_state(self.random_state),
            )
            matches = match_classes(clusters, summary, space.logit_scale, self.t_)
        self.n_features_in_ = space.shape[1]
        self.class_names_ = space.class_names
        self.match_order_, self.unmatched_ = matches.order, matches.left
        self.match_confidence_ = matches.confidence
        self.cluster_centers_ = matches.centers
        self.class_cluster_ = matches.center_of_class
        self.prediction_counts_ = summary.counts
        self.fewest_predicted_ = fewest_predicted(summary.counts, summary.mass, self.t_)
        both = np.intersect1d(self.unmatched_, self.fewest_predicted_)
        self.mismatched_ = both[self.class_cluster_[both] >= 0]
        return self

    def transform(self, X: ConceptSpace) -> ConceptSpace:
        """Add the result of :meth:`fit` to a space, without detecting again.

        Parameters
        ----------
        X : ConceptSpace
            With the classes that the detector was fitted on.

        Returns
        -------
        ConceptSpace
            With a :class:`~capkit.space.MismatchResult`.

        Raises
        ------
        ValueError
            If its classes or its number of features differ from those of the fit.
        """
        check_is_fitted(self)
        space = check_concept_space(X, self)
        check_fitted_classes(space, self, self.class_names_)
        check_fitted_width(space, self, self.n_features_in_)
        # A class without a cluster has a centre of zeros.
        with_none = np.vstack([self.cluster_centers_, np.zeros_like(space.text_features[:1])])
        centers = with_none[self.class_cluster_]
        return dataclasses.replace(space, mismatch=MismatchResult(self.mismatched_, centers))


def _warn_of_degenerate_input(space: ConceptSpace) -> None:
    if len(space) < space.n_classes:
        warnings.warn(
            f"{len(space)} images of {space.n_classes} classes: too few to tell which classes "
            "are mismatched. Classes without a cluster of images are not looked for.",
            UserWarning,
            stacklevel=4,
        )
    twins = np.argwhere(np.triu(space.text_features @ space.text_features.T >= _SAME_TEXT, 1))
    if len(twins):
        first, second = (space.class_names[index] for index in twins[0])
        warnings.warn(
            f"the texts of {len(twins)} pair(s) of classes have the same features, as those of "
            f"{first!r} and {second!r}: the first one gets all their predictions. Give the "
            "classes names or templates that differ.",
            UserWarning,
            stacklevel=4,
        )
