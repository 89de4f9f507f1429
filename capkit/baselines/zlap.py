"""ZLaP: labels propagated from the texts through nearest neighbours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.linalg import cg
from sklearn.utils._param_validation import Interval

from capkit._threads import one_thread
from capkit.baselines._neighbors import nearest_neighbors, same_image
from capkit.image_classifier import ImageClassifier

if TYPE_CHECKING:
    from capkit.encoder import CLIPEncoder
    from capkit.images import ImageSource
    from capkit.space import ConceptSpace

__all__ = ["ZLaPClassifier"]

# Tolerance of the residual, relative to the right-hand side.
_TOLERANCE = 1e-8
# Score of a class that no path in the graph leads to.
_TINY = 1e-30


class ZLaPClassifier(ImageClassifier):
    r"""Classify images by labels that spread from the texts through nearest neighbours.

    ZLaP: texts and images are the nodes of a graph, in which each image has edges to its nearest
    images and to its nearest texts. The two searches are separate, because every image is closer
    to other images than to any text. The weight of an edge is ``max(0, u . v) ** gamma``. Edges
    count from both ends, ``W = A + A.T``, and are normalised by the nodes' degrees ``D``. The
    scores ``F`` of all nodes solve

    .. math:: (I - \alpha D^{-1/2} W D^{-1/2}) F = Y

    where ``Y`` is one for each text and its class, and zero otherwise.

    Parameters
    ----------
    class_names : sequence of str or None, default=None
        Names of the classes; pass them here or to :meth:`fit`.
    backbone : str or path, default="auto"
        Name of the model, see :func:`~capkit.backbones.load_backbone`. This and the next two are
        ignored if a ConceptSpace is given.
    encoder : CLIPEncoder or None, default=None
        How images and class names are encoded. None means a :class:`~capkit.CLIPEncoder` with its
        defaults.
    device : str, default="auto"
        ``"auto"`` means CUDA if there is a device, else Apple's GPU (MPS), else the CPU.
    n_neighbors : int, default=5
        ``k``, number of nearest images and of nearest texts of each image, at least 1.
    gamma : float, default=5.0
        Exponent of similarities, above 0.
    alpha : float, default=0.3
        How far labels spread, in (0, 1). The smaller it is, the more an image's own nearest texts
        decide.
    verbose : int, default=0
        Above 0, a progress bar is shown while images are encoded.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted: names or indices, as in `y`; names if there was no `y`. The columns of
        :meth:`predict_proba` are in this order.
    class_names_ : tuple of str
        Names of the classes, in the order in which they were given.
    n_features_in_ : int
        Width ``d`` of the features.
    text_scores_ : ndarray of shape (n_classes, n_classes), dtype float32
        ``F`` of the texts, columns in the order of `class_names_`.
    image_scores_ : ndarray of shape (n_images, n_classes), dtype float32
        ``F`` of the training images.
    text_degrees_ : ndarray of shape (n_classes,)
        ``D`` of the texts.
    image_degrees_ : ndarray of shape (n_images,)
        ``D`` of the images.
    image_features_ : ndarray of shape (n_images, d), dtype float32
        Features of the training images, among which new images find their neighbours.
    text_features_ : ndarray of shape (n_classes, d), dtype float32
        Unit rows, in the order of `class_names_`.
    logit_scale_ : float
        ``s``, the factor between cosine similarities and logits. Not used.
    backbone_name_ : str or None
        Name of the model; None if features were given without one.
    backbone_id_ : str or None
        Fingerprint of its configuration and weights.

    See Also
    --------
    TransCLIPClassifier : Neighbours, Gaussians and texts.

    Notes
    -----
    Implemented from the paper's description of the method, not from its code. The graph of texts
    and images and the system of equations are the paper's; the defaults are from the example in
    the authors' repository. Some details are assumed to match the paper but were not checked
    against it: the separate searches, the exponent for both kinds of edges and its use on the
    unmodified similarities, and counting an edge twice if it is found from both ends.

    A new image gets an edge to each of its neighbours, whose scores do not change. Its own scores
    follow from the same equation, ``f = alpha * sum_j w_j / sqrt(d d_j) F_j`` with ``d = sum_j
    w_j``. The paper solves the dual problem for a new image and makes it sparse; how it scales the
    new edges is not known here. Training images, recognised by their features, keep theirs.

    Probabilities are scores divided by their sum; they are far from 1 even if the prediction is
    right.

    References
    ----------
    Stojnić, Kalantidis and Tolias, "Label Propagation for Zero-shot Classification with
    Vision-Language Models", CVPR 2024.

    Examples
    --------
    >>> from capkit.baselines import ZLaPClassifier
    >>> from capkit.datasets import load_digits
    >>> train, test = load_digits(split="train"), load_digits(split="test")
    >>> classifier = ZLaPClassifier(backbone="glyph")
    >>> classifier = classifier.fit(train.images, class_names=train.class_names)
    >>> print(f"{classifier.score(test.images, test.target):.2f}")
    0.87
    """

    _parameter_constraints: ClassVar[dict] = {
        **ImageClassifier._parameter_constraints,
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "gamma": [Interval(Real, 0, None, closed="neither")],
        "alpha": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(
        self,
        *,
        class_names: Sequence[str] | None = None,
        backbone: str | os.PathLike = "auto",
        encoder: CLIPEncoder | None = None,
        device: str = "auto",
        n_neighbors: int = 5,
        gamma: float = 5.0,
        alpha: float = 0.3,
        verbose: int = 0,
    ):
        self.class_names = class_names
        self.backbone = backbone
        self.encoder = encoder
        self.device = device
        self.n_neighbors = n_neighbors
        self.gamma = gamma
        self.alpha = alpha
        self.verbose = verbose

    def _check_settings(self, images: ConceptSpace | ImageSource) -> None:
        self._make_encoder()  # raises if its settings contradict the classifier's

    def _fit_space(self, space: ConceptSpace, labels: np.ndarray) -> None:
        self.text_features_ = space.text_features
        self.image_features_ = space.image_features
        with one_thread(space.image_features.size):
            self._propagate(*self._edges(space.image_features, leave_out_self=True)[:2])

    def _edges(
        self, features: np.ndarray, *, leave_out_self: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Neighbours of images as nodes, texts before images; weights; neighbours among images."""
        texts, by_text = nearest_neighbors(features, self.text_features_, self.n_neighbors)
        images, by_image = nearest_neighbors(
            features, self.image_features_, self.n_neighbors, leave_out_self=leave_out_self
        )
        nodes = np.hstack([texts, len(self.text_features_) + images])
        similarities = np.hstack([by_text, by_image]).astype(np.float64)
        return nodes, np.maximum(similarities, 0.0) ** self.gamma, images

    def _propagate(self, nodes: np.ndarray, weights: np.ndarray) -> None:
        n_texts, n = len(self.text_features_), len(self.text_features_) + len(nodes)
        # no edge starts at a text
        ends = np.r_[np.zeros(n_texts, dtype=np.int64), np.arange(len(nodes) + 1) * nodes.shape[1]]
        found = csr_array((weights.ravel(), nodes.ravel(), ends), shape=(n, n))
        graph = found + found.T
        degrees = np.asarray(graph.sum(axis=1))
        scale = diags_array(_inverse_root(degrees))
        system = eye_array(n) - self.alpha * (scale @ graph @ scale)
        scores = np.empty((n, n_texts), dtype=np.float32)
        for text in range(n_texts):
            scores[:, text] = _solve(system, text)
        self.text_scores_, self.image_scores_ = scores[:n_texts], scores[n_texts:]
        self.text_degrees_, self.image_degrees_ = degrees[:n_texts], degrees[n_texts:]

    def _logits(self, images: ConceptSpace | ImageSource) -> np.ndarray:
        features = self._encode_new(images)
        with one_thread(features.size):
            nodes, weights, neighbors = self._edges(features)
            weights = weights * _inverse_root(weights.sum(axis=1))[:, None]
            degrees = np.r_[self.text_degrees_, self.image_degrees_]
            weights *= _inverse_root(degrees)[nodes]
            ends = np.arange(len(nodes) + 1) * nodes.shape[1]
            steps = csr_array(
                (weights.ravel(), nodes.ravel(), ends), shape=(len(nodes), len(degrees))
            )
            scores = self.alpha * (steps @ np.vstack([self.text_scores_, self.image_scores_]))
            known, places = same_image(features, self.image_features_, neighbors)
            scores[known] = self.image_scores_[places]
        return np.log(np.maximum(scores, _TINY)).astype(np.float32)


def _inverse_root(degrees: np.ndarray) -> np.ndarray:
    """``D ** -0.5``; zero for a node without edges."""
    return np.power(degrees, -0.5, out=np.zeros_like(degrees), where=degrees > 0)


def _solve(system: csr_array, text: int) -> np.ndarray:
    """Scores of all nodes for the class of one text; rounding alone makes one negative."""
    labeled = np.zeros(system.shape[0])
    labeled[text] = 1.0
    scores, _ = cg(system, labeled, rtol=_TOLERANCE)
    return np.maximum(scores, 0.0)
