"""Replacing the texts of mismatched classes (concept alignment, method section 1)."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from capkit._arrays import unit_rows
from capkit.backbones.reloading import check_same_backbone, reload_backbone
from capkit.base import (
    ConceptStage,
    check_concept_space,
    check_fitted_classes,
    check_fitted_width,
)
from capkit.descriptions import (
    choose_descriptions,
    doubt_of_text,
    labels_with_texts,
    resembles_own_cluster,
    resembles_own_name,
)
from capkit.exceptions import AdaptationWarning
from capkit.mismatch import MismatchDetector
from capkit.space import AlignmentResult, ConceptSpace, MismatchResult

__all__ = ["ConceptAligner", "move_across_gap"]

# Largest number of images by which a description is judged: more would not change the verdict.
_JUDGED_IMAGES = 50_000


def move_across_gap(
    centers: np.ndarray, image_mean: np.ndarray, text_mean: np.ndarray
) -> np.ndarray:
    """Turn centres of images into text features (alignment without a describer).

    Images and texts lie in two narrow cones, so the centre of a class's images is far from any
    text. The deviation of the centre from the image mean is what characterises its class; it is
    added to the text mean.

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


class ConceptAligner(ConceptStage):
    """Give the mismatched classes a text feature that fits their images.

    With a `describer`, the candidates for a mismatched class are the descriptions that the images
    show to be better than its present text; the one most similar to the class's image cluster is
    chosen. Without a describer all texts stay unchanged, or, with `use_centers`, the cluster's
    centre, moved across the modality gap, replaces the text feature. See the method's section 1.

    Parameters
    ----------
    describer : describer or None, default=None
        Gives visual descriptions of a class: one of :mod:`capkit.describers`, or any callable
        ``(class_name, n) -> list of str``.
    n_descriptions : int, default=8
        Number of descriptions to get for each mismatched class.
    use_centers : bool, default=False
        Whether to align with the cluster centres if there is no describer. A centre deviates from
        the image mean far more than a text deviates from the text mean, so with OpenAI's CLIP a
        class aligned this way takes most images of the other classes. It helps if images and texts
        lie close together, as with the embedded model.
    accept : {"images", "always"}, default="images"
        When a description replaces a class's text. "images": if it describes its own class rather
        than another one, and the label changes that it causes are clear. "always": the most
        similar description always does, as in the paper.
    device : str, default="auto"
        Where the text tower encodes the descriptions.
    random_state : int, RandomState instance or None, default=None
        Used for detection, if the space carries no detection result.

    Attributes
    ----------
    detector_ : MismatchDetector or None
        The fitted detector; None if the space carried a detection result.
    mismatched_ : ndarray of shape (n_mismatched,), dtype int64
        Indices of the mismatched classes, ascending.
    aligned_ : ndarray of shape (n_aligned,), dtype int64
        Indices of the classes whose text feature was replaced. With a describer: the mismatched
        classes, except those whose descriptions were refused. With `use_centers` instead: the
        mismatched classes that have an image cluster. Otherwise empty.
    descriptions_ : dict of str to str
        The chosen description of each class that got one. Empty without a describer.
    rejected_descriptions_ : dict of str to str
        The mismatched classes that got no description, each with the reason against the
        description that is most similar to the class's cluster. A warning lists them too.
    candidate_descriptions_ : dict of str to list of str
        All candidate descriptions of each mismatched class;
        :func:`capkit.describers.save_descriptions` writes them to a table.
    text_features_ : ndarray of shape (n_classes, n_features), dtype float32
        Aligned text features, unit rows.
    prompts_ : tuple of str or None
        The text behind each class's feature, if the space has prompts.
    shift_ : ndarray of shape (n_classes, n_features), dtype float32
        Aligned minus zero-shot text feature of the classes aligned without a text; else zero.
    class_names_ : tuple of str
        Names of the classes that the aligner was fitted on.
    n_features_in_ : int
        Width ``d`` of the features.

    See Also
    --------
    MismatchDetector : The stage before this one.
    MarginCalibrator : The stage after this one.
    capkit.baselines.ZeroShotClassifier : Classifies with the aligned texts, as the step after this
        one.

    Notes
    -----
    A description is encoded as it is, without a template. The image mean and the text mean that
    bridge the modality gap are the means of the cluster centres and of the texts of the classes
    that are not mismatched.

    With ``accept="images"`` a description has to pass
    :func:`~capkit.descriptions.resembles_own_name` or
    :func:`~capkit.descriptions.resembles_own_cluster`, and is then judged by
    :func:`~capkit.descriptions.doubt_of_text`. Classes are processed in turn, each with the new
    texts of the classes before it. Two mismatched classes swap their clusters only on the basis
    of descriptions that resemble their own name; otherwise, if the descriptions of two classes
    were mixed up, their clusters would be swapped too.

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
        "accept": [StrOptions({"images", "always"})],
        "device": [str],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        describer=None,
        n_descriptions=8,
        use_centers=False,
        accept="images",
        device="auto",
        random_state=None,
    ):
        self.describer = describer
        self.n_descriptions = n_descriptions
        self.use_centers = use_centers
        self.accept = accept
        self.device = device
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ConceptSpace, y=None) -> ConceptAligner:
        """Align the mismatched classes of a space.

        Parameters
        ----------
        X : ConceptSpace
            If it carries no detection result, a :class:`~capkit.MismatchDetector` with its
            defaults runs first.
        y : ignored

        Returns
        -------
        self : ConceptAligner

        Raises
        ------
        ValueError
            If a describer is given but the space does not name its backbone.
        DescriberError
            If the describer fails or returns nothing usable.
        BackboneMismatchError
            If the backbone that the space names is not the one that made it.
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
        self.rejected_descriptions_: dict[str, str] = {}
        self.shift_ = np.zeros_like(space.text_features)
        self.aligned_ = np.empty(0, dtype=np.int64)
        if self.describer is not None:
            self._align_by_text(space)
        elif self.use_centers:
            self._align_by_centers(space)
        self._backbone_id = space.backbone_id
        if self.rejected_descriptions_:
            warnings.warn(_refusal(self.rejected_descriptions_), AdaptationWarning, stacklevel=3)
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

        if not len(self.mismatched_):
            return
        names = [space.class_names[index] for index in self.mismatched_]
        encode = self._text_encoder(space)  # fails before a language model is asked
        candidates = describe_classes(self.describer, names, self.n_descriptions)
        self.candidate_descriptions_ = candidates
        features = [encode(candidates[name]) for name in names]
        if self.accept == "always":
            chosen, center_of_class = choose_descriptions(
                features, self._mismatch.class_centers[self.mismatched_]
            )
            self._move_centers(center_of_class)
        else:
            chosen = self._choose_by_images(space, features)
        self.aligned_ = self.mismatched_[chosen >= 0]
        prompts = None if space.prompts is None else list(space.prompts)
        for row in np.flatnonzero(chosen >= 0):
            index, name = self.mismatched_[row], names[row]
            self.descriptions_[name] = candidates[name][chosen[row]]
            self.text_features_[index] = features[row][chosen[row]]
            if prompts is not None:
                prompts[index] = self.descriptions_[name]
        self.prompts_ = None if prompts is None else tuple(prompts)

    def _choose_by_images(self, space: ConceptSpace, features: list[np.ndarray]) -> np.ndarray:
        """Index of each mismatched class's description, -1 if none is better than its text."""
        named = [
            resembles_own_name(of_class, space.text_features, label)
            for label, of_class in zip(self.mismatched_, features, strict=True)
        ]
        self._pair_anew(features, named)
        centers = self._mismatch.class_centers
        images = _spread_rows(space.image_features, _JUDGED_IMAGES)
        image_mean, texts = images.mean(axis=0), space.text_features.copy()
        chosen = np.full(len(features), -1, dtype=np.int64)
        for row, (label, of_class) in enumerate(zip(self.mismatched_, features, strict=True)):
            by_images = resembles_own_cluster(
                of_class, space.text_features, centers, image_mean, label
            )
            speaking = np.flatnonzero(named[row] | by_images)
            nearest_first = speaking[np.argsort(-of_class[speaking] @ centers[label])]
            choice, doubt = _first_undoubted(images, texts, label, of_class[nearest_first])
            if choice is None:
                self.rejected_descriptions_[space.class_names[label]] = doubt
            else:
                chosen[row] = nearest_first[choice]
                texts[label] = of_class[chosen[row]]
        return chosen

    def _pair_anew(self, features: list[np.ndarray], named: list[np.ndarray]) -> None:
        """Pair classes with clusters again, by the descriptions that resemble their own name."""
        rows = np.flatnonzero([of_class.any() for of_class in named])
        if not len(rows):
            return
        _, paired = choose_descriptions(
            [features[row][named[row]] for row in rows],
            self._mismatch.class_centers[self.mismatched_[rows]],
        )
        center_of_class = np.arange(len(features))
        center_of_class[rows] = rows[paired]
        self._move_centers(center_of_class)

    def _move_centers(self, center_of_class: np.ndarray) -> None:
        """Permute the centres of the mismatched classes."""
        centers = self._mismatch.class_centers.copy()
        centers[self.mismatched_] = centers[self.mismatched_][center_of_class]
        self._mismatch = dataclasses.replace(self._mismatch, class_centers=centers)

    def _text_encoder(self, space: ConceptSpace) -> Callable[[Sequence[str]], np.ndarray]:
        """Return a function from texts to unit features, of the backbone that made the space."""
        backbone = reload_backbone(
            space.backbone, space.backbone_id, device=self.device, owner="the ConceptSpace"
        )
        return lambda texts: backbone.encode_texts(texts).cpu().numpy()

    def transform(self, X: ConceptSpace) -> ConceptSpace:
        """Replace the texts of a space by the aligned ones, without aligning again.

        Parameters
        ----------
        X : ConceptSpace
            With the classes and the backbone that the aligner was fitted on.

        Returns
        -------
        ConceptSpace
            With an :class:`~capkit.space.AlignmentResult`.

        Raises
        ------
        ValueError
            If its classes or its number of features differ from those of the fit.
        BackboneMismatchError
            If it was made with another backbone.
        """
        check_is_fitted(self)
        space = check_concept_space(X, self)
        check_fitted_classes(space, self, self.class_names_)
        check_fitted_width(space, self, self.n_features_in_)
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


def _first_undoubted(
    images: np.ndarray, texts: np.ndarray, label: int, candidates: np.ndarray
) -> tuple[int | None, str]:
    """Index of the first candidate without a doubt, or else the doubt about the first one."""
    if not len(candidates):
        return None, "its descriptions resemble other classes more than this one"
    present, *labels = labels_with_texts(
        images, texts, label, np.concatenate([texts[[label]], candidates])
    )
    first_doubt = ""
    for choice, after in enumerate(labels):
        doubt = doubt_of_text(images, present, after, label, len(texts))
        if doubt is None:
            return choice, ""
        first_doubt = first_doubt or doubt
    return None, first_doubt


def _spread_rows(array: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` rows, evenly spread, because images may come sorted by class."""
    if len(array) <= limit:
        return array
    return array[np.linspace(0, len(array) - 1, limit).astype(np.int64)]


def _refusal(rejected: dict[str, str]) -> str:
    """Say which classes keep their text, in words for a warning."""
    reasons = (f"{name!r} ({reason})" for name, reason in rejected.items())
    return (
        "no description is better than the present text, which stays, of "
        f"{', '.join(reasons)}. Look at candidate_descriptions_ and write better ones for a "
        "TableDescriber, or take them all the same with ConceptAligner(accept='always')."
    )
