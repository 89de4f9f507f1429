"""The data passed between capkit's stages: images and classes in one feature space."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from capkit._validation import check_ordered

if TYPE_CHECKING:
    from capkit.images import ImageSource

__all__ = [
    "AlignmentResult",
    "ConceptSpace",
    "GaussianClasses",
    "MarginResult",
    "MismatchResult",
    "TransductionResult",
    "feature_keys",
]

_LEAST_SCALE = float(np.finfo(np.float32).tiny)
_LARGEST_SCALE = float(np.finfo(np.float32).max)


class _StageResult:
    """What a stage found, which is the same to :func:`joblib.hash` after a way through a file."""

    def __getstate__(self) -> dict[str, Any]:
        # Empty arrays come back with other strides, which joblib.hash takes for other content.
        return {
            name: np.empty(value.shape, value.dtype)
            if isinstance(value, np.ndarray) and not value.size
            else value
            for name, value in vars(self).items()
        }


@dataclasses.dataclass(frozen=True, eq=False)
class MismatchResult(_StageResult):
    """What :class:`~capkit.MismatchDetector` adds to a :class:`ConceptSpace`.

    Attributes
    ----------
    mismatched : ndarray of shape (n_mismatched,), dtype int64
        Indices of the mismatched classes, ascending.
    class_centers : ndarray of shape (n_classes, n_features), dtype float32
        Unit-norm centre of each class's image cluster: the matched cluster, or for an unmatched
        class the one that a linear assignment pairs with it.
    """

    mismatched: np.ndarray
    class_centers: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class AlignmentResult(_StageResult):
    """What :class:`~capkit.ConceptAligner` adds to a :class:`ConceptSpace`.

    Attributes
    ----------
    shift : ndarray of shape (n_classes, n_features), dtype float32
        For classes that were aligned without a text: aligned minus zero-shot text feature. Zero
        elsewhere. Prompt tuning adds it to the output of the text tower.
    aligned : ndarray of shape (n_aligned,), dtype int64
        Indices of the classes whose text feature was replaced, ascending.
    descriptions : mapping of str to str
        The chosen description of each class that was aligned with a text.
    """

    shift: np.ndarray
    aligned: np.ndarray
    descriptions: Mapping[str, str]


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianClasses:
    """Classes as Gaussians with a shared covariance, and the images that they were fitted on.

    Attributes
    ----------
    whitening : ndarray of shape (n_features, n_features), dtype float32
        Linear map to a space in which the covariance is the identity.
    whitened_means : ndarray of shape (n_classes, n_features), dtype float32
    mean_variance : ndarray of shape (n_classes,)
        Variance of each class mean, in units of the covariance: one over the number of images.
    dimension : float
        Mean squared length of the whitened deviations from the class means.
    log_prior : ndarray of shape (n_classes,)
        Logarithm of each class's proportion, relative to equal proportions.
    trust : float
        Weight of the Gaussians, in [0, 1].
    keys : ndarray of shape (n_images,), dtype uint64
        Fingerprints of the features that the means were fitted on, ascending.
    own_classes : ndarray of shape (n_images, k), dtype int32
        For each of these images, the classes to whose means it contributes most.
    own_share : ndarray of shape (n_images, k), dtype float32
        These contributions: the image's responsibilities, in images.
    """

    whitening: np.ndarray
    whitened_means: np.ndarray
    mean_variance: np.ndarray
    dimension: float
    log_prior: np.ndarray
    trust: float
    keys: np.ndarray
    own_classes: np.ndarray
    own_share: np.ndarray

    def own_shares(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the images that the means were fitted on, and their shares in the means.

        Parameters
        ----------
        features : ndarray of shape (n, n_features)

        Returns
        -------
        rows : ndarray of shape (n_known,)
        own_classes, own_share : ndarray of shape (n_known, k)
        """
        if not len(self.keys):
            return np.empty(0, dtype=np.int64), self.own_classes[:0], self.own_share[:0]
        keys = feature_keys(features)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        rows = np.flatnonzero(self.keys[places] == keys)
        return rows, self.own_classes[places[rows]], self.own_share[places[rows]]


def feature_keys(features: np.ndarray) -> np.ndarray:
    """Fingerprint of each feature vector, by which an image is recognised.

    Parameters
    ----------
    features : ndarray of shape (n, n_features), dtype float32

    Returns
    -------
    ndarray of shape (n,), dtype uint64

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.space import feature_keys
    >>> a, b, again = feature_keys(np.array([[0.6, 0.8], [1, 0], [0.6, 0.8]], dtype=np.float32))
    >>> bool(a == again), bool(a == b)
    (True, False)
    """
    rows = np.ascontiguousarray(features, dtype=np.float32)
    digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, dtype=np.uint64)


@dataclasses.dataclass(frozen=True, eq=False)
class TransductionResult(_StageResult):
    """What :class:`~capkit.GaussianTransduction` adds to a :class:`ConceptSpace`.

    Attributes
    ----------
    classes : GaussianClasses
    mismatched : ndarray of shape (n_mismatched,), dtype int64
        Classes whose text is not used.
    report : AdaptationReport
        Findings of the guard.
    """

    classes: GaussianClasses
    mismatched: np.ndarray
    report: Any


@dataclasses.dataclass(frozen=True, eq=False)
class MarginResult:
    """What :class:`~capkit.MarginCalibrator` adds to a :class:`ConceptSpace`.

    Attributes
    ----------
    margin_matrix : ndarray of shape (n_classes, n_classes), dtype float32
        ``M[i, j]``, added to the logit of class j for a sample of class i (method, section 2).
    calibrator : MarginCalibrator
        An unfitted clone of the calibrator, which training refits every epoch.
    """

    margin_matrix: np.ndarray
    calibrator: Any


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ConceptSpace:
    """Images and classes as features of one vision-language model; immutable.

    Every stage takes a ``ConceptSpace`` and returns a new one. It behaves like the array of its
    image features (``__array__``, ``shape``, ``len``, row indexing), so that any scikit-learn step
    can follow a stage.

    Parameters
    ----------
    image_features : array-like of shape (n_images, n_features)
        ``Z``, unit rows.
    text_features : array-like of shape (n_classes, n_features)
        ``W``, unit rows.
    class_names : sequence of str of length n_classes
    logit_scale : float, default=100.0
        ``s``, the factor between cosine similarities and logits.
    images : ImageSource or None, default=None
        Lazy handle to the images behind the rows. Needed to train prompts.
    sample_indices : array-like of shape (n_images,) or None, default=None
        Position of each row in the input that was encoded; None means ``0 .. n_images - 1``.
        They differ if unreadable images were skipped.
    prompts : sequence of str of length n_classes or None, default=None
        The text behind each class's feature.
    backbone : str or None, default=None
        Name of the backbone, as for :func:`capkit.backbones.load_backbone`.
    backbone_id : str or None, default=None
        Fingerprint of the backbone's configuration and weights.
    mismatch : MismatchResult or None, default=None
    alignment : AlignmentResult or None, default=None
    transduction : TransductionResult or None, default=None
    margin : MarginResult or None, default=None

    Raises
    ------
    ClassNamesError
        If the class names are a set, which has no order, or not a sequence.
    ValueError
        If the shapes do not match, a feature is not a finite real number, the logit scale is not a
        number above 0, or a sample index is not an integer of at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit import ConceptSpace
    >>> space = ConceptSpace(np.eye(3, 2), np.eye(2), ["cat", "dog"])
    >>> space
    ConceptSpace(n_images=3, n_classes=2, n_features=2)
    >>> space[:2].predict().tolist()
    [0, 1]
    """

    image_features: np.ndarray
    text_features: np.ndarray
    class_names: tuple[str, ...]
    logit_scale: float = 100.0
    images: ImageSource | None = None
    sample_indices: np.ndarray | None = None
    prompts: tuple[str, ...] | None = None
    backbone: str | None = None
    backbone_id: str | None = None
    mismatch: MismatchResult | None = None
    alignment: AlignmentResult | None = None
    transduction: TransductionResult | None = None
    margin: MarginResult | None = None

    def __post_init__(self) -> None:
        check_ordered(self.class_names)
        set_field = object.__setattr__  # the dataclass is frozen
        for field in ("image_features", "text_features"):
            set_field(self, field, _as_features(getattr(self, field), field))
        set_field(self, "class_names", tuple(str(name) for name in self.class_names))
        set_field(self, "logit_scale", _as_scale(self.logit_scale))
        if self.prompts is not None:
            set_field(self, "prompts", tuple(self.prompts))
        if self.sample_indices is not None:
            set_field(self, "sample_indices", _as_indices(self.sample_indices))
        self._check_shapes()
        self._check_finite()

    def _check_shapes(self) -> None:
        if self.image_features.ndim != 2 or self.text_features.ndim != 2:
            raise ValueError(
                "expected image_features and text_features of two dimensions, got shapes "
                f"{self.image_features.shape} and {self.text_features.shape}"
            )
        if self.image_features.shape[1] != self.text_features.shape[1]:
            raise ValueError(
                "image and text features must have the same width, got "
                f"{self.image_features.shape[1]} and {self.text_features.shape[1]}: "
                "they come from different models"
            )
        n_images, n_classes = len(self.image_features), len(self.text_features)
        expected = {
            "class_names": n_classes,
            "prompts": n_classes,
            "images": n_images,
            "sample_indices": n_images,
        }
        for field, length in expected.items():
            value = getattr(self, field)
            if value is not None and len(value) != length:
                raise ValueError(f"expected {field} of length {length}, got {len(value)}")

    def _check_finite(self) -> None:
        for field in ("image_features", "text_features"):
            features = getattr(self, field)
            with np.errstate(invalid="ignore"):  # inf - inf
                total = features.sum(dtype=np.float64)  # takes no memory, as a mask would
            if np.isfinite(total):
                continue
            rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
            raise ValueError(
                f"expected finite features, got NaN or infinity in {len(rows)} of "
                f"{len(features)} rows of {field}, the first of them row {rows[0]}. Look at "
                "its image or text, and at the model that encoded it."
            )

    # -- the array interface for scikit-learn's steps

    @property
    def shape(self) -> tuple[int, int]:
        """(n_images, n_features)."""
        return self.image_features.shape

    @property
    def ndim(self) -> int:
        """2, like the image features."""
        return 2

    @property
    def dtype(self) -> np.dtype:
        """float32, like the image features."""
        return self.image_features.dtype

    @property
    def n_classes(self) -> int:
        """Number of classes ``C``."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.image_features)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.image_features)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy:
            return np.array(self.image_features, dtype=dtype, copy=True)
        return np.asarray(self.image_features, dtype=dtype)

    def __getitem__(self, key):
        """Rows as a ConceptSpace; an integer or a column selection gives values of the array."""
        if isinstance(key, tuple):
            if len(key) == 2 and (key[1] is Ellipsis or _is_full_slice(key[1])):
                key = key[0]
            else:
                return self.image_features[key]
        if isinstance(key, (int, np.integer)):
            return self.image_features[key]
        if isinstance(key, list) and not key:
            key = np.empty(0, dtype=np.intp)
        positions = np.arange(len(self))[key]
        return dataclasses.replace(
            self,
            image_features=self.image_features[positions],
            images=None if self.images is None else self.images.take(positions),
            sample_indices=(
                positions if self.sample_indices is None else self.sample_indices[positions]
            ),
        )

    def __repr__(self) -> str:
        possible = ("mismatch", "alignment", "transduction", "margin")
        done = [name for name in possible if getattr(self, name)]
        stages = f", stages={done}" if done else ""
        return (
            f"ConceptSpace(n_images={len(self)}, n_classes={self.n_classes}, "
            f"n_features={self.shape[1]}{stages})"
        )

    # -- the space as a zero-shot classifier

    def logits(self) -> np.ndarray:
        """Scaled cosine similarities, ``s * Z @ W.T``.

        Returns
        -------
        ndarray of shape (n_images, n_classes), dtype float32
        """
        return self.logit_scale * (self.image_features @ self.text_features.T)

    def predict_proba(self) -> np.ndarray:
        """Softmax of :meth:`logits` over the classes.

        Returns
        -------
        ndarray of shape (n_images, n_classes), dtype float32
        """
        return softmax(self.logits(), axis=1)

    def predict(self) -> np.ndarray:
        """Index of the most similar class of each image.

        Returns
        -------
        ndarray of shape (n_images,), dtype int64
        """
        return self.logits().argmax(axis=1).astype(np.int64)


def _as_features(values: object, field: str) -> np.ndarray:
    """Convert anything that holds real numbers to a read-only float32 array of features."""
    to_do = "Pass an array of shape (n, n_features), as np.asarray(rows, dtype=np.float32) gives."
    try:
        array = np.asarray(values)
    except (RuntimeError, TypeError, ValueError) as error:  # of lists, or of torch
        raise ValueError(
            f"expected {field} as rows of numbers of one length, got {type(values).__name__}, of "
            f"which numpy makes no array ({error!s:.200}). {to_do}"
        ) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"expected {field} as real numbers, got {type(values).__name__} of dtype "
            f"{array.dtype}. {to_do}"
        )
    return _read_only(array, np.float32)


def _as_scale(value: Any) -> float:
    """The logit scale as a float; it may also come as a zero-dimensional array or tensor."""
    number = value.item() if getattr(value, "ndim", None) == 0 else value
    is_number = isinstance(number, Real)
    if is_number and _LEAST_SCALE <= number <= _LARGEST_SCALE:  # in float32's range
        return float(number)
    raise ValueError(
        f"expected logit_scale as a number above 0, got {value!r:.80}. It is what the model "
        "multiplies cosine similarities with, 100 for most of CLIP's, and has to fit into float32."
    )


def _as_indices(values: Sequence | np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and (array.dtype.kind not in "iu" or array.min() < 0)):
        raise ValueError(
            f"expected sample_indices as a row of integers of at least 0, got {values!r:.80}. "
            "They say which of the images that were encoded each row is."
        )
    return _read_only(array, np.int64)


def _read_only(values: np.ndarray, dtype: Any) -> np.ndarray:
    array = values.astype(dtype, copy=False).view()
    array.flags.writeable = False
    return array


def _is_full_slice(key: object) -> bool:
    return isinstance(key, slice) and key == slice(None)
