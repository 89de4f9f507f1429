"""Classes as Gaussians in the space of image features: pure functions, array in, array out.

All classes share one covariance. Means are shrunk towards the positions that the texts predict,
and the weight of the Gaussians depends on the number of images per class. Not in the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp, softmax

from capkit.space import GaussianClasses

__all__ = [
    "GaussianPrior",
    "cluster_separation",
    "evidence_temperature",
    "fit_class_means",
    "gaussian_log_evidence",
    "gaussian_trust",
    "log_class_prior",
    "sharpening",
    "shrunk_whitening",
    "text_log_probabilities",
    "within_class_covariance",
]

# Number of images per class, per unit of the log number of classes, at which the Gaussians get
# half of their full weight. With more classes, the closest wrong class is closer by chance.
_HALF_TRUSTED = 14.0
# Weight of the uniform part of the class prior, as a number of images per class.
_PRIOR_IMAGES = 30.0
# Overconfidence of the evidence, per unit of trust.
_TEMPERATURE_OF_TRUST = 10.0


def text_log_probabilities(
    logits: np.ndarray, mismatched: Sequence[int] | np.ndarray = ()
) -> np.ndarray:
    """Log zero-shot probabilities that ignore the texts of mismatched classes.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes)
        Scaled similarities between images and texts.
    mismatched : sequence of int, default=()
        Classes whose text is ignored: it counts as an average text for every image.

    Returns
    -------
    ndarray of shape (n, n_classes)

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.gaussians import text_log_probabilities
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
    """Mean of each class, shrunk towards the position that its text predicts.

    The prior mean is ``image_mean + slope * (w_c - mean of w)``: texts and images lie apart, and
    texts vary more or less strongly than images, which the slope, fitted to all classes, corrects
    for. The prior mean has the weight of `kappa` images.

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
        Prior means for the mismatched classes, instead of those from their texts.
    mismatched : sequence of int, default=()

    Returns
    -------
    ndarray of shape (n_classes, n_features)

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.gaussians import fit_class_means
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


def within_class_covariance(
    counts: np.ndarray, sums: np.ndarray, squares: np.ndarray, means: np.ndarray
) -> np.ndarray:
    """Covariance of images around given class means.

    Parameters
    ----------
    counts : ndarray of shape (n_classes,)
        Sum of each class's responsibilities.
    sums : ndarray of shape (n_classes, d)
        Sum of the features, weighted by them.
    squares : ndarray of shape (d, d)
        Sum of each feature's outer product with itself, weighted by the sum of its
        responsibilities.
    means : ndarray of shape (n_classes, d)

    Returns
    -------
    ndarray of shape (d, d)

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.gaussians import within_class_covariance
    >>> features = np.array([[1.0], [3.0], [9.0]])
    >>> sums, means = np.array([[4.0], [9.0]]), np.array([[2.0], [8.0]])
    >>> within_class_covariance(np.array([2, 1]), sums, features.T @ features, means)
    array([[1.]])
    """
    cross = sums.T @ means
    scatter = squares - cross - cross.T + (means * counts[:, None]).T @ means
    return scatter / counts.sum()


def shrunk_whitening(covariance: np.ndarray, shrinkage: float) -> tuple[np.ndarray, float]:
    """Linear map to a space in which the shrunk covariance is the identity.

    Parameters
    ----------
    covariance : ndarray of shape (d, d)
    shrinkage : float
        Shrinkage towards a multiple of the identity with the same trace, in [0, 1].

    Returns
    -------
    whitening : ndarray of shape (d, d)
    dimension : float
        Mean squared length of the whitened deviations from the class means; `d` without shrinkage.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.gaussians import shrunk_whitening
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
    """Logarithm of the estimated class proportions, relative to equal proportions.

    Parameters
    ----------
    counts : ndarray of shape (n_classes,)
        Sum of each class's responsibilities.
    n_images : int

    Returns
    -------
    ndarray of shape (n_classes,)
        Zero for a class of average size. Shrunk towards zero as if each class had 30 more images.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.gaussians import log_class_prior
    >>> np.exp(log_class_prior(np.array([90.0, 30.0]), n_images=120)).round(3)
    array([1.333, 0.667])
    """
    n_classes = len(counts)
    share = (counts + _PRIOR_IMAGES) / (n_images + _PRIOR_IMAGES * n_classes)
    return np.log(share * n_classes)


def gaussian_trust(counts: np.ndarray) -> float:
    """Weight of the Gaussians relative to the texts.

    ``k / (k + 14 ln C)`` with `k` the number of images of the median class.

    Parameters
    ----------
    counts : ndarray of shape (n_classes,)
        Sum of each class's responsibilities.

    Returns
    -------
    float
        In [0, 1]. With few images for each of many classes, the texts decide alone.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.gaussians import gaussian_trust
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
    """Evidence for each class from an image's position, in logits.

    Minus half the squared Mahalanobis distance to each class mean, corrected for the average
    contribution of the mean's uncertainty, times the trust in the Gaussians; plus the class prior.
    An image that the means were fitted on is left out of them first.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    classes : GaussianClasses
    own : tuple of three ndarray, or None, default=None
        The images that the means were fitted on, and their shares, as returned by
        :meth:`~capkit.space.GaussianClasses.own_shares`. None calls that method.

    Returns
    -------
    ndarray of shape (n, n_classes), dtype float32

    Examples
    --------
    >>> from capkit import GaussianTransduction
    >>> from capkit.datasets import make_concept_space
    >>> from capkit.gaussians import gaussian_log_evidence
    >>> problem = make_concept_space(random_state=0)
    >>> space = GaussianTransduction().fit_transform(problem.space)
    >>> evidence = gaussian_log_evidence(space.image_features, space.transduction.classes)
    >>> evidence.shape
    (1000, 20)
    >>> bool((evidence.argmax(axis=1) == problem.target).mean() > 0.9)
    True
    """
    # Centred on the middle of the means: what images have in common would cancel with a loss of
    # precision.
    middle = classes.whitened_means.mean(axis=0)
    whitened = features @ classes.whitening - middle
    means, variance = classes.whitened_means - middle, classes.mean_variance
    distance = (whitened**2).sum(axis=1)[:, None] - 2 * whitened @ means.T
    distance += (means**2).sum(axis=1)
    excess = distance - classes.dimension * variance
    rows, kept, share = classes.own_shares(features) if own is None else own
    # Without the image itself a mean is further away by this factor, and less certain.
    factor = 1 / (1 - np.minimum(share * variance[kept], 0.9))
    left_out = distance[rows[:, None], kept] * factor**2
    excess[rows[:, None], kept] = left_out - classes.dimension * variance[kept] * factor
    return (classes.log_prior - 0.5 * classes.trust * excess).astype(np.float32)


def evidence_temperature(trust: float) -> float:
    """Temperature that calibrates logits which include the Gaussians' evidence.

    ``1 + 10 * trust``. The Gaussians treat the hundreds of whitened dimensions of a feature as
    independent evidence. They are not, so the evidence is overconfident.

    Parameters
    ----------
    trust : float
        Weight of the Gaussians, in [0, 1].

    Returns
    -------
    float

    Examples
    --------
    >>> from capkit.gaussians import evidence_temperature
    >>> evidence_temperature(0.0), evidence_temperature(0.5)
    (1.0, 6.0)
    """
    return 1.0 + _TEMPERATURE_OF_TRUST * trust


def sharpening(logits: np.ndarray, confidence: float) -> float:
    """Smallest factor of at least 1 on the logits that reaches a given mean confidence.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes)
    confidence : float
        Desired mean of the largest probability, in [0, 1).

    Returns
    -------
    float
        A power of 1.1, at most about 1,000.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.gaussians import sharpening
    >>> round(sharpening(np.array([[0.5, 0.0]]), confidence=0.7), 2)
    1.77
    """
    factor = 1.0
    while factor < 1000.0 and softmax(factor * logits, axis=1).max(axis=1).mean() < confidence:
        factor *= 1.1
    return factor


def cluster_separation(
    centers: np.ndarray, mismatched: Sequence[int] | np.ndarray, means: np.ndarray
) -> np.ndarray:
    """Distance of the clusters of mismatched classes from all other classes.

    Distance of each cluster's centre to the nearest mean of another class, relative to the median
    distance of a class mean to its nearest neighbour. A cluster that is part of another class lies
    close to it.

    Parameters
    ----------
    centers : ndarray of shape (n_mismatched, d)
        Whitened centres of the clusters.
    mismatched : sequence of int of length n_mismatched
    means : ndarray of shape (n_classes, d)
        Whitened means of all classes; for the mismatched ones, those that their texts predict.

    Returns
    -------
    ndarray of shape (n_mismatched,)

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.gaussians import cluster_separation
    >>> means = np.array([[0.0], [2.0], [4.0]])
    >>> cluster_separation(np.array([[0.5]]), [2], means)
    array([0.25])
    """
    between = _distances(means, means)
    np.fill_diagonal(between, np.inf)
    to_classes = _distances(centers, means)
    to_classes[np.arange(len(centers)), np.asarray(mismatched, dtype=np.int64)] = np.inf
    return to_classes.min(axis=1) / max(float(np.median(between.min(axis=1))), 1e-12)


def _distances(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    squared = (rows**2).sum(axis=1)[:, None] - 2 * rows @ columns.T + (columns**2).sum(axis=1)
    return np.sqrt(np.maximum(squared, 0.0))


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianPrior:
    """Adds the Gaussians' evidence to the logits of a trained model on the same images; picklable.

    Parameters
    ----------
    text_features : ndarray of shape (n_classes, d)
        ``W``, before training.
    logit_scale : float
        ``s``.
    classes : GaussianClasses
    mismatched : ndarray of int
        Classes whose text is not used: only the change that training made to it counts, added to
        an average text.
    """

    text_features: np.ndarray
    logit_scale: float
    classes: GaussianClasses
    mismatched: np.ndarray

    @property
    def proportions(self) -> np.ndarray:
        """Class frequencies relative to equal ones; shape (n_classes,), mean 1."""
        share = np.exp(self.classes.log_prior)
        return share / share.mean()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Convert to named arrays.

        Returns
        -------
        dict of str to ndarray
        """
        fields = dataclasses.fields(self.classes)
        arrays = {field.name: np.asarray(getattr(self.classes, field.name)) for field in fields}
        return arrays | {
            "text_features": self.text_features,
            "logit_scale": np.asarray(self.logit_scale),
            "mismatched": self.mismatched,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> GaussianPrior:
        """Rebuild from the output of :meth:`to_arrays`.

        Parameters
        ----------
        arrays : mapping of str to ndarray

        Returns
        -------
        GaussianPrior
        """
        numbers = {"dimension", "trust"}
        classes: dict[str, Any] = {
            field.name: arrays[field.name].item() if field.name in numbers else arrays[field.name]
            for field in dataclasses.fields(GaussianClasses)
        }
        return cls(
            arrays["text_features"],
            arrays["logit_scale"].item(),
            GaussianClasses(**classes),
            arrays["mismatched"],
        )

    def zero_shot(self, features: np.ndarray) -> np.ndarray:
        """Logits from the texts alone.

        Parameters
        ----------
        features : ndarray of shape (n, d)
            Of the frozen model.

        Returns
        -------
        ndarray of shape (n, n_classes)
        """
        return self.logit_scale * (features @ self.text_features.T)

    def __call__(self, features: np.ndarray, logits: np.ndarray | None = None) -> np.ndarray:
        """Logits of images including the Gaussians' evidence.

        Parameters
        ----------
        features : ndarray of shape (n, d)
            Of the frozen model.
        logits : ndarray of shape (n, n_classes) or None, default=None
            Logits of the texts or of the trained model; None means those of the texts.

        Returns
        -------
        ndarray of shape (n, n_classes), dtype float32
            Of a class without a text those of an average text, whatever its own are.
        """
        logits = self.zero_shot(features) if logits is None else logits
        believed = text_log_probabilities(logits, self.mismatched)
        return (believed + gaussian_log_evidence(features, self.classes)).astype(np.float32)
