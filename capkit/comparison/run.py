"""One run of a comparison: fit an estimator to images and evaluate its predictions."""

from __future__ import annotations

import dataclasses
import threading
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import recall_score, roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags

from capkit._validation import UNLABELED
from capkit.exceptions import AdaptationWarning, LabelError
from capkit.image_classifier import ImageClassifier
from capkit.metrics import harmonic_mean_score
from capkit.pseudolabels import class_balance
from capkit.space import ConceptSpace

__all__ = [
    "PeakMemory",
    "Prediction",
    "Problem",
    "attempt",
    "judge",
    "needs_labels",
    "prepare",
    "run",
]

_N_BINS = 15
_MIB = 2**20
_SECONDS_BETWEEN_LOOKS = 0.005


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What a method sees and what it is tested on, for one paradigm and seed.

    Parameters
    ----------
    space, new_space : ConceptSpace
        The spaces with the images to adapt to and the new images; often the same.
    target, new_target : ndarray of shape (n,), dtype int64
        True classes of all images in these spaces.
    rows, new_rows : ndarray of int
        Rows of the images to adapt to and of the new images; there may be no new images.
    labels : ndarray of shape (n_rows,), dtype int64
        Labels of the images to adapt to that the paradigm reveals; -1 for unlabeled images.
    seen : ndarray of shape (n_seen,), dtype int64
        The seen classes of ``trzsl``, else empty.
    """

    space: ConceptSpace
    target: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    seen: np.ndarray
    new_space: ConceptSpace
    new_target: np.ndarray
    new_rows: np.ndarray

    @property
    def unlabeled(self) -> np.ndarray:
        """Which images to adapt to have no label, shape (n_rows,)."""
        return self.labels == UNLABELED

    @property
    def judged(self) -> np.ndarray:
        """Which images to adapt to are scored: the unlabeled ones.

        In ``trzsl`` all of them, because half of its score is for classes without unlabeled
        images.
        """
        return np.ones(len(self.rows), dtype=bool) if len(self.seen) else self.unlabeled

    @property
    def n_judged(self) -> dict[str, int]:
        """Number of images that count, by what they are."""
        counts = {"adapted": int(self.judged.sum()), "new": len(self.new_rows)}
        return {on: count for on, count in counts.items() if count}


# -- the run


def needs_labels(estimator: BaseEstimator) -> bool:
    """Whether an estimator needs labels and so cannot take part in ``ul``.

    Parameters
    ----------
    estimator : BaseEstimator
        For a Pipeline the last step decides.

    Returns
    -------
    bool
    """
    last = _step(prepare(estimator, "ul", seed=0), -1)
    if isinstance(last, ImageClassifier):
        return bool(get_tags(last).target_tags.required)
    return _takes_array(last, step=-1)


def _takes_array(estimator: BaseEstimator, step: int) -> bool:
    """Whether the first (0) or last (-1) step takes arrays rather than a ConceptSpace."""
    return bool(get_tags(_step(estimator, step)).input_tags.two_d_array)


def _step(estimator: BaseEstimator, step: int) -> BaseEstimator:
    """First or last step of a Pipeline, or of what a search copies: these pass no tags on."""
    if isinstance(estimator, Pipeline):
        steps = [part for _, part in estimator.steps if part not in (None, "passthrough")]
        return _step(steps[step], step)
    copied = getattr(estimator, "estimator", None)
    if isinstance(estimator, ImageClassifier) or not isinstance(copied, BaseEstimator):
        return estimator
    return _step(copied, step)


def prepare(estimator: BaseEstimator, paradigm: str, seed: int) -> BaseEstimator:
    """Copy of an estimator with the paradigm and the seed set.

    Parameters
    ----------
    estimator : BaseEstimator
    paradigm : {"ul", "ssl", "trzsl"}
        For every parameter ``paradigm``, also of estimators that are parameters.
    seed : int
        For every parameter ``random_state``, likewise.

    Returns
    -------
    BaseEstimator
        Not fitted.
    """
    values: dict[str, object] = {"paradigm": paradigm, "random_state": seed}
    copied = clone(estimator)
    last = {name: name.rpartition("__")[2] for name in copied.get_params(deep=True)}
    return copied.set_params(**{name: values[end] for name, end in last.items() if end in values})


def attempt(
    run: Callable[..., Mapping], number: int, *arguments: object
) -> tuple[int, Mapping[str, Mapping[str, float]], str]:
    """Call :func:`run`; an error ends only this run.

    Parameters
    ----------
    run : callable
        :func:`run`, or a cached version of it; failed runs are not cached.
    number : int
        Which run it is.
    *arguments : object
        Its arguments.

    Returns
    -------
    number : int
    rows : mapping
        Its result; empty if it failed.
    error : str
        Error message; empty if it did not fail.
    """
    try:
        return number, run(*arguments), ""
    except Exception as error:
        return number, {}, f"{type(error).__name__}: {error}"


def run(
    estimator: BaseEstimator, problem: Problem, problem_id: str, context: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Fit, predict and evaluate.

    Parameters
    ----------
    estimator : BaseEstimator
        Output of :func:`prepare`.
    problem : Problem
    problem_id : str
        Fingerprint of the problem, by which a cache knows it.
    context : tuple of str
        Anything else that determines the result, for the cache.

    Returns
    -------
    dict of str to dict of str to float
        Measures on ``"adapted"`` images and, if there are any, on ``"new"`` ones.
    """
    space, target = problem.space[problem.rows], problem.target[problem.rows]
    start = time.perf_counter()
    with PeakMemory() as memory, warnings.catch_warnings():
        # What the guard says shows in the measures.
        warnings.simplefilter("ignore", AdaptationWarning)
        _fit(estimator, space, problem.labels)
    prediction = _predict(estimator, space)
    of_fit = {"seconds": time.perf_counter() - start, "memory": memory.mib}

    given = getattr(estimator, "pseudo_labels_", None)
    pseudolabels = prediction.classes if given is None else np.asarray(given)
    of_fit |= _judge_pseudolabels(pseudolabels, target, problem)
    judged = problem.judged
    rows = {"adapted": judge(prediction[judged], target[judged], problem.seen) | of_fit}
    if len(problem.new_rows):
        new = _predict(estimator, problem.new_space[problem.new_rows])
        new_target = problem.new_target[problem.new_rows]
        rows["new"] = judge(new, new_target, problem.seen) | of_fit
    return rows


def _fit(estimator: BaseEstimator, space: ConceptSpace, labels: np.ndarray) -> None:
    if _takes_array(estimator, step=-1):  # where an unlabeled image would be a class
        labeled = labels != UNLABELED
        estimator.fit(_input_of(estimator, space[labeled]), labels[labeled])
        return
    names = space.class_names  # indices could be taken for the positions of sorted labels
    estimator.fit(space, [names[i] if i != UNLABELED else UNLABELED for i in labels.tolist()])


def _input_of(estimator: BaseEstimator, space: ConceptSpace) -> ConceptSpace | np.ndarray:
    return space.image_features if _takes_array(estimator, step=0) else space


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted class of each image, and its probability, or None without probabilities."""

    classes: np.ndarray
    confidence: np.ndarray | None

    def __getitem__(self, rows: np.ndarray) -> Prediction:
        confidence = None if self.confidence is None else self.confidence[rows]
        return Prediction(self.classes[rows], confidence)


def _predict(estimator: BaseEstimator, space: ConceptSpace) -> Prediction:
    X = _input_of(estimator, space)
    if not hasattr(estimator, "predict_proba"):
        return Prediction(_as_indices(estimator.predict(X), space.class_names), None)
    probabilities = np.asarray(estimator.predict_proba(X), dtype=np.float64)
    columns = _as_indices(estimator.classes_, space.class_names)
    return Prediction(columns[probabilities.argmax(axis=1)], probabilities.max(axis=1))


def _as_indices(labels: np.ndarray, class_names: tuple[str, ...]) -> np.ndarray:
    """Indices into the class names of labels that are names, or indices already."""
    labels, n_classes = np.asarray(labels), len(class_names)
    known = range(n_classes) if labels.dtype.kind in "iu" else class_names
    position = {label: index for index, label in enumerate(known)}
    indices = np.array([position.get(label, -1) for label in labels.tolist()], dtype=np.int64)
    if (indices < 0).any():
        wrong = labels[indices < 0].tolist()[0]
        raise LabelError(
            f"expected predictions of the {n_classes} class names, or indices into them, got "
            f"{wrong!r}."
        )
    return indices


# -- measures


def judge(prediction: Prediction, target: np.ndarray, seen: np.ndarray) -> dict[str, float]:
    """Measures of predictions.

    Parameters
    ----------
    prediction : Prediction
    target : ndarray of shape (n_images,), dtype int64
        True classes.
    seen : ndarray of shape (n_seen,), dtype int64
        Seen classes of ``trzsl``, where the score is the harmonic mean; empty otherwise.

    Returns
    -------
    dict of str to float
        NaN for undefined measures.
    """
    predicted, confidence = prediction.classes, prediction.confidence
    right, classes = predicted == target, np.unique(target)
    recalls = recall_score(target, predicted, labels=classes, average=None, zero_division=0)
    score = accuracy = float(right.mean())
    if len(seen):
        of_both = 0 < np.isin(target, seen).sum() < len(target)
        labels = target.tolist(), predicted.tolist()
        score = harmonic_mean_score(*labels, seen_classes=seen.tolist()) if of_both else np.nan
    auc = calibration_error = np.nan
    if confidence is not None:
        calibration_error = _calibration_error(right, confidence)
        auc = roc_auc_score(right, confidence) if 0 < right.sum() < len(right) else np.nan
    return {
        "score": score,
        "accuracy": accuracy,
        "mean_recall": float(recalls.mean()),
        "worst_recall": float(recalls.min()),
        "auc": float(auc),
        "calibration_error": calibration_error,
    }


def _calibration_error(right: np.ndarray, confidence: np.ndarray) -> float:
    """Expected calibration error, by bins of equal width."""
    bins = np.minimum((confidence * _N_BINS).astype(int), _N_BINS - 1)
    return float(np.abs(np.bincount(bins, weights=right - confidence)).sum() / len(right))


def _judge_pseudolabels(
    pseudolabels: np.ndarray, target: np.ndarray, problem: Problem
) -> dict[str, float]:
    """Accuracy of the labels of unlabeled images, and evenness of their classes.

    Evenness is over the classes that unlabeled images may belong to.
    """
    found = problem.unlabeled & (pseudolabels != UNLABELED)
    right = pseudolabels[found] == target[found]
    counts = np.bincount(pseudolabels[found], minlength=problem.space.n_classes)
    return {
        "pseudolabel_accuracy": float(right.mean()) if found.any() else np.nan,
        "pseudolabel_evenness": class_balance(np.delete(counts, problem.seen)),
    }


class PeakMemory:
    """Peak memory in a block, minus the memory used before it.

    GPU memory if the block uses any, otherwise the resident memory of the process.

    Attributes
    ----------
    mib : float
        MiB, after the block.
    """

    def __enter__(self) -> PeakMemory:
        import psutil

        self._process, self._ended = psutil.Process(), threading.Event()
        self._before = self._peak = self._process.memory_info().rss
        self._gpu_before = 0
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
            self._gpu_before = torch.cuda.memory_allocated()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(_SECONDS_BETWEEN_LOOKS)
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._watcher.join()
        gpu_peak = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
        self.mib = ((gpu_peak - self._gpu_before) or (self._peak - self._before)) / _MIB
