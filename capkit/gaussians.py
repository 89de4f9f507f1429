"""Classes as Gaussians in the space of image features: pure functions, array in, array out.

All classes have one covariance. Means are drawn towards where the texts say that the classes are,
and how far the Gaussians are believed depends on how many images a class has. Not in the paper.
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

# Images that a class must typically have for its Gaussian to count half as much as it could, for
# each unit of the logarithm of the number of classes: the more there are, the closer is the
# closest of the wrong ones by chance.
_HALF_TRUSTED = 14.0
# Images that the class prior's uniform part is worth, for each class.
_PRIOR_IMAGES = 30.0
# How much too sure the evidence is, for each unit of trust.
_TEMPERATURE_OF_TRUST = 10.0


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
    """Covariance of images around the means of their classes, whatever these means are.

    Parameters
    ----------
    counts : ndarray of shape (n_classes,)
        Sum of each class's responsibilities.
    sums : ndarray of shape (n_classes, d)
        Sum of the features, weighted by them.
    squares : ndarray of shape (d, d)
        Sum of each feature's outer product with itself, weighted by its responsibilities' sum.
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
    >>> from capkit.gaussians import log_class_prior
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


def evidence_temperature(trust: float) -> float:
    """What logits with the Gaussians' evidence are divided by to make honest probabilities.

    ``1 + 10 * trust``. The hundreds of dimensions of a feature do not speak independently of each
    other, as a Gaussian takes them to, so that the evidence is too sure.

    Parameters
    ----------
    trust : float
        How much the Gaussians count, in [0, 1].

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
    """Smallest factor of at least 1 with which probabilities are as confident as wanted.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes)
    confidence : float
        Wanted mean of the largest probability, in [0, 1).

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
    """How far the clusters of mismatched classes lie from all other classes.

    Distance of each cluster's centre to the nearest mean of another class, relative to how far
    the mean of a class usually (in the median) is from its nearest. A cluster that is a part of
    another class is near to it.

    Parameters
    ----------
    centers : ndarray of shape (n_mismatched, d)
        Whitened centres of their clusters.
    mismatched : sequence of int of length n_mismatched
    means : ndarray of shape (n_classes, d)
        Whitened means of all classes, the mismatched ones as their texts place them.

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
    """What the Gaussians add to logits of the same images that a training made; picklable.

    Parameters
    ----------
    text_features : ndarray of shape (n_classes, d)
        ``W``, before training.
    logit_scale : float
        ``s``.
    classes : GaussianClasses
    mismatched : ndarray of int
        Classes whose text has no say: what training made of it counts from an average text on.
    """

    text_features: np.ndarray
    logit_scale: float
    classes: GaussianClasses
    mismatched: np.ndarray

    @property
    def proportions(self) -> np.ndarray:
        """How frequent the classes are, relative to equal ones; shape (n_classes,), mean 1."""
        share = np.exp(self.classes.log_prior)
        return share / share.mean()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays by name.

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
        """Put together what :meth:`to_arrays` took apart.

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
        """Logits of the texts alone.

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
        """Logits of images with what the Gaussians say of them.

        Parameters
        ----------
        features : ndarray of shape (n, d)
            Of the frozen model.
        logits : ndarray of shape (n, n_classes) or None, default=None
            By texts, or what training made of them; None takes those of the texts.

        Returns
        -------
        ndarray of shape (n, n_classes), dtype float32
            Of a class without a text those of an average text, whatever its own are.
        """
        logits = self.zero_shot(features) if logits is None else logits
        believed = text_log_probabilities(logits, self.mismatched)
        return (believed + gaussian_log_evidence(features, self.classes)).astype(np.float32)
