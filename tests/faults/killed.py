"""Processes that are killed in the middle of a training or an encoding, and run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from faults.common import RECOVERED, Fault, WrongResult, expect_same

N_KILLED = 6
_TESTS = Path(__file__).parents[1]
_TRAIN = """
import sys
from faults.killed import train
train(sys.argv[1])
"""
_ENCODE = """
import sys
from faults.killed import encode
encode(sys.argv[1])
"""


def faults(folder: Path) -> Iterator[Fault]:
    """All faults of this kind; checkpoints and features lie in `folder`."""
    for kind, script, run in (
        ("training that is killed", _TRAIN, train),
        ("encoding that is killed", _ENCODE, encode),
    ):
        right = run(None)
        for number in range(N_KILLED):
            place = folder / f"{kind} {number}"
            attempt = _killed_and_run_again(script, run, place, right, number)
            yield Fault(kind, f"number {number}", attempt, (), seconds=120.0)


def train(checkpoint_dir: str | os.PathLike | None) -> np.ndarray:
    """Probabilities after a training that takes a second or two."""
    from faults.subjects import planted_space, quick_classifier, quick_tuning, quietly_fitted

    space = planted_space()
    tuning = quick_tuning(epochs=60, steps_per_epoch=10)
    classifier = quick_classifier(tuning=tuning, checkpoint_dir=checkpoint_dir)
    return quietly_fitted(classifier, space).predict_proba(space)


def encode(cache_dir: str | os.PathLike | None) -> np.ndarray:
    """Features of images that are encoded a few at a time."""
    from faults.subjects import encoder, few_digits

    images, names = few_digits(400)
    space = encoder(class_names=names, cache_dir=cache_dir, batch_size=4).fit_transform(images)
    return space.image_features


def _killed_and_run_again(
    script: str, run: Callable, place: Path, right: np.ndarray, number: int
) -> Callable[[], str]:
    def attempt() -> str:
        _kill_once_begun([sys.executable, "-c", script, str(place)], place, 0.05 * number)
        if not any(path.is_file() for path in place.rglob("*")):
            raise WrongResult("it was killed before it had written anything")
        expect_same(run(place), right, "result", tolerance=1e-5 if run is encode else 0.0)
        return RECOVERED

    return attempt


def _kill_once_begun(command: list[str], place: Path, seconds: float) -> None:
    """Start a process, and kill it that long after it has written its first file."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(_TESTS), str(_TESTS.parent)]),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and not any(path.is_file() for path in place.rglob("*")):
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise WrongResult("it came to its end before it could be killed")
