"""The guard: whether new labels of images can be trusted, judged without any true label.

An image whose label changed is compared with classes fitted without it: how much nearer is it to
its new class than to its old one? If the classes are real, by about as much as classes are usually
apart; if there are too few images to tell, hardly at all. And if most of the old labels are of one
class, the new ones must not be more even, because part of a large class looks like a class too.
Not in the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from capkit.gaussians import shrunk_whitening, within_class_covariance
from capkit.pseudolabels import class_balance

__all__ = [
    "LEAST_CLARITY",
    "LEAST_TRUST_TO_TRAIN",
    "AdaptationReport",
    "AdaptationStep",
    "change_clarity",
    "judge",
    "judge_labels",
    "report_of",
    "training_is_carried",
]

#: Clarity above which label changes are trusted.
LEAST_CLARITY = 0.3

#: Trust in the Gaussians below which there are too few images per class to train on.
LEAST_TRUST_TO_TRAIN = 0.35

# Evenness of labels below which one class has most images, and the increase in evenness that means
# that this class was divided.
_UNEVEN, _DIVIDED = 0.7, 0.03
# Number of images whose distances are in memory at a time.
_CHUNK_SIZE = 8192
# Weight of the mean of all images in the mean of each class, as a number of images.
_PRIOR_IMAGES = 3.0
# Share of the covariance that is a multiple of the identity.
_SHRINKAGE = 0.75


def change_clarity(
    features: np.ndarray, before: np.ndarray, after: np.ndarray, n_classes: int
) -> float:
    """How clearly images whose label changed belong to their new class rather than the old one.

    Each class is a Gaussian, with a covariance shared by all classes, fitted with the new labels
    to one half of the images in a fixed random order. For each changed image of the other half,
    the log odds between its new and its old class are computed. Their mean is divided by the
    typical (median) log odds that separate a class from its nearest neighbour.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    before, after : ndarray of shape (n,), int
        Old and new labels.
    n_classes : int

    Returns
    -------
    float
        About 1 if the changes are as clear as classes usually are, 0 or less if they are not clear
        at all; 0 if no label changed.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.guard import change_clarity
    >>> rng = np.random.default_rng(0)
    >>> truth = np.arange(100) % 2
    >>> features = np.eye(2)[truth] + 0.1 * rng.standard_normal((100, 2))
    >>> one_class = np.zeros(100, dtype=int)
    >>> print(f"{change_clarity(features, one_class, truth, n_classes=2):.1f}")
    1.1
    >>> chance = rng.permutation(truth)
    >>> change_clarity(features, one_class, chance, n_classes=2) < 0.3
    True
    """
    changed = before != after
    if not changed.any():
        return 0.0
    order = np.random.default_rng(0).permutation(len(features))
    halves = np.sort(order[::2]), np.sort(order[1::2])
    odds, usual = 0.0, 0.0
    for fitted, judged in (halves, halves[::-1]):
        judged = judged[changed[judged]]
        if not len(fitted) or not len(judged):
            continue
        classes = _fit_classes(features, after, fitted, n_classes)
        for rows in _chunks(judged):
            whitened = features[rows] @ classes.whitening
            to_old = classes.squared_distance(whitened, before[rows])
            odds += float((to_old - classes.squared_distance(whitened, after[rows])).sum() / 2)
        usual += len(judged) * classes.usual_log_odds()
    return odds / usual if usual > 0 else 0.0


class _Classes(NamedTuple):
    """Gaussians with a shared covariance, whitened."""

    whitening: np.ndarray  # (d, d)
    means: np.ndarray  # (n_classes, d)
    counts: np.ndarray  # (n_classes,)

    def squared_distance(self, whitened: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Squared distance (n,) of each image to its class, less the mean's uncertainty."""
        distance = ((whitened - self.means[labels]) ** 2).sum(axis=1)
        return distance - whitened.shape[1] / (self.counts[labels] + _PRIOR_IMAGES)

    def usual_log_odds(self) -> float:
        """Half the squared distance of a class to its nearest one; median over the classes."""
        means = self.means[self.counts > 0]
        squares = (means**2).sum(axis=1)
        between = squares[:, None] - 2 * means @ means.T + squares
        np.fill_diagonal(between, np.inf)
        return float(np.median(between.min(axis=1))) / 2 if len(means) > 1 else 0.0


def _fit_classes(
    features: np.ndarray, labels: np.ndarray, fitted: np.ndarray, n_classes: int
) -> _Classes:
    counts = np.bincount(labels[fitted], minlength=n_classes).astype(np.float64)
    sums = np.zeros((n_classes, features.shape[1]))
    squares = np.zeros((features.shape[1], features.shape[1]))
    for rows in _chunks(fitted):
        np.add.at(sums, labels[rows], features[rows])
        squares += features[rows].T @ features[rows]
    image_mean = sums.sum(axis=0) / len(fitted)
    means = (sums + _PRIOR_IMAGES * image_mean) / (counts + _PRIOR_IMAGES)[:, None]
    covariance = within_class_covariance(counts, sums, squares, means)
    whitening, _ = shrunk_whitening(covariance, _SHRINKAGE)
    return _Classes(whitening, means @ whitening, counts)


def _chunks(indices: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(indices), _CHUNK_SIZE):
        yield indices[start : start + _CHUNK_SIZE]


@dataclasses.dataclass(frozen=True)
class AdaptationStep:
    """One labeling that was tried.

    Attributes
    ----------
    name : str
        ``"gaussian"`` with its strength, or ``"training"``.
    n_changed : int
        Number of images whose label it changed.
    clarity : float
        How clearly these belong to their new class, see :func:`change_clarity`.
    kept : bool
    reason : str
        Why it was kept or discarded.
    """

    name: str
    n_changed: int
    clarity: float
    kept: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class AdaptationReport:
    """Whether adaptation helps on a user's images, judged without their labels.

    Attributes
    ----------
    kept : {"zero_shot", "gaussian", "training"}
        What predictions come from.
    trust : float
        Weight of the Gaussians relative to the texts, in [0, 1]; 0 if nothing was kept.
    n_images : int
    images_per_class : float
        Number of images in the median class, by the final labels.
    evenness : float
        Evenness of the final labels, in [0, 1]; 1 if all classes are equally frequent.
    n_changed : int
        Number of images whose final label differs from zero-shot.
    steps : tuple of AdaptationStep
        What was tried, in order.

    Examples
    --------
    >>> from capkit import GaussianTransduction
    >>> from capkit.datasets import make_concept_space
    >>> problem = make_concept_space(n_mismatched=0, text_noise=0.8, random_state=0)
    >>> report = GaussianTransduction().fit(problem.space).report_
    >>> report.kept, report.n_changed
    ('gaussian', 72)
    """

    kept: str
    trust: float
    n_images: int
    images_per_class: float
    evenness: float
    n_changed: int
    steps: tuple[AdaptationStep, ...]

    @property
    def is_doubtful(self) -> bool:
        """Whether something was discarded, or kept against the guard's judgement."""
        return any(
            not step.kept or (step.n_changed and step.clarity < LEAST_CLARITY)
            for step in self.steps
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert the report to plain values.

        Returns
        -------
        dict
        """
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdaptationReport:
        """Build a report from the output of :meth:`to_dict`.

        Parameters
        ----------
        values : mapping

        Returns
        -------
        AdaptationReport
        """
        steps = tuple(AdaptationStep(**step) for step in values["steps"])
        return cls(**{**values, "steps": steps})

    def __str__(self) -> str:
        lines = [
            f"{self.kept} was kept: {self.n_changed} of {self.n_images} images are labeled "
            f"differently from zero-shot ({self.images_per_class:.0f} images in the median class, "
            f"evenness {self.evenness:.2f}, trust {self.trust:.2f})."
        ]
        for step in self.steps:
            word = "kept" if step.kept else "not kept"
            lines.append(f"- {step.name}: {word}; {step.reason}.")
        return "\n".join(lines)


def report_of(
    kept: str,
    trust: float,
    zero_shot_labels: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    steps: Sequence[AdaptationStep],
) -> AdaptationReport:
    """Put a report together.

    Parameters
    ----------
    kept : {"zero_shot", "gaussian", "training"}
    trust : float
    zero_shot_labels, labels : ndarray of shape (n,), int
        Labels before any adaptation, and the final labels.
    n_classes : int
    steps : sequence of AdaptationStep

    Returns
    -------
    AdaptationReport

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.guard import report_of
    >>> before, after = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    >>> report = report_of("gaussian", 0.5, before, after, n_classes=2, steps=())
    >>> report.n_changed, report.evenness
    (1, 1.0)
    """
    counts = np.bincount(labels, minlength=n_classes)
    return AdaptationReport(
        kept=kept,
        trust=float(trust),
        n_images=len(labels),
        images_per_class=float(np.median(counts)),
        evenness=class_balance(counts),
        n_changed=int((zero_shot_labels != labels).sum()),
        steps=tuple(steps),
    )


def training_is_carried(trust: float) -> bool:
    """Whether there are enough images to train on.

    Parameters
    ----------
    trust : float
        Trust in the Gaussians, see :func:`capkit.gaussians.gaussian_trust`.

    Returns
    -------
    bool

    Examples
    --------
    >>> from capkit.gaussians import gaussian_trust
    >>> from capkit.guard import training_is_carried
    >>> training_is_carried(0.2), training_is_carried(0.6)
    (False, True)
    """
    return trust >= LEAST_TRUST_TO_TRAIN


def judge(
    features: np.ndarray,
    zero_shot: np.ndarray,
    gaussian: np.ndarray,
    trained: np.ndarray | None,
    report: AdaptationReport | None,
    *,
    n_classes: int,
    guarded: bool,
) -> AdaptationReport:
    """Decide between the labels of the trained model and the labels before training.

    Parameters
    ----------
    features : ndarray of shape (n, d)
        Of the frozen model.
    zero_shot, gaussian : ndarray of shape (n,), int
        Labels before any adaptation, and labels before training.
    trained : ndarray of shape (n,), int, or None
        Labels of the trained model; None if there are too few images to train on.
    report : AdaptationReport or None
        Report on the Gaussians, if there are any.
    n_classes : int
    guarded : bool
        Whether the result of training may be discarded.

    Returns
    -------
    AdaptationReport

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.guard import judge
    >>> rng = np.random.default_rng(0)
    >>> truth = np.arange(200) % 2
    >>> features = np.eye(2)[truth] + 0.1 * rng.standard_normal((200, 2))
    >>> old = np.where(rng.random(200) < 0.2, 1 - truth, truth)
    >>> judge(features, old, old, truth, None, n_classes=2, guarded=True).kept
    'training'
    """
    kept, trust = ("zero_shot", 0.0) if report is None else (report.kept, report.trust)
    steps = [] if report is None else list(report.steps)
    final = gaussian
    if trained is None:
        reason = (
            f"there is too little to train on, as trust {trust:.2f} is below "
            f"{LEAST_TRUST_TO_TRAIN}"
        )
        steps.append(AdaptationStep("training", 0, 0.0, False, reason))
    else:
        step = judge_labels("training", features, zero_shot, trained, n_classes)
        if step.kept or not guarded:
            kept, final = "training", trained
        if not step.kept and not guarded:
            step = dataclasses.replace(step, kept=True, reason=f"{step.reason}: doubtful")
        steps.append(step)
    return report_of(kept, trust, zero_shot, final, n_classes, steps)


def judge_labels(
    name: str, features: np.ndarray, before: np.ndarray, after: np.ndarray, n_classes: int
) -> AdaptationStep:
    """Judge whether new labels can be trusted.

    They can if the changes are clear, see :func:`change_clarity`. But if most of the old labels
    are of one class, more even new labels probably just divide that class among the others, which
    looks as clear as if it were several classes.

    Parameters
    ----------
    name : str
        What produced the new labels.
    features : ndarray of shape (n, d)
        Of the frozen model.
    before, after : ndarray of shape (n,), int
        Old and new labels.
    n_classes : int

    Returns
    -------
    AdaptationStep

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.guard import judge_labels
    >>> rng = np.random.default_rng(0)
    >>> truth = np.arange(200) % 2
    >>> features = np.eye(2)[truth] + 0.1 * rng.standard_normal((200, 2))
    >>> old = np.where(rng.random(200) < 0.2, 1 - truth, truth)
    >>> judge_labels("a change for the better", features, old, truth, n_classes=2).kept
    True
    >>> judge_labels("chance", features, truth, rng.permutation(truth), n_classes=2).kept
    False
    """
    n_changed = int((before != after).sum())
    if not n_changed:
        return AdaptationStep(name, 0, 0.0, True, "it changes no label")
    clarity = change_clarity(features, before, after, n_classes)
    old, new = (
        class_balance(np.bincount(labels, minlength=n_classes)) for labels in (before, after)
    )
    labels = "1 label" if n_changed == 1 else f"{n_changed} labels"
    reason = f"it changes {labels} with a clarity of {clarity:.2f}"
    if old < _UNEVEN and new > old + _DIVIDED:
        reason = (
            f"it changes {labels} and may divide a large class (evenness {old:.2f} to {new:.2f})"
        )
        return AdaptationStep(name, n_changed, clarity, False, reason)
    return AdaptationStep(name, n_changed, clarity, clarity >= LEAST_CLARITY, reason)
