"""The confusion-aware calibrated margin (method section 2)."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from sklearn.base import _fit_context, clone
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from capkit._arrays import unit_rows
from capkit._validation import UNLABELED
from capkit.base import (
    ConceptStage,
    check_concept_space,
    check_fitted_classes,
    check_fitted_width,
)
from capkit.exceptions import NoConfidentPredictionWarning
from capkit.space import ConceptSpace, MarginResult

if TYPE_CHECKING:
    import torch

__all__ = [
    "MarginCalibrator",
    "class_counts_above",
    "class_similarity",
    "margin_cross_entropy",
    "margin_matrix",
    "margin_scale",
    "tendency",
]


def class_similarity(
    image_features: np.ndarray, labels: np.ndarray, text_features: np.ndarray
) -> np.ndarray:
    """Similarity of each pair of classes, by images or by texts (``S``, method section 2).

    ``S[i, j] = max(cos(v_i, v_j), cos(w_i, w_j))`` with ``v_c`` the mean feature of the images
    labeled c, or the class's text feature ``w_c`` if there are none.

    Parameters
    ----------
    image_features : array-like of shape (n_images, n_features)
        ``Z``, unit rows.
    labels : array-like of shape (n_images,), dtype int
        Pseudolabel of each image, -1 for none.
    text_features : array-like of shape (n_classes, n_features)
        ``W``, unit rows.

    Returns
    -------
    ndarray of shape (n_classes, n_classes), dtype float64
        Symmetric, in [-1, 1], ones on the diagonal.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.margins import class_similarity
    >>> class_similarity(np.array([[1.0, 0.0], [0.6, 0.8]]), [0, 1], np.eye(2))
    array([[1. , 0.6],
           [0.6, 1. ]])
    """
    texts = np.asarray(text_features, dtype=np.float64)
    labels = np.asarray(labels)
    labeled = np.flatnonzero(labels != UNLABELED)
    membership = sparse.csr_array(
        (np.ones(len(labeled)), (labels[labeled], labeled)), shape=(len(texts), len(labels))
    )
    sums = membership @ np.asarray(image_features, dtype=np.float64)
    has_images = np.bincount(labels[labeled], minlength=len(texts)) > 0
    means = np.where(has_images[:, None], sums, texts)
    similarity = np.maximum(_cosines(means), _cosines(texts))
    np.fill_diagonal(similarity, 1.0)
    return similarity


def _cosines(rows: np.ndarray) -> np.ndarray:
    unit = unit_rows(rows)
    return np.clip(unit @ unit.T, -1.0, 1.0)


def class_counts_above(
    labels: np.ndarray, confidence: np.ndarray, tau: float, n_classes: int
) -> np.ndarray:
    """Count the confident predictions of each class (``sigma(c)``, method section 2).

    Parameters
    ----------
    labels : array-like of shape (n_images,), dtype int
        Predicted class of each image, -1 for none.
    confidence : array-like of shape (n_images,)
        Probability of the predicted class.
    tau : float
        Confidence above which a prediction counts, in [0, 1].
    n_classes : int

    Returns
    -------
    ndarray of shape (n_classes,), dtype int64

    Examples
    --------
    >>> from capkit.margins import class_counts_above
    >>> class_counts_above([0, 0, 1, -1], [0.9, 0.95, 0.5, 0.99], tau=0.85, n_classes=3)
    array([2, 0, 0])
    """
    labels, confidence = np.asarray(labels), np.asarray(confidence)
    counted = labels[(labels != UNLABELED) & (confidence > tau)]
    return np.bincount(counted, minlength=n_classes)


def tendency(
    counts: np.ndarray,
    seen: Sequence[int] | np.ndarray = (),
    proportions: np.ndarray | None = None,
) -> np.ndarray:
    """How far each class lags behind the most predicted one (``delta``, method section 2).

    ``delta_c = 1 - sigma(c) / max_j sigma(j)``. Seen classes count as predicted as often as the
    most predicted unseen class, so their tendency is 0: their images are labeled, and how often
    unlabeled images are predicted as seen classes says nothing about a bias.

    Parameters
    ----------
    counts : array-like of shape (n_classes,)
        ``sigma``, see :func:`class_counts_above`.
    seen : sequence of int, default=()
        Indices of the classes whose images are labeled (paradigm "trzsl").
    proportions : array-like of shape (n_classes,) or None, default=None
        Relative frequencies of the classes: ``sigma(c) / proportions(c)`` replaces ``sigma(c)``.
        None means equal frequencies (as in the paper).

    Returns
    -------
    ndarray of shape (n_classes,), dtype float64
        In [0, 1]. All zero if there is no confident prediction of an unseen class, because then
        nothing shows that one class is preferred.

    Examples
    --------
    >>> from capkit.margins import tendency
    >>> tendency([4, 2, 0])
    array([0. , 0.5, 1. ])
    >>> tendency([4, 2, 0], seen=[0])
    array([0., 0., 1.])
    >>> tendency([4, 2, 0], proportions=[2, 1, 1])
    array([0., 0., 1.])
    """
    counts = np.asarray(counts, dtype=np.float64)
    if proportions is not None:
        counts = counts / np.asarray(proportions, dtype=np.float64)
    unseen = np.ones(len(counts), dtype=bool)
    unseen[np.asarray(seen, dtype=np.int64)] = False
    largest = counts[unseen].max(initial=0.0)
    if largest == 0:
        return np.zeros(len(counts))
    return np.where(unseen, 1.0 - counts / largest, 0.0)


def margin_scale(delta: np.ndarray, m: float, form: str = "paper") -> np.ndarray:
    """Size of each class's margin (``m_c``, method section 2).

    "paper" is ``m * Delta * delta_c`` with ``Delta = max_c delta_c``. "official", the formula of
    the authors' code, is ``m * Delta * (1 - r_c) / (1 + r_c)`` with ``r_c = 1 - delta_c``; there
    ``Delta`` is written ``max r - min r``, which is the same because the largest r is 1.

    Parameters
    ----------
    delta : array-like of shape (n_classes,)
        See :func:`tendency`, in [0, 1].
    m : float
        Margin of a class without any confident prediction, in units of the logits, at least 0.
    form : {"paper", "official"}, default="paper"

    Returns
    -------
    ndarray of shape (n_classes,), dtype float64
        In [0, `m`].

    Raises
    ------
    ValueError
        If `form` is anything else.

    Examples
    --------
    >>> from capkit.margins import margin_scale
    >>> margin_scale([0.0, 0.5, 1.0], m=12.0)
    array([ 0.,  6., 12.])
    >>> margin_scale([0.0, 0.5, 1.0], m=12.0, form="official")
    array([ 0.,  4., 12.])
    """
    delta = np.asarray(delta, dtype=np.float64)
    spread = delta.max(initial=0.0)
    if form == "paper":
        return m * spread * delta
    if form == "official":
        ratio = 1.0 - delta
        return m * spread * (1.0 - ratio) / (1.0 + ratio)
    raise ValueError(f"expected form 'paper' or 'official', got {form!r}")


def margin_matrix(similarity: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """``M[i, j] = S[i, j] * m_i`` (method section 2).

    Parameters
    ----------
    similarity : array-like of shape (n_classes, n_classes)
        See :func:`class_similarity`.
    scale : array-like of shape (n_classes,)
        See :func:`margin_scale`.

    Returns
    -------
    ndarray of shape (n_classes, n_classes)

    Examples
    --------
    >>> from capkit.margins import margin_matrix
    >>> margin_matrix([[1.0, 0.5], [0.5, 1.0]], [0.0, 6.0])
    array([[0., 0.],
           [3., 6.]])
    """
    return np.asarray(similarity) * np.asarray(scale)[:, None]


def margin_cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    margin: torch.Tensor,
) -> torch.Tensor:
    """Cross entropy with a margin for every pair of classes (``L_m``, method section 2).

    ``-log(e^{z_y} / (e^{z_y} + sum_{c != y} e^{z_c + M[y, c]}))``: plain cross entropy on
    ``z + M[y] * (1 - onehot(y))``. The diagonal of `margin` is not used.

    Parameters
    ----------
    logits : tensor of shape (n_samples, n_classes)
        ``z``.
    targets : tensor of shape (n_samples,), dtype int64
        ``y``, class of each sample.
    margin : tensor of shape (n_classes, n_classes)
        ``M``, see :func:`margin_matrix`; a constant, converted to the logits' device and dtype.

    Returns
    -------
    tensor of shape (n_samples,)
        Loss of each sample.

    Examples
    --------
    >>> import torch
    >>> from capkit.margins import margin_cross_entropy
    >>> logits, targets = torch.zeros(1, 2), torch.tensor([0])
    >>> print(f"{margin_cross_entropy(logits, targets, torch.zeros(2, 2)).item():.4f}")
    0.6931
    >>> margin = torch.full((2, 2), 3.0).log()
    >>> print(f"{margin_cross_entropy(logits, targets, margin).item():.4f}")
    1.3863
    """
    of_target = margin.to(logits)[targets]
    targets = targets.unsqueeze(1)
    shifted = logits + of_target.scatter(1, targets, 0.0)
    return shifted.logsumexp(dim=1) - logits.gather(1, targets).squeeze(1)


class MarginCalibrator(ConceptStage):
    """Measure which classes are predicted too rarely and set a margin for every pair of classes.

    Of two similar classes, one often gets too many of the images. The margin raises the loss of
    the other class's samples, most strongly against the classes that it resembles, so that
    training pulls them apart. See the method's section 2.

    Parameters
    ----------
    m : float, default=12.0
        Margin of a class without any confident prediction, in units of the logits. The paper
        uses 14 for FGVCAircraft.
    tau : float, default=0.85
        Probability above which a prediction counts as confident, in [0, 1]. The paper uses 0.5
        for FGVCAircraft.
    form : {"paper", "official"}, default="paper"
        How the tendency becomes a margin, see :func:`~capkit.margins.margin_scale`.
    use_similarity : bool, default=True
        Whether similar classes get a larger margin. False sets ``S`` to 1 for every pair.
    use_tendency : bool, default=True
        Whether rarely predicted classes get a larger margin. False sets ``m_c = m`` for every
        class except the seen ones.

    Attributes
    ----------
    counts_ : ndarray of shape (n_classes,), dtype int64
        ``sigma``: number of images confidently predicted as each class.
    tendency_ : ndarray of shape (n_classes,)
        ``delta``: 0 for the most predicted class, 1 for one that is never predicted.
    scale_ : ndarray of shape (n_classes,)
        ``m_c``: margin of each class.
    similarity_ : ndarray of shape (n_classes, n_classes)
        ``S``: similarity of the classes.
    margin_matrix_ : ndarray of shape (n_classes, n_classes), dtype float32
        ``M``: ``M[i, j]`` is added to the logit of class j for a sample of class i.
    class_names_ : tuple of str or None
        Names of the classes; None if it was fitted with :meth:`fit_from_predictions`.
    n_features_in_ : int
        Width ``d`` of the features.

    See Also
    --------
    ConceptAligner : The stage before this one.
    capkit.margins.margin_cross_entropy : The loss that uses the matrix.

    References
    ----------
    Wang et al., "Handling Imbalanced Pseudolabels for Vision-Language Models with Concept
    Alignment and Confusion-Aware Calibrated Margin", ICML 2025, :arxiv:`2505.02056`.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit import ConceptSpace, MarginCalibrator
    >>> images = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> space = ConceptSpace(images, np.eye(2), ["cat", "dog"])
    >>> calibrator = MarginCalibrator(m=12.0).fit(space)
    >>> calibrator.counts_, calibrator.tendency_, calibrator.scale_
    (array([2, 1]), array([0. , 0.5]), array([0., 3.]))
    >>> calibrator.transform(space).margin.margin_matrix
    array([[0., 0.],
           [0., 3.]], dtype=float32)
    """

    _parameter_constraints: dict = {
        "m": [Interval(Real, 0, None, closed="left")],
        "tau": [Interval(Real, 0, 1, closed="both")],
        "form": [StrOptions({"paper", "official"})],
        "use_similarity": ["boolean"],
        "use_tendency": ["boolean"],
    }

    def __init__(self, m=12.0, tau=0.85, form="paper", use_similarity=True, use_tendency=True):
        self.m = m
        self.tau = tau
        self.form = form
        self.use_similarity = use_similarity
        self.use_tendency = use_tendency

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ConceptSpace, y=None) -> MarginCalibrator:
        """Fit from the space's own predictions.

        Parameters
        ----------
        X : ConceptSpace
        y : ignored

        Returns
        -------
        self : MarginCalibrator
        """
        space = check_concept_space(X, self, min_images=1)
        self.class_names_: tuple[str, ...] | None = space.class_names
        probabilities = space.predict_proba()
        return self._fit(
            space.image_features,
            space.text_features,
            probabilities.argmax(axis=1),
            probabilities.max(axis=1),
        )

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_from_predictions(
        self,
        image_features: np.ndarray,
        text_features: np.ndarray,
        labels: np.ndarray,
        confidence: np.ndarray,
        seen: Sequence[int] | np.ndarray = (),
        proportions: np.ndarray | None = None,
    ) -> MarginCalibrator:
        """Fit from a model's predictions, as training does after every epoch.

        Parameters
        ----------
        image_features : array-like of shape (n_images, n_features)
        text_features : array-like of shape (n_classes, n_features)
        labels : array-like of shape (n_images,), dtype int
            Predicted class of each image, -1 for images without a prediction.
        confidence : array-like of shape (n_images,)
            Probability of the predicted class.
        seen : sequence of int, default=()
            Indices of the classes whose images are labeled; they get no margin.
        proportions : array-like of shape (n_classes,) or None, default=None
            How frequent the classes are, see :func:`~capkit.margins.tendency`.

        Returns
        -------
        self : MarginCalibrator

        Raises
        ------
        ValueError
            If the lengths differ or a label is not a class index.
        """
        labels = np.asarray(labels, dtype=np.int64)
        n_classes = len(text_features)
        if not len(image_features) == len(labels) == len(confidence):
            raise ValueError(
                "expected image_features, labels and confidence of one length, got "
                f"{len(image_features)}, {len(labels)} and {len(confidence)}"
            )
        if len(labels) and not (labels.min() >= UNLABELED and labels.max() < n_classes):
            raise ValueError(
                f"expected labels from -1 to {n_classes - 1}, got {labels.min()} to {labels.max()}"
            )
        self.class_names_ = None
        return self._fit(image_features, text_features, labels, confidence, seen, proportions)

    def _fit(self, image_features, text_features, labels, confidence, seen=(), proportions=None):
        n_classes = len(text_features)
        seen = _check_seen(seen, n_classes)
        self.counts_ = class_counts_above(labels, confidence, self.tau, n_classes)
        nothing_confident = not np.delete(self.counts_, seen).any() and len(seen) < n_classes
        if nothing_confident and self.use_tendency:
            warnings.warn(
                f"no image is predicted with a confidence above tau={self.tau}: the margin is "
                "zero everywhere. Lower tau to get one.",
                NoConfidentPredictionWarning,
                stacklevel=4,
            )
        self.tendency_ = tendency(self.counts_, seen, proportions)
        self.scale_ = margin_scale(self.tendency_, self.m, self.form)
        if not self.use_tendency:
            self.scale_ = np.where(np.isin(np.arange(n_classes), seen), 0.0, float(self.m))
        self.similarity_ = class_similarity(image_features, labels, text_features)
        if not self.use_similarity:
            self.similarity_ = np.ones_like(self.similarity_)
        self.margin_matrix_ = margin_matrix(self.similarity_, self.scale_).astype(np.float32)
        self.n_features_in_ = np.shape(text_features)[1]
        return self

    def transform(self, X: ConceptSpace) -> ConceptSpace:
        """Add the margin to a space, as :class:`~capkit.space.MarginResult`.

        Parameters
        ----------
        X : ConceptSpace
            With the classes that the calibrator was fitted on.

        Returns
        -------
        ConceptSpace

        Raises
        ------
        ValueError
            If its classes or its number of features differ from those of the fit.
        """
        check_is_fitted(self)
        space = check_concept_space(X, self)
        if self.class_names_ is not None:
            check_fitted_classes(space, self, self.class_names_)
        elif space.n_classes != len(self.counts_):
            raise ValueError(
                f"MarginCalibrator was fitted on {len(self.counts_)} classes, got a ConceptSpace "
                f"of {space.n_classes}"
            )
        check_fitted_width(space, self, self.n_features_in_)
        return dataclasses.replace(space, margin=MarginResult(self.margin_matrix_, clone(self)))


def _check_seen(seen: Sequence[int] | np.ndarray, n_classes: int) -> np.ndarray:
    indices = np.unique(np.asarray(seen, dtype=np.int64))
    if len(indices) and not (indices[0] >= 0 and indices[-1] < n_classes):
        raise ValueError(
            f"expected seen classes between 0 and {n_classes - 1}, got {indices.tolist()}"
        )
    return indices
