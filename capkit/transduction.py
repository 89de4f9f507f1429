"""Gaussian transduction: labels from the class texts and all images together, without training.

Zero-shot classification predicts one image at a time. Here all images are considered together:
each class is a Gaussian in the space of image features, with a shared covariance, and an image's
class follows from both its similarity to the texts and its position among the other images. The
model is fitted by expectation maximisation from the zero-shot predictions; the formulas are in
:mod:`capkit.gaussians`. Not in the paper.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from numbers import Integral, Real

import numpy as np
from scipy.special import softmax
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from capkit._threads import one_thread
from capkit._validation import UNLABELED, LabelCodec
from capkit.base import (
    ConceptStage,
    check_concept_space,
    check_fitted_classes,
    check_fitted_width,
    expected_n_labels,
    labels_of_rows,
)
from capkit.exceptions import AdaptationWarning, LabelError
from capkit.gaussians import (
    cluster_separation,
    evidence_temperature,
    fit_class_means,
    gaussian_log_evidence,
    gaussian_trust,
    log_class_prior,
    sharpening,
    shrunk_whitening,
    text_log_probabilities,
    within_class_covariance,
)
from capkit.guard import AdaptationReport, AdaptationStep, judge_labels, report_of
from capkit.space import ConceptSpace, GaussianClasses, TransductionResult, feature_keys

__all__ = ["GaussianTransduction", "check_class_prior"]

# Number of images whose evidence is in memory at a time.
_CHUNK_SIZE = 8192
# Number of classes for which an image's share in the class mean is stored, to leave it out later.
_KEPT_SHARES = 8
# Mean confidence of the initial zero-shot predictions: with lower confidence all class means would
# start out the same, and chance would separate them.
_FIRST_CONFIDENCE = 0.7
# Weight of a labeled image in the first round, when the other labels are only guesses.
_FIRST_LABEL_WEIGHT = 10.0
# Trust in the Gaussians below which a mismatched class keeps its text: its cluster is too small.
_LEAST_TRUST = 0.3
# Separation below which it keeps its text as well: its cluster is part of another class.
_LEAST_SEPARATION = 0.6
# Fractions of the trust that are tried in turn until the guard accepts one.
_STRENGTHS = (1.0, 0.25, 0.1)


class GaussianTransduction(ConceptStage):
    """Label images from the class texts and all images together, without training.

    Each class is a Gaussian in the space of image features; all classes share one covariance.
    Starting from the zero-shot predictions, expectation maximisation alternates between fitting
    the class means, the covariance and the class proportions, and reassigning the images by both
    their text similarity and their position. The text of a mismatched class is not used; the class
    starts from its image cluster instead, provided that :class:`~capkit.MismatchDetector` found a
    cluster that has enough images and is not part of another class, and that no aligner replaced
    the text.

    The weight of the Gaussians depends on the number of images per class, so with few images the
    predictions fall back to zero-shot. In addition, a guard checks how clearly the images whose
    label changed belong to their new class (:func:`capkit.guard.change_clarity`). If they do not,
    the weight is reduced to a quarter, a tenth or zero, and a warning says so.

    Parameters
    ----------
    kappa : float, default=3.0
        Weight of a class's text in fitting the class mean, as a number of images, above 0.
    shrinkage : float, default=0.75
        Shrinkage of the covariance towards a multiple of the identity, in [0, 1].
    class_prior : "estimated", "equal" or array-like of shape (n_classes,), default="estimated"
        Proportions of the classes among the images: estimated from the images, equal, or given in
        the order of the class names.
    paradigm : {"ul", "ssl", "trzsl"}, default="ul"
        How labels are used. ``"ul"``: not at all. ``"ssl"``: a labeled image counts only for its
        class. ``"trzsl"``: in addition, unlabeled images belong to none of the labeled classes.
    guard : bool, default=True
        Whether to reduce the weight of the Gaussians if their labels cannot be trusted.
    max_iter : int, default=15
        Largest number of rounds; fitting stops earlier once the assignments no longer change.

    Attributes
    ----------
    labels_ : ndarray of shape (n_images,), dtype int64
        Most probable class of each image, as an index into `class_names_`.
    confidence_ : ndarray of shape (n_images,)
        Its probability.
    counts_ : ndarray of shape (n_classes,)
        Sum of each class's responsibilities for the images.
    means_ : ndarray of shape (n_classes, n_features), dtype float32
    trust_ : float
        Weight of the Gaussians in [0, 1], see :func:`capkit.gaussians.gaussian_trust`, after any
        reduction by the guard.
    report_ : AdaptationReport
        What the guard tried and found, see :class:`capkit.guard.AdaptationReport`.
    n_iter_ : int
        Number of rounds.
    mismatched_ : ndarray of shape (n_mismatched,), dtype int64
        Classes whose text was not used.
    class_names_ : tuple of str
        Names of the classes of the fit.
    n_features_in_ : int
        Width ``d`` of the features.

    See Also
    --------
    capkit.baselines.GaussianTransductionClassifier : The same method as a classifier.
    capkit.CAPClassifier : Takes its first pseudolabels from here.

    Notes
    -----
    No array of shape (n_images, n_classes) is ever in memory.

    An image pulls the mean of its class towards itself, so with few images per class any initial
    guess would confirm itself. Therefore an image is left out of the means before it is compared
    with them. This also happens at prediction: an image is recognised if its features are
    identical to the last bit, as they are when they come from a cache. The uncertainty of a mean
    makes it appear further away, more so the fewer images it has; this bias is subtracted.

    The defaults were chosen by accuracy on five sets of real CLIP features (satellite pictures,
    pets, reptiles, CIFAR-10, 600 kinds of things), the two embedded data sets, subsets of all of
    these with few images or imbalanced classes, and synthetic problems.

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
        "paradigm": [StrOptions({"ul", "ssl", "trzsl"})],
        "guard": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        kappa=3.0,
        shrinkage=0.75,
        class_prior="estimated",
        paradigm="ul",
        guard=True,
        max_iter=15,
    ):
        self.kappa = kappa
        self.shrinkage = shrinkage
        self.class_prior = class_prior
        self.paradigm = paradigm
        self.guard = guard
        self.max_iter = max_iter

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ConceptSpace, y=None) -> GaussianTransduction:
        """Fit the Gaussians to the images of a space.

        Parameters
        ----------
        X : ConceptSpace
        y : sequence of length n_images or None, default=None
            Class names or indices, -1 or None for unlabeled images. Known labels are never
            changed. Ignored if the paradigm is ``"ul"``.

        Returns
        -------
        self : GaussianTransduction

        Raises
        ------
        ValueError
            If `class_prior` does not match the classes of the space.
        LabelError
            If `y` does not match the space or the paradigm.
        """
        space = check_concept_space(X, self, min_images=1)
        known = np.full(len(space), UNLABELED, dtype=np.int64)
        if self.paradigm != "ul":
            n_labels = expected_n_labels(y, space)
            _, labels = LabelCodec.from_labels(y, space.class_names, n_labels)
            known = labels_of_rows(labels, space)
        possible = _possible_classes(known, space.n_classes, self.paradigm)
        log_prior = check_class_prior(self.class_prior, space.n_classes)
        self.class_names_, self.n_features_in_ = space.class_names, space.shape[1]
        steps: list[AdaptationStep] = []
        with one_thread(space.image_features.size):
            rounds = _Rounds(
                space,
                known,
                possible=possible,
                log_prior=log_prior,
                kappa=self.kappa,
                shrinkage=self.shrinkage,
                max_iter=self.max_iter,
            )
            fitted = rounds.fit()
            mismatched = _without_text(space, fitted)
            if len(mismatched):
                fitted = rounds.fit(mismatched)
            if self.guard:
                fitted, steps = _hold_back(rounds, fitted)
        self._keep(fitted, rounds, steps)
        if not all(step.kept for step in steps):
            warnings.warn(str(self.report_), AdaptationWarning, stacklevel=3)
        return self

    def _keep(self, fitted: _Fitted, rounds: _Rounds, steps: list[AdaptationStep]) -> None:
        self._classes = _with_images(fitted, feature_keys(rounds.space.image_features))
        self.labels_, self.confidence_ = fitted.labels, fitted.confidence
        self.counts_, self.means_ = fitted.counts, fitted.means
        self.trust_, self.n_iter_ = fitted.classes.trust, fitted.n_iter
        self.mismatched_ = fitted.mismatched
        self.report_: AdaptationReport = report_of(
            "gaussian" if fitted.classes.trust > 0 else "zero_shot",
            fitted.classes.trust,
            rounds.zero_shot_labels,
            fitted.labels,
            rounds.space.n_classes,
            steps,
        )

    def transform(self, X: ConceptSpace) -> ConceptSpace:
        """Add the Gaussians to a space, without fitting again.

        Parameters
        ----------
        X : ConceptSpace
            With the classes of the fit.

        Returns
        -------
        ConceptSpace
            With a :class:`~capkit.space.TransductionResult`.

        Raises
        ------
        ValueError
            If its classes or its number of features differ from those of the fit.
        """
        check_is_fitted(self)
        space = check_concept_space(X, self)
        check_fitted_classes(space, self, self.class_names_)
        check_fitted_width(space, self, self.n_features_in_)
        result = TransductionResult(self._classes, self.mismatched_, self.report_)
        return dataclasses.replace(space, transduction=result)


# -- expectation maximisation


@dataclasses.dataclass(frozen=True, eq=False)
class _Fitted:
    """Result of the rounds."""

    classes: GaussianClasses
    means: np.ndarray  # (n_classes, d)
    counts: np.ndarray  # (n_classes,)
    labels: np.ndarray  # (n,)
    confidence: np.ndarray  # (n,)
    mismatched: np.ndarray
    n_iter: int
    n_right: int  # labeled images that are labeled right when their label is withheld


class _Rounds:
    """Rounds of assigning images to classes and fitting classes to images, starting from texts."""

    def __init__(
        self,
        space: ConceptSpace,
        known: np.ndarray,
        *,
        possible: np.ndarray,
        log_prior: np.ndarray | None,
        kappa: float,
        shrinkage: float,
        max_iter: int,
    ) -> None:
        self.space, self.known, self.possible = space, known, possible
        self.log_prior, self.kappa, self.shrinkage = log_prior, kappa, shrinkage
        self.max_iter = max_iter
        features = space.image_features
        self.image_mean = features.mean(axis=0)
        self.squares = sum(features[rows].T @ features[rows] for rows in _chunks(len(space)))
        some = space[:: 1 + len(space) // _CHUNK_SIZE]
        self.sharpening = sharpening(some.logits(), _FIRST_CONFIDENCE)
        self.first = _Assignments(space, known, possible)
        self.first.assign(lambda rows, texts: texts + (0.0 if log_prior is None else log_prior))

    @property
    def zero_shot_labels(self) -> np.ndarray:
        """Labels by the texts alone, except where the class is known; shape (n,)."""
        return self.first.labels

    def fit(self, mismatched: np.ndarray | tuple = (), strength: float = 1.0) -> _Fitted:
        """Repeat the rounds until nothing changes.

        Parameters
        ----------
        mismatched : ndarray of int
            Classes whose text is not used.
        strength : float
            Fraction of their trust that the Gaussians get.
        """
        mismatched = np.asarray(mismatched, dtype=np.int64)
        assigned = _Assignments(self.space, self.known, self.possible)
        counts, sums = assigned.assign(
            lambda rows, texts: self.sharpening * texts, label_weight=_FIRST_LABEL_WEIGHT
        )
        labeled = self.space.image_features[self.known != UNLABELED]
        squares = self.squares + (_FIRST_LABEL_WEIGHT - 1) * labeled.T @ labeled
        n_iter, changed = 0, True
        while changed and n_iter < self.max_iter:
            n_iter += 1
            means, classes = self._fit_classes(counts, sums, squares, mismatched, strength)
            squares = self.squares
            own = assigned.own_classes.copy(), assigned.own_share.copy()
            before = assigned.labels.copy()
            counts, sums = assigned.assign(
                self._logits_by(classes, own, mismatched),
                temperature=evidence_temperature(classes.trust),
            )
            changed = bool((assigned.labels != before).any())
        classes = dataclasses.replace(classes, own_classes=own[0], own_share=own[1])
        return _Fitted(
            classes,
            means,
            counts,
            assigned.labels,
            assigned.confidence,
            mismatched,
            n_iter,
            assigned.n_right,
        )

    def _logits_by(
        self,
        classes: GaussianClasses,
        own: tuple[np.ndarray, np.ndarray],
        mismatched: np.ndarray,
    ) -> Callable[[slice, np.ndarray], np.ndarray]:
        """Logits from texts and Gaussians, each image left out of the Gaussians."""

        def logits_of(rows: slice, texts: np.ndarray) -> np.ndarray:
            features = self.space.image_features[rows]
            left_out = np.arange(len(features)), own[0][rows], own[1][rows]
            evidence = gaussian_log_evidence(features, classes, left_out)
            return text_log_probabilities(texts, mismatched) + evidence

        return logits_of

    def _fit_classes(
        self,
        counts: np.ndarray,
        sums: np.ndarray,
        squares: np.ndarray,
        mismatched: np.ndarray,
        strength: float,
    ) -> tuple[np.ndarray, GaussianClasses]:
        """Means, covariance and proportions from the sums of the responsibilities."""
        space = self.space
        centers = None if space.mismatch is None else space.mismatch.class_centers
        means = fit_class_means(
            counts, sums, space.text_features, self.image_mean, self.kappa, centers, mismatched
        )
        covariance = within_class_covariance(counts, sums, squares, means)
        whitening, dimension = shrunk_whitening(covariance, self.shrinkage)
        log_prior = self.log_prior
        if log_prior is None:
            log_prior = strength * log_class_prior(counts, len(space))
        classes = GaussianClasses(
            whitening=whitening.astype(np.float32),
            whitened_means=(means @ whitening).astype(np.float32),
            mean_variance=1 / (counts + self.kappa),
            dimension=dimension,
            log_prior=log_prior,
            trust=strength * gaussian_trust(counts),
            keys=np.empty(0, dtype=np.uint64),
            own_classes=np.empty((0, 1), dtype=np.int32),
            own_share=np.empty((0, 1), dtype=np.float32),
        )
        return means.astype(np.float32), classes


class _Assignments:
    """Responsibilities of the classes for the images; only the largest are stored."""

    def __init__(self, space: ConceptSpace, known: np.ndarray, possible: np.ndarray) -> None:
        self.space, self.known, self.possible = space, known, possible
        kept = min(_KEPT_SHARES, space.n_classes)
        self.labels = np.full(len(space), UNLABELED, dtype=np.int64)
        self.confidence = np.zeros(len(space), dtype=np.float32)
        self.own_classes = np.zeros((len(space), kept), dtype=np.int32)
        self.own_share = np.zeros((len(space), kept), dtype=np.float32)
        self.n_right = 0

    def assign(
        self,
        logits_of: Callable[[slice, np.ndarray], np.ndarray],
        label_weight: float = 1.0,
        temperature: float = 1.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reassign every image.

        Parameters
        ----------
        logits_of : callable
            Maps the rows of some images and their similarities to the texts to logits.
        label_weight : float
            Weight of a labeled image, as a number of images.
        temperature : float
            Used only for the confidence.

        Returns
        -------
        counts : ndarray of shape (n_classes,)
            Sum of each class's responsibilities.
        sums : ndarray of shape (n_classes, d)
            Sum of the features, weighted by them.
        """
        space = self.space
        counts = np.zeros(space.n_classes)
        sums = np.zeros((space.n_classes, space.shape[1]))
        self.n_right = 0
        for rows in _chunks(len(space)):
            features, known = space.image_features[rows], self.known[rows]
            labeled = known != UNLABELED
            logits = logits_of(rows, space.logit_scale * (features @ space.text_features.T))
            self.n_right += int((logits[labeled].argmax(axis=1) == known[labeled]).sum())
            logits[np.ix_(~labeled, ~self.possible)] = -np.inf
            share = softmax(logits, axis=1)
            confidence = softmax(logits / temperature, axis=1).max(axis=1)
            share[labeled] = 0.0
            share[labeled, known[labeled]] = 1.0
            self.labels[rows] = share.argmax(axis=1)
            self.confidence[rows] = np.where(labeled, 1.0, confidence)
            share[labeled] *= label_weight
            counts += share.sum(axis=0, dtype=np.float64)
            sums += share.T @ features
            kept = np.argpartition(-share, self.own_share.shape[1] - 1, axis=1)
            self.own_classes[rows] = kept[:, : self.own_share.shape[1]]
            self.own_share[rows] = np.take_along_axis(share, self.own_classes[rows], axis=1)
        return counts, sums


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, _CHUNK_SIZE):
        yield slice(start, min(start + _CHUNK_SIZE, n))


def _with_images(fitted: _Fitted, keys: np.ndarray) -> GaussianClasses:
    """Add to the Gaussians what they need to recognise the images of the fit."""
    order = np.argsort(keys, kind="stable")
    return dataclasses.replace(
        fitted.classes,
        keys=keys[order],
        own_classes=fitted.classes.own_classes[order],
        own_share=fitted.classes.own_share[order],
    )


# -- the decisions


def _without_text(space: ConceptSpace, fitted: _Fitted) -> np.ndarray:
    """Mismatched classes whose text is not used.

    No other text was found for them, they have enough images, and their cluster is a class of its
    own.
    """
    none = np.empty(0, dtype=np.int64)
    if space.mismatch is None or fitted.classes.trust < _LEAST_TRUST:
        return none
    aligned = none if space.alignment is None else space.alignment.aligned
    mismatched = np.setdiff1d(space.mismatch.mismatched, aligned)
    if not len(mismatched):
        return none
    # Centres have unit length; means of unit features are shorter.
    length = np.linalg.norm(fitted.means, axis=1).mean()
    centers = length * space.mismatch.class_centers[mismatched] @ fitted.classes.whitening
    separation = cluster_separation(centers, mismatched, fitted.classes.whitened_means)
    return mismatched[separation >= _LEAST_SEPARATION]


def _hold_back(rounds: _Rounds, fitted: _Fitted) -> tuple[_Fitted, list[AdaptationStep]]:
    """Reduce the weight of the Gaussians until the guard accepts the labels."""
    steps = []
    mismatched = fitted.mismatched
    for strength in _STRENGTHS:
        if strength < 1:
            fitted = rounds.fit(mismatched, strength)
        step = _judge(rounds, fitted, strength)
        steps.append(step)
        if step.kept:
            return fitted, steps
    return rounds.fit(strength=0.0), steps


def _judge(rounds: _Rounds, fitted: _Fitted, strength: float) -> AdaptationStep:
    before, after = rounds.zero_shot_labels, fitted.labels
    features, n_classes = rounds.space.image_features, rounds.space.n_classes
    step = judge_labels(f"gaussian x {strength:g}", features, before, after, n_classes)
    more_right = fitted.n_right - rounds.first.n_right
    if step.n_changed and more_right > 0:
        reason = f"it labels {more_right} more labeled images right than zero-shot does"
        return dataclasses.replace(step, kept=True, reason=reason)
    return step


def _possible_classes(known: np.ndarray, n_classes: int, paradigm: str) -> np.ndarray:
    """Whether an unlabeled image can be of each class."""
    possible = np.ones(n_classes, dtype=bool)
    if paradigm == "trzsl":
        possible[known[known != UNLABELED]] = False
        if not possible.any() and (known == UNLABELED).any():
            raise LabelError(
                "paradigm='trzsl' expected classes without any label, to which the unlabeled "
                f"images belong; all {n_classes} have one."
            )
    return possible


def check_class_prior(class_prior: object, n_classes: int) -> np.ndarray | None:
    """Read proportions of classes.

    Parameters
    ----------
    class_prior : "estimated", "equal" or array-like of shape (n_classes,)
    n_classes : int

    Returns
    -------
    ndarray of shape (n_classes,) or None
        Logarithms, relative to equal proportions; None where they are to be estimated.

    Raises
    ------
    ValueError
        If there is not one above 0 for each class.
    """
    if isinstance(class_prior, str):
        return None if class_prior == "estimated" else np.zeros(n_classes)
    prior = np.asarray(class_prior, dtype=np.float64)
    if prior.shape != (n_classes,) or not ((prior > 0) & np.isfinite(prior)).all():
        raise ValueError(
            f"expected class_prior as {n_classes} proportions above 0, in the order of the class "
            f"names, got {class_prior!r:.80}."
        )
    return np.log(prior / prior.sum() * n_classes)
