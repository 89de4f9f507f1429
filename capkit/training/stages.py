"""The stages before the training, for what a ConceptSpace does not carry yet."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sklearn.base import BaseEstimator, clone

from capkit.alignment import ConceptAligner
from capkit.encoder import CLIPEncoder
from capkit.images import ImageSource
from capkit.margins import MarginCalibrator
from capkit.mismatch import MismatchDetector
from capkit.space import ConceptSpace

if TYPE_CHECKING:
    from capkit.classifier import CAPClassifier

__all__ = ["Stages", "encode", "run_stages", "warn_of_idle_parameters"]


@dataclasses.dataclass(frozen=True, eq=False)
class Stages:
    """The stages that were run.

    Parameters
    ----------
    space : ConceptSpace
        What they made.
    detector : MismatchDetector or None
        Fitted; None where the space had its result already.
    aligner : ConceptAligner or None
        Fitted; None where the space had its result already, or alignment is passed through.
    calibrator : MarginCalibrator
        Unfitted: training fits it after every epoch.
    """

    space: ConceptSpace
    detector: MismatchDetector | None
    aligner: ConceptAligner | None
    calibrator: MarginCalibrator


def encode(
    classifier: CAPClassifier, source: ImageSource, class_names: Sequence[str]
) -> ConceptSpace:
    """Encode images as a :class:`~capkit.CLIPEncoder` in front of the classifier does.

    Parameters
    ----------
    classifier : CAPClassifier
    source : ImageSource
    class_names : sequence of str

    Returns
    -------
    ConceptSpace
    """
    encoder = CLIPEncoder(
        classifier.backbone,
        template=classifier.template,
        class_names=class_names,
        batch_size=classifier.encode_batch_size,
        device=classifier.device,
        cache_dir=classifier.cache_dir,
        n_jobs=classifier.n_jobs,
        on_error=classifier.on_error,
        verbose=classifier.verbose,
    )
    return encoder.fit_transform(source)


def run_stages(classifier: CAPClassifier, space: ConceptSpace, seed: int) -> Stages:
    """Detect and align, unless an earlier step has, and find the calibrator.

    Parameters
    ----------
    classifier : CAPClassifier
    space : ConceptSpace
    seed : int
        For stages that have no seed of their own.

    Returns
    -------
    Stages
    """
    warn_of_idle_parameters(classifier, space)
    detector = aligner = None
    if space.alignment is None and not _passes_through(classifier):
        if space.mismatch is None and (classifier.detector or not classifier.aligner):
            default = MismatchDetector(t=classifier.t)
            detector = _seeded(_given_or(classifier.detector, default), seed)
            space = detector.fit_transform(space)
        default = ConceptAligner(
            describer=classifier.describer,
            n_descriptions=classifier.n_descriptions,
            top_k=classifier.top_k,
            device=classifier.device,
        )
        aligner = _seeded(_given_or(classifier.aligner, default), seed)
        space = aligner.fit_transform(space)
    if space.margin is not None:
        calibrator = clone(space.margin.calibrator)
    else:
        default = MarginCalibrator(m=classifier.m, tau=classifier.tau)
        calibrator = _given_or(classifier.calibrator, default)
    return Stages(space, detector, aligner, calibrator)


def warn_of_idle_parameters(classifier: CAPClassifier, space: ConceptSpace) -> None:
    """Warn of parameters that have no effect, because another stage's own stand in their place.

    Parameters
    ----------
    classifier : CAPClassifier
    space : ConceptSpace
    """
    aligned = space.alignment is not None
    detect, align, calibrate = (
        f"the {stage} before this step decides"
        for stage in ("MismatchDetector", "ConceptAligner", "MarginCalibrator")
    )
    reasons: dict[str, str | None] = {
        "detector": detect if aligned or space.mismatch is not None else None,
        "aligner": align if aligned else None,
        "calibrator": calibrate if space.margin is not None else None,
    }
    if _passes_through(classifier):
        reasons["t"] = reasons["detector"] = "aligner='passthrough' leaves all texts as they are"
        reasons["describer"] = reasons["n_descriptions"] = reasons["detector"]
    else:
        reasons["t"] = reasons["detector"] or _nested(classifier, "detector", "t")
        reasons["t"] = reasons["t"] or _nested(classifier, "aligner", "detector__t")
        for name in ("describer", "n_descriptions"):
            reasons[name] = reasons["aligner"] or _nested(classifier, "aligner", name)
    for name in ("tau", "m"):
        reasons[name] = reasons["calibrator"] or _nested(classifier, "calibrator", name)
    defaults = inspect.signature(type(classifier)).parameters
    for name, reason in reasons.items():
        value = getattr(classifier, name)
        if (
            reason is not None
            and value is not defaults[name].default
            and (value != defaults[name].default)
        ):
            warnings.warn(f"{name}={value!r} has no effect: {reason}.", UserWarning, stacklevel=5)


def _nested(classifier: CAPClassifier, stage: str, name: str) -> str | None:
    if getattr(classifier, stage) is None:
        return None
    return f"{stage} is given; set {stage}__{name}"


def _passes_through(classifier: CAPClassifier) -> bool:
    return isinstance(classifier.aligner, str) and classifier.aligner == "passthrough"


def _given_or(given: BaseEstimator | None, default: BaseEstimator) -> BaseEstimator:
    return default if given is None else clone(given)


def _seeded(estimator: BaseEstimator, seed: int) -> BaseEstimator:
    """Give every random_state that is None this seed."""
    parameters = estimator.get_params(deep=True)
    unset = [
        name
        for name, value in parameters.items()
        if name.rpartition("__")[2] == "random_state" and value is None
    ]
    return estimator.set_params(**dict.fromkeys(unset, seed))
