"""Replacing the texts of mismatched classes (concept alignment, method section 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from numbers import Integral

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import check_is_fitted

from capkit._arrays import unit_rows
from capkit.backbones.reloading import check_same_backbone, reload_backbone
from capkit.base import ConceptStage, check_concept_space, check_fitted_classes
from capkit.mismatch import MismatchDetector, pair_with_centers
from capkit.space import AlignmentResult, ConceptSpace, MismatchResult

__all__ = ["ConceptAligner", "choose_descriptions", "move_across_gap"]


def move_across_gap(
    centers: np.ndarray, image_mean: np.ndarray, text_mean: np.ndarray
) -> np.ndarray:
    """Turn centres of images into text features (alignment without any text).

    Images and texts lie in two narrow cones, so the centre of a class's images is far from any
    text. What it deviates from the mean of the images by is what it says of its class; that is
    added to the mean of the texts.

    Parameters
    ----------
    centers : array-like of shape (n, n_features)
        Unit rows.
    image_mean : array-like of shape (n_features,)
    text_mean : array-like of shape (n_features,)

    Returns
    -------
    ndarray of shape (n, n_features), dtype float32
        Unit rows.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.alignment import move_across_gap
    >>> move_across_gap(np.array([[0.6, 0.8]]), np.array([0.6, 0.0]), np.array([0.0, 0.2]))
    array([[0., 1.]], dtype=float32)
    """
    moved = np.asarray(centers) - np.asarray(image_mean) + np.asarray(text_mean)
    return unit_rows(moved.astype(np.float32))


def choose_descriptions(
    description_features: Sequence[np.ndarray], centers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Choose a description for each class, and which of the centres is the class's.

    Classes and centres are paired by a linear assignment: the similarity of a class and a centre
    is that of its most similar description, and the sum over the pairs is the largest possible.

    Parameters
    ----------
    description_features : sequence of n_classes arrays of shape (n_descriptions, n_features)
        Unit rows; the number of descriptions may differ between the classes.
    centers : ndarray of shape (n_classes, n_features)
        Unit rows.

    Returns
    -------
    chosen : ndarray of shape (n_classes,), dtype int64
        Index of each class's description that is most similar to its centre.
    center_of_class : ndarray of shape (n_classes,), dtype int64
        Row of `centers` of each class.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.alignment import choose_descriptions
    >>> first = np.array([[1.0, 0.0], [0.6, 0.8]])
    >>> second = np.array([[0.8, 0.6]])
    >>> choose_descriptions([first, second], np.eye(2))
    (array([1, 0]), array([1, 0]))
    """
    similarity = [
        np.asarray(features) @ np.asarray(centers).T for features in description_features
    ]
    center_of_class = pair_with_centers(np.array([rows.max(axis=0) for rows in similarity]))
    chosen = [
        rows[:, center].argmax() for rows, center in zip(similarity, center_of_class, strict=True)
    ]
    return np.array(chosen, dtype=np.int64), center_of_class


class ConceptAligner(ConceptStage):
    """Give the mismatched classes a text feature that fits their images.

    With a `describer`, each mismatched class gets the description that is most similar to the
    cluster of images that is the class's. Without one all texts stay as they are; or, with
    `use_centers`, the centre of this cluster, moved across the modality gap, stands in for the
    text feature. See the method's section 1.

    Parameters
    ----------
    describer : describer or None, default=None
        Gives visual descriptions of a class: one of :mod:`capkit.describers`, or any callable
        ``(class_name, n) -> list of str``.
    n_descriptions : int, default=8
        Number of descriptions of each mismatched class.
    use_centers : bool, default=False
        Whether to align by the clusters' centres where there is no describer. A centre stands
        out from the mean of the images by far more than a text does from the mean of the texts,
        so that on OpenAI's CLIP a class aligned this way takes most images of the others. It
        helps where images and texts lie close together, as those of the embedded model do.
    device : str, default="auto"
        Where the text tower encodes the descriptions.
    random_state : int, RandomState instance or None, default=None
        For detection, where the space carries none.

    Attributes
    ----------
    detector_ : MismatchDetector or None
        The fitted detector; None where the space carried a detection.
    mismatched_ : ndarray of shape (n_mismatched,), dtype int64
        Indices of the mismatched classes, ascending.
    aligned_ : ndarray of shape (n_aligned,), dtype int64
        Indices of the classes whose text feature was replaced: the mismatched ones, but for
        those that have no cluster of images and no descriptions. Empty without a describer,
        unless `use_centers`.
    descriptions_ : dict of str to str
        The chosen description of each mismatched class. Empty without a describer.
    candidate_descriptions_ : dict of str to list of str
        All descriptions that there were to choose from, of each mismatched class; what
        :func:`capkit.describers.save_descriptions` writes to a table.
    text_features_ : ndarray of shape (n_classes, n_features), dtype float32
        Aligned text features, unit rows.
    prompts_ : tuple of str or None
        The text behind each class's feature, where the space has them.
    shift_ : ndarray of shape (n_classes, n_features), dtype float32
        Aligned minus zero-shot text feature of the classes aligned without a text; else zero.
    class_names_ : tuple of str
        Names of the classes that the aligner was fitted on.
    n_features_in_ : int
        Width ``d`` of the features.

    See Also
    --------
    MismatchDetector : The stage before this one.
    MarginCalibrator : The stage behind it.
    capkit.baselines.ZeroShotClassifier : Classifies by the aligned texts, behind this stage.

    Notes
    -----
    A description is encoded as it is, formatted into no template. The image mean and the text
    mean that bridge the gap are those over the classes that are not mismatched: of their cluster
    centres and of their texts.

    References
    ----------
    Wang et al., "Handling Imbalanced Pseudolabels for Vision-Language Models with Concept
    Alignment and Confusion-Aware Calibrated Margin", ICML 2025, :arxiv:`2505.02056`.

    Examples
    --------
    >>> from capkit import ConceptAligner
    >>> from capkit.datasets import make_concept_space
    >>> problem = make_concept_space(n_mismatched=2, random_state=0)
    >>> zero_shot = (problem.space.predict() == problem.target).mean()
    >>> aligner = ConceptAligner(use_centers=True, random_state=0)
    >>> space = aligner.fit_transform(problem.space)
    >>> aligned = (space.predict() == problem.target).mean()
    >>> print(f"{zero_shot:.2f} {aligned:.2f}")
    0.91 0.99
    """

    _parameter_constraints: dict = {
        "describer": [callable, HasMethods(["describe"]), None],
        "n_descriptions": [Interval(Integral, 1, None, closed="left")],
        "use_centers": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        describer=None,
        n_descriptions=8,
        use_centers=False,
        device="auto",
        random_state=None,
    ):
        self.describer = describer
        self.n_descriptions = n_descriptions
        self.use_centers = use_centers
        self.device = device
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ConceptSpace, y=None) -> ConceptAligner:
        """Align the mismatched classes of a space.

        Parameters
        ----------
        X : ConceptSpace
            With a detection; or without, then a :class:`~capkit.MismatchDetector` with its
            defaults detects first.
        y : ignored

        Returns
        -------
        self : ConceptAligner

        Raises
        ------
        ValueError
            If a describer is given, but the space does not say which backbone made it.
        DescriberError
            If the describer fails or says nothing usable.
        BackboneMismatchError
            If the space was made by another backbone than the one of its name.
        """
        space = check_concept_space(X, self, min_images=1)
        self.n_features_in_ = space.shape[1]
        self.class_names_ = space.class_names
        self._mismatch = self._detect(space)
        self.mismatched_ = self._mismatch.mismatched
        self.text_features_ = space.text_features.copy()
        self.prompts_ = space.prompts
        self.descriptions_: dict[str, str] = {}
        self.candidate_descriptions_: dict[str, list[str]] = {}
        self.shift_ = np.zeros_like(space.text_features)
        self.aligned_ = self.mismatched_[:0]
        if self.describer is not None:
            self._align_by_text(space)
        elif self.use_centers:
            self._align_by_centers(space)
        self._backbone_id = space.backbone_id
        return self

    def _detect(self, space: ConceptSpace) -> MismatchResult:
        self.detector_ = None
        if space.mismatch is not None:
            return space.mismatch
        self.detector_ = MismatchDetector(random_state=self.random_state).fit(space)
        return self.detector_.transform(space).mismatch

    def _align_by_centers(self, space: ConceptSpace) -> None:
        centers = self._mismatch.class_centers
        has_center = np.any(centers != 0, axis=1)
        fitting = np.setdiff1d(np.flatnonzero(has_center), self.mismatched_)
        self.aligned_ = self.mismatched_[has_center[self.mismatched_]]
        if not len(self.aligned_):
            return
        if not len(fitting):
            raise ValueError(
                "every class is mismatched, so that nothing shows how images and texts lie to "
                "each other. Use a smaller t, or a describer."
            )
        self.text_features_[self.aligned_] = move_across_gap(
            centers[self.aligned_],
            image_mean=centers[fitting].mean(axis=0),
            text_mean=space.text_features[fitting].mean(axis=0),
        )
        self.shift_ = self.text_features_ - space.text_features

    def _align_by_text(self, space: ConceptSpace) -> None:
        from capkit.describers import describe_classes

        self.aligned_ = self.mismatched_
        if not len(self.mismatched_):
            return
        names = [space.class_names[index] for index in self.mismatched_]
        encode = _text_encoder(space, self.device)  # fails before a language model is asked
        candidates = describe_classes(self.describer, names, self.n_descriptions)
        self.candidate_descriptions_ = candidates
        features = [encode(candidates[name]) for name in names]
        chosen, center_of_class = choose_descriptions(
            features, self._mismatch.class_centers[self.mismatched_]
        )
        prompts = None if space.prompts is None else list(space.prompts)
        for index, name, of_class, choice in zip(
            self.mismatched_, names, features, chosen, strict=True
        ):
            self.descriptions_[name] = candidates[name][choice]
            self.text_features_[index] = of_class[choice]
            if prompts is not None:
                prompts[index] = self.descriptions_[name]
        self.prompts_ = None if prompts is None else tuple(prompts)
        centers = self._mismatch.class_centers.copy()
        centers[self.mismatched_] = centers[self.mismatched_][center_of_class]
        self._mismatch = dataclasses.replace(self._mismatch, class_centers=centers)

    def transform(self, X: ConceptSpace) -> ConceptSpace:
        """Replace the texts of a space by the aligned ones; nothing is aligned anew.

        Parameters
        ----------
        X : ConceptSpace
            Of the classes and the backbone that the aligner was fitted on.

        Returns
        -------
        ConceptSpace
            With an :class:`~capkit.space.AlignmentResult`.
        """
        check_is_fitted(self)
        space = check_concept_space(X, self)
        check_fitted_classes(space, self, self.class_names_)
        check_same_backbone(
            space.backbone_id, self._backbone_id, name=space.backbone, owner=type(self).__name__
        )
        result = AlignmentResult(
            shift=self.shift_,
            aligned=self.aligned_,
            descriptions=dict(self.descriptions_),
        )
        return dataclasses.replace(
            space,
            text_features=self.text_features_,
            prompts=self.prompts_,
            mismatch=self._mismatch,
            alignment=result,
        )


def _text_encoder(space: ConceptSpace, device: str):
    """Return a function from texts to unit features, of the backbone that made the space."""
    backbone = reload_backbone(
        space.backbone, space.backbone_id, device=device, owner="the ConceptSpace"
    )

    def encode(texts: Sequence[str]) -> np.ndarray:
        return backbone.encode_texts(texts).cpu().numpy()

    return encode
