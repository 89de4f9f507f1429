"""Gaussian transduction: what the images themselves say of their classes, without training.

Zero-shot predictions look at one image at a time. Here all images are looked at together: each
class is a Gaussian in the space of image features, all of one covariance, and an image's class is
what both its text similarity and its place among the other images speak for. Fitted by
expectation maximisation from the zero-shot predictions. Not in the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from capkit._validation import UNLABELED
from capkit.base import ConceptStage, check_concept_space, check_fitted_classes
from capkit.space import ConceptSpace, GaussianClasses, TransductionResult, feature_keys

__all__ = [
    "GaussianTransduction",
    "fit_class_means",
    "gaussian_log_evidence",
    "gaussian_trust",
    "log_class_prior",
    "shrunk_whitening",
    "text_log_probabilities",
]

# Images whose evidence is in memory at a time.
_CHUNK_SIZE = 8192
# Classes of an image whose share in the class's mean is kept, to leave the image itself out.
_KEPT_SHARES = 8
# Images that a class must typically have for its Gaussian to count half as much as it could, for
# each unit of the logarithm of the number of classes: the more there are, the closer is the
# closest of the wrong ones by chance.
_HALF_TRUSTED = 14.0
# Images that the class prior's uniform part is worth, for each class.
_PRIOR_IMAGES = 30.0
# Trust in the Gaussians below which a mismatched class keeps its text: its cluster is too small.
_LEAST_TRUST = 0.3


# -- the formulas


def text_log_probabilities(
    logits: np.ndarray, mismatched: Sequence[int] | np.ndarray = ()
) -> np.ndarray:
    """Logarithms of zero-shot probabilities, in which mismatched classes have no say.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes)
        Scaled similarities of images and texts.
    mismatched : sequence of int, default=()
        Classes whose text is not believed: to every image it is as near as an average text.

    Returns
    -------
    ndarray of shape (n, n_classes)

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.transduction import text_log_probabilities
    >>> logits = np.log([[0.6, 0.2, 0.2]])
    >>> np.exp(text_log_probabilities(logits, mismatched=[2])).round(3)
    array([[0.5  , 0.167, 0.333]])
    """
    logits = np.array(logits)
    if len(mismatched):
        believed = np.delete(logits, mismatched, axis=1)
        average = logsumexp(believed, axis=1, keepdims=True) - np.log(believed.shape[1])
        logits[:, mismatched] = average
    return logits - logsumexp(logits, axis=1, keepdims=True)


def fit_class_means(
    counts: np.ndarray,
    sums: np.ndarray,
    text_features: np.ndarray,
    image_mean: np.ndarray,
    kappa: float,
    centers: np.ndarray | None = None,
    mismatched: Sequence[int] | np.ndarray = (),
) -> np.ndarray:
    """Mean of each class, drawn towards where its text says that it is.

    The prior mean is ``image_mean + slope * (w_c - mean of w)``: texts and images lie apart, and
    a text's contrast is larger or smaller than that of images, which the slope, fitted to all
    classes, allows for. It counts as `kappa` images.

    Parameters
    ----------
    counts : ndarray of shape (n_classes,)
        Sum of each class's responsibilities.
    sums : ndarray of shape (n_classes, n_features)
        Sum of the features, weighted by them.
    text_features : ndarray of shape (n_classes, n_features)
    image_mean : ndarray of shape (n_features,)
    kappa : float
        Above 0.
    centers : ndarray of shape (n_classes, n_features) or None, default=None
        Prior means of the mismatched classes, in place of their text's.
    mismatched : sequence of int, default=()

    Returns
    -------
    ndarray of shape (n_classes, n_features)

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.transduction import fit_class_means
    >>> sums = np.array([[4.0, 0.0], [0.0, 0.0]])
    >>> fit_class_means(np.array([4, 0]), sums, np.eye(2), np.array([0.5, 0.0]), kappa=4.0)
    array([[ 0.875, -0.125],
           [ 0.25 ,  0.25 ]])
    """
    contrast = text_features - text_features.mean(axis=0)
    weight = np.array(counts, dtype=np.float64)
    weight[np.asarray(mismatched, dtype=np.int64)] = 0.0
    means = sums / np.maximum(counts, 1e-9)[:, None]
    covered = ((means - image_mean) * contrast).sum(axis=1) @ weight
    slope = max(0.0, covered / max(float((contrast**2).sum(axis=1) @ weight), 1e-12))
    prior = image_mean + slope * contrast
    if len(mismatched) and centers is not None:
        prior[mismatched] = centers[mismatched]
    return (sums + kappa * prior) / (counts + kappa)[:, None]


def shrunk_whitening(covariance: np.ndarray, shrinkage: float) -> tuple[np.ndarray, float]:
    """Map to a space in which the shrunk covariance is the identity.

    Parameters
    ----------
    covariance : ndarray of shape (d, d)
    shrinkage : float
        Share of a multiple of the identity of the same trace, in [0, 1].

    Returns
    -------
    whitening : ndarray of shape (d, d)
    dimension : float
        Mean squared length of a whitened deviation from its class's mean; `d` without shrinkage.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.transduction import shrunk_whitening
    >>> whitening, dimension = shrunk_whitening(np.diag([4.0, 0.0]), shrinkage=0.5)
    >>> np.abs(whitening).round(3).tolist(), round(dimension, 3)
    ([[0.0, 0.577], [1.0, 0.0]], 1.333)
    """
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    values = np.maximum(values, 0.0)
    shrunk = (1 - shrinkage) * values + shrinkage * values.mean()
    shrunk = np.maximum(shrunk, 1e-12)
    return vectors / np.sqrt(shrunk), float((values / shrunk).sum())


def log_class_prior(counts: np.ndarray, n_images: int) -> np.ndarray:
    """Logarithm of the classes' estimated proportions, relative to equal ones.

    Parameters
    ----------
    counts : ndarray of shape (n_classes,)
        Sum of each class's responsibilities.
    n_images : int

    Returns
    -------
    ndarray of shape (n_classes,)
        Zero for a class of average size. Drawn towards zero as if each class had 30 images more.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.transduction import log_class_prior
    >>> np.exp(log_class_prior(np.array([90.0, 30.0]), n_images=120)).round(3)
    array([1.333, 0.667])
    """
    n_classes = len(counts)
    share = (counts + _PRIOR_IMAGES) / (n_images + _PRIOR_IMAGES * n_classes)
    return np.log(share * n_classes)


def gaussian_trust(counts: np.ndarray) -> float:
    """How much the Gaussians count beside the texts.

    ``k / (k + 14 ln C)`` with `k` the number of images of the median class.

    Parameters
    ----------
    counts : ndarray of shape (n_classes,)
        Sum of each class's responsibilities.

    Returns
    -------
    float
        In [0, 1]: with few images of each of many classes the texts decide alone.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.transduction import gaussian_trust
    >>> round(gaussian_trust(np.full(20, 100.0)), 2), round(gaussian_trust(np.full(600, 5.0)), 2)
    (0.7, 0.05)
    """
    typical = float(np.median(counts))
    return typical / (typical + _HALF_TRUSTED * float(np.log(len(counts))))


def gaussian_log_evidence(
    features: np.ndarray,
    classes: GaussianClasses,
    own: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """How much more an image's place speaks for each class than for others, in logits.

    Minus half the squared Mahalanobis distance to each class's mean, less what the uncertainty of
    the mean adds to it on average, times the trust in the Gaussians; plus the class prior. An
    image that the means were fitted on is left out of them first.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    classes : GaussianClasses
    own : tuple of three ndarray, or None, default=None
        Which of the images the means were fitted on, and their shares, as
        :meth:`~capkit.space.GaussianClasses.own_shares` gives them. None asks it.

    Returns
    -------
    ndarray of shape (n, n_classes), dtype float32
    """
    # Around the middle of the means: images have much in common, which would cancel with a loss.
    middle = classes.whitened_means.mean(axis=0)
    whitened = features @ classes.whitening - middle
    means, variance = classes.whitened_means - middle, classes.mean_variance
    distance = (whitened**2).sum(axis=1)[:, None] - 2 * whitened @ means.T
    distance += (means**2).sum(axis=1)
    excess = distance - classes.dimension * variance
    rows, kept, share = classes.own_shares(features) if own is None else own
    # Without the image itself a mean is further away, by this factor, and less certain.
    factor = 1 / (1 - np.minimum(share * variance[kept], 0.9))
    left_out = distance[rows[:, None], kept] * factor**2
    excess[rows[:, None], kept] = left_out - classes.dimension * variance[kept] * factor
    return (classes.log_prior - 0.5 * classes.trust * excess).astype(np.float32)


# -- the stage


class GaussianTransduction(ConceptStage):
    """Let all images together speak for what each of them shows, without training.

    Each class is a Gaussian in the space of image features, all of one covariance. Starting from
    the zero-shot predictions, class means, covariance and class proportions are fitted, and the
    images are assigned anew by both text and place, again and again (expectation maximisation).
    A mismatched class has no text to speak for it, and starts from its cluster of images, where
    :class:`~capkit.MismatchDetector` found one in enough images and no aligner gave it a text.

    How far the Gaussians are believed depends on how many images a class has, so that with few
    of them the answer goes back to zero-shot.

    Parameters
    ----------
    kappa : float, default=3.0
        Number of images that a class's text is worth in fitting the class's mean, above 0.
    shrinkage : float, default=0.75
        Share of the covariance that is a multiple of the identity, in [0, 1].
    class_prior : "estimated", "equal" or array-like of shape (n_classes,), default="estimated"
        Proportions of the classes among the images: estimated from them, equal, or known, in the
        order of the class names.
    max_iter : int, default=15
        Largest number of rounds; fewer where the assignments do not change any more.

    Attributes
    ----------
    labels_ : ndarray of shape (n_images,), dtype int64
        Most probable class of each image, as an index into `class_names_`.
    confidence_ : ndarray of shape (n_images,)
        Its probability.
    counts_ : ndarray of shape (n_classes,)
        Sum of each class's probabilities over the images.
    means_ : ndarray of shape (n_classes, n_features), dtype float32
    trust_ : float
        Share in [0, 1] with which the Gaussians count beside the texts, see
        :func:`capkit.transduction.gaussian_trust`.
    n_iter_ : int
        Number of rounds.
    mismatched_ : ndarray of shape (n_mismatched,), dtype int64
        Classes whose text had no say.
    class_names_ : tuple of str
        Names of the classes that it was fitted on.
    n_features_in_ : int
        Width ``d`` of the features.

    See Also
    --------
    capkit.baselines.GaussianTransductionClassifier : The same as a classifier of its own.

    Notes
    -----
    Nothing of shape (n_images, n_classes) is ever in memory.

    An image pulls the mean of its class towards itself, which with few images a class makes any
    first guess confirm itself. So an image is left out of the means before it is compared with
    them, also at prediction, where it is known again if its features are the same to the last
    bit, as those from a cache are. A mean's own uncertainty
    makes it look further away, the more so the fewer images it has; this is subtracted.

    The defaults were chosen on five sets of real CLIP features (satellite pictures, pets,
    reptiles, CIFAR-10, 600 kinds of things), the embedded model's two, and subsets of them with
    few images or unequal classes, with the labels of these sets as judge.

    Examples
    --------
    >>> from capkit import GaussianTransduction
    >>> from capkit.datasets import make_concept_space
    >>> problem = make_concept_space(n_mismatched=0, text_noise=0.8, random_state=0)
    >>> zero_shot = (problem.space.predict() == problem.target).mean()
    >>> transduction = GaussianTransduction().fit(problem.space)
    >>> print(f"{zero_shot:.2f} {(transduction.labels_ == problem.target).mean():.2f}")
    0.90 0.97
    """

    _parameter_constraints: dict = {
        "kappa": [Interval(Real, 0, None, closed="neither")],
        "shrinkage": [Interval(Real, 0, 1, closed="both")],
        "class_prior": [StrOptions({"estimated", "equal"}), "array-like"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, kappa=3.0, shrinkage=0.75, class_prior="estimated", max_iter=15):
        self.kappa = kappa
        self.shrinkage = shrinkage
        self.class_prior = class_prior
        self.max_iter = max_iter

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ConceptSpace, y=None) -> GaussianTransduction:
        """Fit the Gaussians to the images of a space.

        Parameters
        ----------
        X : ConceptSpace
        y : array-like of shape (n_images,), dtype int, or None, default=None
            Known classes as indices, -1 where unknown; a known class is not changed.

        Returns
        -------
        self : GaussianTransduction

        Raises
        ------
        ValueError
            If `class_prior` or `y` do not fit the space.
        """
        space = check_concept_space(X, self, min_images=1)
        known = _check_labels(y, len(space), space.n_classes)
        log_prior = _check_class_prior(self.class_prior, space.n_classes)
        self.class_names_, self.n_features_in_ = space.class_names, space.shape[1]
        features = space.image_features
        moments = _Moments(
            features.mean(axis=0),
            sum(features[rows].T @ features[rows] for rows in _chunks(len(space))),
        )
        assigned = _Assignments(space, known)
        counts, sums, _ = assigned.by_texts()
        self.mismatched_ = assigned.mismatched = _without_text(space, counts)
        for n_iter in range(1, self.max_iter + 1):
            classes = self._m_step(space, moments, counts, sums, log_prior)
            own = assigned.own_classes.copy(), assigned.own_share.copy()
            counts, sums, n_changed = assigned.by_classes(classes)
            self.n_iter_ = n_iter
            if not n_changed:
                break
        self._classes = _with_images(classes, feature_keys(features), *own)
        self.labels_, self.confidence_ = assigned.labels, assigned.confidence
        self.counts_, self.trust_ = counts, classes.trust
        return self

    def _m_step(
        self,
        space: ConceptSpace,
        moments: _Moments,
        counts: np.ndarray,
        sums: np.ndarray,
        log_prior: np.ndarray | None,
    ) -> GaussianClasses:
        """Means, covariance and proportions from the sums of the responsibilities."""
        means = fit_class_means(
            counts,
            sums,
            space.text_features,
            moments.mean,
            self.kappa,
            None if space.mismatch is None else space.mismatch.class_centers,
            self.mismatched_,
        )
        cross = sums.T @ means
        within = moments.squares - cross - cross.T + (means * counts[:, None]).T @ means
        whitening, dimension = shrunk_whitening(within / len(space), self.shrinkage)
        self.means_ = means.astype(np.float32)
        return GaussianClasses(
            whitening=whitening.astype(np.float32),
            whitened_means=(means @ whitening).astype(np.float32),
            mean_variance=1 / (counts + self.kappa),
            dimension=dimension,
            log_prior=log_class_prior(counts, len(space)) if log_prior is None else log_prior,
            trust=gaussian_trust(counts),
            keys=np.empty(0, dtype=np.uint64),
            own_classes=np.empty((0, 1), dtype=np.int32),
            own_share=np.empty((0, 1), dtype=np.float32),
        )

    def transform(self, X: ConceptSpace) -> ConceptSpace:
        """Add the Gaussians to a space; nothing is fitted anew.

        Parameters
        ----------
        X : ConceptSpace
            Of the classes that it was fitted on.

        Returns
        -------
        ConceptSpace
            With a :class:`~capkit.space.TransductionResult`.
        """
        check_is_fitted(self)
        space = check_concept_space(X, self)
        check_fitted_classes(space, self, self.class_names_)
        result = TransductionResult(self._classes, self.mismatched_)
        return dataclasses.replace(space, transduction=result)


class _Moments(NamedTuple):
    """What the rounds need of all images together."""

    mean: np.ndarray  # (d,)
    squares: np.ndarray  # (d, d), sum of each feature's outer product with itself


class _Assignments:
    """Responsibilities of the classes for the images, of which the largest are kept."""

    def __init__(self, space: ConceptSpace, known: np.ndarray) -> None:
        self.space, self.known = space, known
        self.mismatched = np.empty(0, dtype=np.int64)
        kept = min(_KEPT_SHARES, space.n_classes)
        self.labels = np.full(len(space), UNLABELED, dtype=np.int64)
        self.confidence = np.zeros(len(space), dtype=np.float32)
        self.own_classes = np.zeros((len(space), kept), dtype=np.int32)
        self.own_share = np.zeros((len(space), kept), dtype=np.float32)

    def by_texts(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Assign every image by its zero-shot probabilities.

        Gives the sum of each class's responsibilities, that of the features weighted by them, and
        the number of images whose class changed.
        """
        return self._assign(lambda rows, logits: logits)

    def by_classes(self, classes: GaussianClasses) -> tuple[np.ndarray, np.ndarray, int]:
        """Assign every image by texts and Gaussians, the image itself left out of them."""

        def logits_of(rows: slice, logits: np.ndarray) -> np.ndarray:
            features = self.space.image_features[rows]
            own = np.arange(len(features)), self.own_classes[rows], self.own_share[rows]
            evidence = gaussian_log_evidence(features, classes, own)
            return text_log_probabilities(logits, self.mismatched) + evidence

        return self._assign(logits_of)

    def _assign(self, logits_of) -> tuple[np.ndarray, np.ndarray, int]:
        space = self.space
        counts = np.zeros(space.n_classes)
        sums = np.zeros((space.n_classes, space.shape[1]))
        before = self.labels.copy()
        for rows in _chunks(len(space)):
            features, known = space.image_features[rows], self.known[rows]
            texts = space.logit_scale * (features @ space.text_features.T)
            share = softmax(logits_of(rows, texts), axis=1)
            share[known != UNLABELED] = 0.0
            share[known != UNLABELED, known[known != UNLABELED]] = 1.0
            counts += share.sum(axis=0, dtype=np.float64)
            sums += share.T @ features
            self.labels[rows], self.confidence[rows] = share.argmax(axis=1), share.max(axis=1)
            kept = np.argpartition(-share, self.own_share.shape[1] - 1, axis=1)
            self.own_classes[rows] = kept[:, : self.own_share.shape[1]]
            self.own_share[rows] = np.take_along_axis(share, self.own_classes[rows], axis=1)
        return counts, sums, int((before != self.labels).sum())


def _without_text(space: ConceptSpace, counts: np.ndarray) -> np.ndarray:
    """Mismatched classes whose text has no say: no other text was found, and images are enough."""
    if space.mismatch is None or gaussian_trust(counts) < _LEAST_TRUST:
        return np.empty(0, dtype=np.int64)
    aligned = () if space.alignment is None else space.alignment.aligned
    return np.setdiff1d(space.mismatch.mismatched, aligned)


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, _CHUNK_SIZE):
        yield slice(start, min(start + _CHUNK_SIZE, n))


def _with_images(
    classes: GaussianClasses, keys: np.ndarray, own_classes: np.ndarray, own_share: np.ndarray
) -> GaussianClasses:
    """Give the Gaussians what they need to know the images again that they were fitted on."""
    order = np.argsort(keys, kind="stable")
    return dataclasses.replace(
        classes,
        keys=keys[order],
        own_classes=own_classes[order],
        own_share=own_share[order],
    )


def _check_labels(y: object, n_images: int, n_classes: int) -> np.ndarray:
    if y is None:
        return np.full(n_images, UNLABELED, dtype=np.int64)
    labels = np.asarray(y)
    valid = labels.shape == (n_images,) and labels.dtype.kind in "iu"
    if not valid or labels.min() < UNLABELED or labels.max() >= n_classes:
        raise ValueError(
            f"expected y as {n_images} integers from -1, for an unknown class, to "
            f"{n_classes - 1}, got shape {labels.shape} and type {labels.dtype}."
        )
    return labels.astype(np.int64)


def _check_class_prior(class_prior: object, n_classes: int) -> np.ndarray | None:
    """Logarithm of known proportions relative to equal ones; None where they are estimated."""
    if isinstance(class_prior, str):
        return None if class_prior == "estimated" else np.zeros(n_classes)
    prior = np.asarray(class_prior, dtype=np.float64)
    if prior.shape != (n_classes,) or not ((prior > 0) & np.isfinite(prior)).all():
        raise ValueError(
            f"expected class_prior as {n_classes} proportions above 0, in the order of the class "
            f"names, got {class_prior!r:.80}."
        )
    return np.log(prior / prior.sum() * n_classes)
