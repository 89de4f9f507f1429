"""The paper's experiment: each data set as it was split, each paradigm, every method."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, clone

from capkit.comparison import Comparison, compare
from capkit.comparison.run import needs_labels
from capkit.encoder import CLIPEncoder
from capkit.image_classifier import ImageClassifier
from capkit.reproduction.result import Reproduction, changed_parameters, departures_of
from capkit.reproduction.settings import PaperSettings, methods_of
from capkit.space import ConceptSpace
from capkit.trained_classifier import TrainedClassifier
from capkit.tuning import PromptTuning, Tuning

__all__ = ["run_protocol"]


class _Split(NamedTuple):
    """Images of a data set as features, and their true classes."""

    pool: ConceptSpace
    pool_target: np.ndarray
    test: ConceptSpace
    test_target: np.ndarray


def run_protocol(
    sets: Sequence[PaperSettings],
    *,
    encoder: CLIPEncoder,
    tuning: Tuning,
    methods: Sequence[str] | None,
    paradigms: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    data_home: Path | None,
    describer: Any = None,
    verbose: int = 0,
) -> Reproduction:
    """Run the experiment, or what is left of it.

    Parameters
    ----------
    sets : sequence of PaperSettings
    encoder : CLIPEncoder
        With the backbone; templates are the data sets'.
    tuning : Tuning
    methods : sequence of str or None
        None are all.
    paradigms : sequence of {"ul", "ssl", "trzsl"}
    seeds : sequence of int
    out : Path
        Folder for a table of each data set and paradigm, for runs that are finished, and for
        checkpoints of those that are not.
    data_home : Path or None
        Folder of the data sets; None is capkit's own.
    describer : callable or None, default=None
        What describes mismatched classes.
    verbose : int, default=0

    Returns
    -------
    Reproduction
    """
    out.mkdir(parents=True, exist_ok=True)
    results: dict[tuple[str, str], Comparison] = {}
    departures: dict[str, tuple[str, ...]] = {}
    written: list[Path] = []
    for settings in sets:
        split = _read(settings, encoder, data_home)
        of_size = _departures_of_size(settings, split)
        departures[settings.data_set] = (*departures_of(split.pool.backbone, tuning), *of_size)
        estimators = methods_of(settings, methods, tuning=tuning, describer=describer)
        for name, estimator in estimators.items():
            estimators[name] = _set_up(estimator, encoder, out)
        for paradigm in paradigms:
            comparison = compare(
                _with_part_in(estimators, paradigm),
                split.pool,
                split.pool_target.tolist(),
                X_test=split.test,
                y_test=split.test_target.tolist(),
                paradigms=[paradigm],
                seeds=seeds,
                encoder=encoder,
                memory=out / "runs",
                verbose=verbose,
            )
            results[settings.data_set, paradigm] = comparison
            name = _file_name(settings.data_set, paradigm, encoder.backbone, tuning)
            comparison.to_csv(out / name)
            written.append(out / name)
    return Reproduction(results, departures, tuple(written))


def _read(settings: PaperSettings, encoder: CLIPEncoder, data_home: Path | None) -> _Split:
    """Encode a data set, the images to adapt to and the test images apart."""
    pool, test = (settings.fetch(data_home, part) for part in ("train", "test"))
    if common := set(pool.paths).intersection(test.paths):
        raise ValueError(
            f"expected test images of {settings.data_set} that are not trained on, got "
            f"{len(common)} in both parts, such as {min(common)}."
        )
    encoder = clone(encoder).set_params(template=pool.template, class_names=pool.class_names)
    spaces = encoder.fit(pool.paths).transform(pool.paths), encoder.transform(test.paths)
    assert isinstance(spaces[0], ConceptSpace) and isinstance(spaces[1], ConceptSpace)
    return _Split(spaces[0], pool.target, spaces[1], test.target)


def _departures_of_size(settings: PaperSettings, split: _Split) -> list[str]:
    """What is missing, or too much; also as a warning, before hours of training."""
    found = split.pool.n_classes, len(split.pool), len(split.test)
    expected = settings.n_classes, settings.n_train, settings.n_test
    if found == expected:
        return []
    words = (
        f"{settings.data_set} has {found[0]} classes, {found[1]} training and {found[2]} test "
        f"images, not {expected[0]}, {expected[1]} and {expected[2]}"
    )
    warnings.warn(f"{words}.", stacklevel=3)
    return [words]


def _set_up(estimator: BaseEstimator, encoder: CLIPEncoder, out: Path) -> BaseEstimator:
    """Tell a method how to read images, and where to keep its checkpoints."""
    if isinstance(estimator, ImageClassifier):
        reading = {name: getattr(encoder, name) for name in ("batch_size", "device", "n_jobs")}
        estimator.set_params(encoder=CLIPEncoder(**reading))
    if isinstance(estimator, TrainedClassifier):
        estimator.set_params(checkpoint_dir=os.path.abspath(out / "checkpoints"))
    return estimator


def _with_part_in(estimators: dict[str, BaseEstimator], paradigm: str) -> dict[str, BaseEstimator]:
    """Methods that can do without labels where there are none."""
    return {
        name: estimator
        for name, estimator in estimators.items()
        if paradigm != "ul" or not needs_labels(estimator)
    }


def _file_name(data_set: str, paradigm: str, backbone: str | os.PathLike, tuning: Tuning) -> str:
    """Name of a table; those of different experiments have different names."""
    words = [data_set, paradigm, os.fspath(backbone)]
    if not isinstance(tuning, PromptTuning):
        words.append(tuning.name)
    words += [f"{name}-{value}" for name, value in changed_parameters(tuning).items()]
    return re.sub(r"[^\w.-]", "-", "_".join(words)) + ".csv"
