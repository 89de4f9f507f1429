"""The content of a report: labels, doubts and names of a user's images, checked once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

import capkit
from capkit._validation import UNLABELED
from capkit.doubts import reasons_for_doubt
from capkit.guard import AdaptationReport
from capkit.images import ImageSource
from capkit.space import ConceptSpace, MismatchResult

if TYPE_CHECKING:
    from capkit.classifier import CAPClassifier

__all__ = ["MismatchedClass", "ReportContent"]

_PARADIGMS = {
    "ul": "not used",
    "ssl": "used for training",
    "trzsl": "used for training, all of some classes",
}
# How far from 1 the probabilities of an image may sum up.
_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class MismatchedClass:
    """A class whose name does not fit its images.

    Parameters
    ----------
    name : str
    old_text : str
        The text that the model used for the class before.
    new_text : str or None
        The text that it uses now; None if the old text was kept.
    rows : ndarray of shape (n,), dtype int64
        Images of the class's cluster, nearest to the cluster centre first.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.report import MismatchedClass
    >>> MismatchedClass("jay", "a photo of a jay", "a blue bird", np.array([4, 1])).rows
    array([4, 1])
    """

    name: str
    old_text: str
    new_text: str | None
    rows: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", _whole_numbers(self.rows, "rows"))


@dataclasses.dataclass(frozen=True, eq=False)
class ReportContent:
    """The content of the page that :func:`write_report` writes.

    Create it with :meth:`from_classifier` or :meth:`from_space`.

    Parameters
    ----------
    title : str
        Heading of the page.
    images : ImageSource
        The n images; only the displayed ones are read.
    image_names : sequence of str of length n
        Each image's path relative to the folder, as in a table of labels; no duplicates.
    class_names : sequence of str of length C
    probabilities : array-like of shape (n, C)
        Columns in the order of `class_names`; rows sum to 1.
    labels : array-like of shape (n,), int
        Final labels of the images, as indices into `class_names`.
    zero_shot : array-like of shape (n,), int, or None
        Labels by the class names alone; None if there are none to compare with.
    known : array-like of shape (n,), int
        Labels that a person gave, -1 for images without one.
    doubts : sequence of str of length n
        Why a label may be wrong, or "" if there is no reason.
    unreadable : mapping of str to str
        Images that could not be read, and why.
    mismatched : sequence of MismatchedClass
    adaptation : AdaptationReport or None
        None if nothing was adapted.
    history : sequence of dict
        Numbers for each epoch of a training, as in ``CAPClassifier.history_``.
    settings : mapping of str to str
        Settings that the labels were made with, by human-readable names.

    Raises
    ------
    ValueError
        If the parts are inconsistent.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit import ConceptSpace
    >>> from capkit.images import ImageSource
    >>> from capkit.report import ReportContent
    >>> images = ImageSource.from_user(np.zeros((2, 8, 8, 3), dtype=np.uint8))
    >>> space = ConceptSpace(np.eye(2), np.eye(2), ["cat", "dog"], images=images)
    >>> content = ReportContent.from_space(space, image_names=["a.jpg", "b.jpg"])
    >>> content.labels.tolist(), content.doubts
    ([0, 1], ('', ''))
    """

    title: str
    images: ImageSource
    image_names: tuple[str, ...]
    class_names: tuple[str, ...]
    probabilities: np.ndarray
    labels: np.ndarray
    zero_shot: np.ndarray | None
    known: np.ndarray
    doubts: tuple[str, ...]
    unreadable: Mapping[str, str]
    mismatched: tuple[MismatchedClass, ...]
    adaptation: AdaptationReport | None
    history: Sequence[dict[str, Any]]
    settings: Mapping[str, str]

    def __post_init__(self) -> None:
        set_field = functools.partial(object.__setattr__, self)  # the dataclass is frozen
        for name in ("image_names", "class_names", "doubts", "mismatched"):
            set_field(name, tuple(getattr(self, name)))
        set_field("probabilities", np.asarray(self.probabilities, dtype=np.float32))
        for name in ("labels", "zero_shot", "known"):
            if getattr(self, name) is not None:
                set_field(name, _whole_numbers(getattr(self, name), name))
        self._check_names()
        self._check_lengths()
        self._check_probabilities()
        self._check_classes()

    def _check_names(self) -> None:
        for field in ("image_names", "class_names"):
            names = getattr(self, field)
            if len(set(names)) != len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"expected {field} that all differ, got {twice!r} more than once")
        if not self.class_names:
            raise ValueError("expected at least one class name, got none")

    def _check_lengths(self) -> None:
        n_images = len(self.images)
        for field in ("image_names", "labels", "zero_shot", "known", "doubts"):
            value = getattr(self, field)
            if value is not None and len(value) != n_images:
                raise ValueError(
                    f"expected {field} of length {n_images}, one for each image that could be "
                    f"read, got {len(value)}"
                )

    def _check_probabilities(self) -> None:
        expected = (len(self.images), len(self.class_names))
        if self.probabilities.shape != expected:
            raise ValueError(
                f"expected probabilities of shape {expected}, got {self.probabilities.shape}"
            )
        total = self.probabilities.sum(axis=1)
        if not (self.probabilities >= 0).all() or not (np.abs(total - 1) < _TOLERANCE).all():
            raise ValueError("expected probabilities of at least 0 whose rows sum to 1")

    def _check_classes(self) -> None:
        n_images, n_classes = len(self.images), len(self.class_names)
        lowest_of = {"labels": 0, "zero_shot": 0, "known": UNLABELED}
        for field, lowest in lowest_of.items():
            _check_range(getattr(self, field), field, lowest, n_classes)
        for found in self.mismatched:
            _check_range(found.rows, f"rows of {found.name!r}", 0, n_images)
            if found.name not in self.class_names:
                raise ValueError(f"expected mismatched classes of class_names, got {found.name!r}")

    # -- what follows from it

    @property
    def n_images(self) -> int:
        """Number of images that could be read."""
        return len(self.images)

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """Probability of each image's label; shape (n,)."""
        return self.probabilities[np.arange(self.n_images), self.labels]

    @functools.cached_property
    def runner_up(self) -> np.ndarray:
        """Most probable class of each image but its label; with one class that one; shape (n,)."""
        return self._others.argmax(axis=1)

    @functools.cached_property
    def is_doubtful(self) -> np.ndarray:
        """Whether there is a reason to doubt each image's label; shape (n,), bool."""
        return np.array([bool(doubt) for doubt in self.doubts], dtype=bool)

    @functools.cached_property
    def doubtful_first(self) -> np.ndarray:
        """All images: the doubtful ones first, then by the lead of the label; shape (n,)."""
        lead = self.confidence - self._others.max(axis=1)
        return np.lexsort((lead, ~self.is_doubtful))

    @property
    def _others(self) -> np.ndarray:
        others = self.probabilities.copy()
        others[np.arange(self.n_images), self.labels] = -1.0
        return others

    # -- built from fitted objects

    @classmethod
    def from_classifier(
        cls,
        classifier: CAPClassifier,
        space: ConceptSpace,
        *,
        image_names: Sequence[str],
        title: str = "Labels of your photos",
        known: Sequence[int] | np.ndarray | None = None,
        unreadable: Mapping[str, str] | None = None,
    ) -> ReportContent:
        """Build the content from a fitted classifier and the images that it was fitted on.

        Parameters
        ----------
        classifier : CAPClassifier
            Fitted.
        space : ConceptSpace
            The space that it was fitted on: the output of a CLIPEncoder, with its images.
        image_names : sequence of str of length n
            One for each row of the space.
        title : str, default="Labels of your photos"
        known : array-like of shape (n,), int, or None, default=None
            Labels that a person gave, as indices into the class names, -1 where there is none.
            They override the classifier's predictions. None means that there are none.
        unreadable : mapping of str to str, or None, default=None
            Images that could not be read, and why.

        Returns
        -------
        ReportContent

        Raises
        ------
        NotFittedError
            If the classifier is not fitted.
        ValueError
            If the space has no images or has other classes, or the names do not match it.
        """
        check_is_fitted(classifier)
        images = _images_of(space)
        if space.class_names != classifier.class_names_:
            raise ValueError(
                f"expected the space that the classifier was fitted on, of the classes "
                f"{classifier.class_names_!r:.80}, got one of {space.class_names!r:.80}"
            )
        probabilities = _in_order_of_names(classifier, space)
        known = _known_or_none(known, len(space))
        labels = np.where(known == UNLABELED, probabilities.argmax(axis=1), known)
        zero_shot = space.predict()
        detected = _detection(classifier, space)
        return cls(
            title=title,
            images=images,
            image_names=tuple(image_names),
            class_names=space.class_names,
            probabilities=probabilities,
            labels=labels,
            zero_shot=zero_shot,
            known=known,
            doubts=tuple(
                reasons_for_doubt(
                    probabilities,
                    labels,
                    class_names=space.class_names,
                    zero_shot=zero_shot,
                    known=known,
                    similarity=space.logits().max(axis=1),
                )
            ),
            unreadable=dict(unreadable or {}),
            mismatched=_mismatched_classes(space, detected, classifier.descriptions_),
            adaptation=classifier.adaptation_report_,
            history=list(classifier.history_),
            settings=_settings_of(classifier),
        )

    @classmethod
    def from_space(
        cls,
        space: ConceptSpace,
        *,
        image_names: Sequence[str],
        title: str = "Your photos by the class names alone",
        unreadable: Mapping[str, str] | None = None,
    ) -> ReportContent:
        """Build the content from a space, without any training.

        Parameters
        ----------
        space : ConceptSpace
            Output of a CLIPEncoder, with its images. Mismatched classes are shown if a
            MismatchDetector has run, and their new texts if a ConceptAligner has.
        image_names : sequence of str of length n
            One for each row of the space.
        title : str, default="Your photos by the class names alone"
        unreadable : mapping of str to str, or None, default=None
            Images that could not be read, and why.

        Returns
        -------
        ReportContent

        Raises
        ------
        ValueError
            If the space has no images, or the names do not match it.
        """
        probabilities, labels = space.predict_proba(), space.predict()
        detected = space.mismatch
        return cls(
            title=title,
            images=_images_of(space),
            image_names=tuple(image_names),
            class_names=space.class_names,
            probabilities=probabilities,
            labels=labels,
            zero_shot=None,
            known=_known_or_none(None, len(space)),
            doubts=tuple(
                reasons_for_doubt(
                    probabilities,
                    labels,
                    class_names=space.class_names,
                    similarity=space.logits().max(axis=1),
                )
            ),
            unreadable=dict(unreadable or {}),
            mismatched=_mismatched_classes(
                space, detected, {} if space.alignment is None else space.alignment.descriptions
            ),
            adaptation=None,
            history=[],
            settings={"Model": str(space.backbone or "not named"), "capkit": capkit.__version__},
        )


def _whole_numbers(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"expected {name} as whole numbers in one dimension, got shape {array.shape} of "
            f"{array.dtype}"
        )
    return array.astype(np.int64)


def _check_range(values: np.ndarray | None, name: str, lowest: int, end: int) -> None:
    if values is not None and len(values) and not (lowest <= values.min() <= values.max() < end):
        raise ValueError(
            f"expected {name} from {lowest} to {end - 1}, got {values.min()} to {values.max()}"
        )


def _images_of(space: ConceptSpace) -> ImageSource:
    if space.images is None:
        raise ValueError(
            "expected a ConceptSpace with its images, which a report shows, got one without. "
            "Make it with a CLIPEncoder."
        )
    return space.images


def _known_or_none(known: Sequence[int] | np.ndarray | None, n_images: int) -> np.ndarray:
    if known is None:
        return np.full(n_images, UNLABELED, dtype=np.int64)
    known = _whole_numbers(known, "known")
    if len(known) != n_images:
        raise ValueError(
            f"expected known of length {n_images}, one for each image, got {len(known)}"
        )
    return known


def _in_order_of_names(classifier: CAPClassifier, space: ConceptSpace) -> np.ndarray:
    """Probabilities with columns in the order of the class names, not of the sorted labels."""
    labels, names = classifier.classes_.tolist(), classifier.class_names_
    columns = [names.index(label) if isinstance(label, str) else label for label in labels]
    by_label = classifier.predict_proba(space)
    probabilities = np.empty(by_label.shape, dtype=np.float32)
    probabilities[:, columns] = by_label
    return probabilities


# -- mismatched classes


def _detection(classifier: CAPClassifier, space: ConceptSpace) -> MismatchResult | None:
    """What was detected, with the clusters as the last stage that looked at them left them."""
    for stage in (classifier.aligner_, classifier.detector_):
        if stage is not None:
            return stage.transform(space).mismatch
    return space.mismatch


def _mismatched_classes(
    space: ConceptSpace, detected: MismatchResult | None, descriptions: Mapping[str, str]
) -> tuple[MismatchedClass, ...]:
    if detected is None:
        return ()
    found = []
    rows_of = _images_of_clusters(space.image_features, detected)
    for index in detected.mismatched.tolist():
        name = space.class_names[index]
        new_text = descriptions.get(name)
        prompt = name if space.prompts is None else space.prompts[index]
        old_text = name if prompt == new_text else prompt  # an aligned space has the new one
        found.append(MismatchedClass(name, old_text, new_text, rows_of[index]))
    return tuple(found)


def _images_of_clusters(features: np.ndarray, detected: MismatchResult) -> dict[int, np.ndarray]:
    """Images that are nearest to each mismatched class's centre, the nearest first."""
    centers = detected.class_centers
    similarity = features @ centers.T
    similarity[:, ~centers.any(axis=1)] = -np.inf  # classes without a cluster
    nearest = similarity.argmax(axis=1)
    rows_of = {}
    for index in detected.mismatched.tolist():
        rows = np.flatnonzero(nearest == index)
        rows_of[index] = rows[np.argsort(-similarity[rows, index], kind="stable")]
    return rows_of


# -- settings


def _settings_of(classifier: CAPClassifier) -> dict[str, str]:
    """What a fit depended on, for the last section of the page."""
    return {
        "Model": str(classifier.backbone_name_ or "not named"),
        "Labeled photos": f"{_PARADIGMS[classifier.paradigm_]} ({classifier.paradigm_})",
        "Pseudolabels": str(classifier.pseudo_labels),
        "Training": str(classifier.tuning_),
        "Seed": str(classifier.seed_),
        "Temperature": f"{classifier.temperature_:.3g}",
        "capkit": capkit.__version__,
    }
