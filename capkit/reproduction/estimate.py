"""How long an experiment takes: a few real steps are measured, and multiplied."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from sklearn.base import clone
from skorch.callbacks import Callback

from capkit.backbones.registry import resolve_device
from capkit.classifier import CAPClassifier
from capkit.comparison.run import PeakMemory
from capkit.encoder import CLIPEncoder
from capkit.reproduction.settings import PaperSettings, methods_of
from capkit.trained_classifier import TrainedClassifier
from capkit.tuning import Tuning

__all__ = ["Estimate", "SetEstimate", "StepCost", "estimate_time", "measure_step"]

_STEPS = 5  # beside a first one, in which memory is asked for
_IMAGE_SIDE = 256


@dataclasses.dataclass(frozen=True)
class StepCost:
    """What was measured.

    Attributes
    ----------
    step_seconds : float
        Median of a training step.
    image_seconds : float
        Of encoding an image, decoding its file aside.
    memory : float
        Largest memory in the training above that before it, in MiB, of the GPU where one is used.
    """

    step_seconds: float
    image_seconds: float
    memory: float


@dataclasses.dataclass(frozen=True)
class SetEstimate:
    """The time of a data set, in one or several paradigms.

    Attributes
    ----------
    data_set : str
    n_trainings : int
    n_steps : int
        Of all trainings together.
    cost : StepCost
        Of the paradigm whose steps are dearest.
    seconds : float
    """

    data_set: str
    n_trainings: int
    n_steps: int
    cost: StepCost
    seconds: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The time of an experiment.

    Attributes
    ----------
    device : str
        On what it was measured.
    has_gpu : bool
    sets : tuple of SetEstimate
    """

    device: str
    has_gpu: bool
    sets: tuple[SetEstimate, ...]

    @property
    def hours(self) -> float:
        """Of all sets together."""
        return sum(part.seconds for part in self.sets) / 3600

    def __str__(self) -> str:
        dearest = max(self.sets, key=lambda part: part.cost.step_seconds).cost
        n_steps, n_trainings = (
            sum(getattr(part, name) for part in self.sets) for name in ("n_steps", "n_trainings")
        )
        trainings = (
            f"{n_steps} steps in {_count(n_trainings, 'training')}, up to "
            f"{1000 * dearest.step_seconds:.0f} ms a step"
        )
        return (
            f"about {_in_words(self.hours)} on {self.device} at most, downloads aside: "
            f"{trainings if n_trainings else 'nothing is trained'}"
        )


def estimate_time(
    sets: Sequence[PaperSettings],
    *,
    encoder: CLIPEncoder,
    tuning: Tuning,
    methods: Sequence[str] | None,
    paradigms: Sequence[str],
    n_seeds: int,
) -> Estimate:
    """Measure a few steps of each data set's size, and say how long all of it takes.

    Nothing is downloaded but the backbone: images are random, as their content costs nothing. It
    is an upper bound, as every method counts as the dearest, CAP with all strong views kept.
    Methods without training take seconds, and do not count.

    Parameters
    ----------
    sets : sequence of PaperSettings
    encoder : CLIPEncoder
        With the backbone and the device.
    tuning : Tuning
    methods : sequence of str or None
        None are all.
    paradigms : sequence of {"ul", "ssl", "trzsl"}
    n_seeds : int

    Returns
    -------
    Estimate
    """
    parts = []
    for settings in sets:
        estimators = methods_of(settings, methods, tuning=tuning).values()
        n_trained = sum(isinstance(estimator, TrainedClassifier) for estimator in estimators)
        costs = {
            labeled: measure_step(settings, encoder, tuning, labeled=labeled)
            for labeled in sorted({paradigm != "ul" for paradigm in paradigms})
        }
        by_paradigm = {paradigm: costs[paradigm != "ul"] for paradigm in paradigms}
        parts.append(_add_up(settings, tuning, n_trained * n_seeds, by_paradigm))
    device = resolve_device(encoder.device)
    return Estimate(_name_of(device), device.type != "cpu", tuple(parts))


def _add_up(
    settings: PaperSettings,
    tuning: Tuning,
    n_trainings: int,
    costs: Mapping[str, StepCost],
) -> SetEstimate:
    """The time of a set with so many trainings in each paradigm."""
    n_steps = tuning.epochs * tuning.steps_per_epoch
    # Trained towers encode the pool twice, for the guard and for the table, and the test images.
    n_encoded = 2 * settings.n_train + settings.n_test if tuning.trains_encoder else 0
    dearest = max(costs.values(), key=lambda cost: cost.step_seconds)
    seconds = (settings.n_train + settings.n_test) * dearest.image_seconds
    for cost in costs.values():
        training = n_steps * cost.step_seconds + n_encoded * cost.image_seconds
        seconds += n_trainings * training
    n_all = n_trainings * len(costs)
    return SetEstimate(settings.data_set, n_all, n_all * n_steps, dearest, seconds)


def measure_step(
    settings: PaperSettings, encoder: CLIPEncoder, tuning: Tuning, *, labeled: bool = False
) -> StepCost:
    """Train CAP for a few steps on random images and as many classes as a data set has.

    Parameters
    ----------
    settings : PaperSettings
    encoder : CLIPEncoder
    tuning : Tuning
    labeled : bool, default=False
        Whether a batch of labeled images is a part of each step, as in ``ssl`` and ``trzsl``.

    Returns
    -------
    StepCost
    """
    n_images = max(settings.n_classes, 2 * tuning.batch_size)
    shape = (n_images, _IMAGE_SIDE, _IMAGE_SIDE, 3)
    # New ones in each call: features of others may be known already.
    images = np.random.default_rng().integers(0, 256, shape, dtype=np.uint8)
    names = [f"a kind of thing, number {index}" for index in range(settings.n_classes)]
    encoder = clone(encoder).set_params(class_names=names, cache_dir=None, verbose=0)
    encoder.fit(images).transform(images[: tuning.batch_size])  # a first one, to warm up
    start = time.perf_counter()
    space = encoder.transform(images[tuning.batch_size :])
    image_seconds = (time.perf_counter() - start) / len(space)

    clock = _Clock()
    classifier = CAPClassifier(
        "ssl" if labeled else "ul",
        encoder=encoder.set_params(class_names=None),
        pseudo_labels="zero_shot",
        aligner="passthrough",
        tau=0.0,  # keeps every strong view
        tuning=clone(tuning).set_params(epochs=1, steps_per_epoch=_STEPS + 1),
        callbacks=[clock],
        random_state=0,
    )
    labels = [names[row % len(names)] if labeled and row % 2 else -1 for row in range(len(space))]
    with PeakMemory() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random images fit no class
        classifier.fit(space, labels)
    return StepCost(clock.seconds, image_seconds, memory.mib)


class _Clock(Callback):
    """Notes when each step ends."""

    def initialize(self) -> _Clock:
        self.times: list[float] = []
        return self

    def on_batch_end(self, net: object, **kwargs: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Median of a step; between two ends lies the drawing of a batch as well."""
        return float(np.median(np.diff(self.times)))


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"this CPU ({_count(torch.get_num_threads(), 'thread')})"
    return f"the device {device}"


def _in_words(hours: float) -> str:
    if hours < 1:
        return f"{max(1, round(60 * hours))} minutes"
    return f"{hours:.0f} hours" if round(hours) != 1 else "an hour"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
