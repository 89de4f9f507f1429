"""What one thread is worth in a fit on small arrays, on an idle machine and on a busy one.

    python benchmarks/threads.py --csv docs/results/threads.csv

Fits Gaussian transduction, and CAPClassifier with a short adapter tuning, to 3,000 planted
features of width 512 with 25 classes: in one thread, as capkit does it, and in as many as
libraries take by themselves. Both in turns in one process; "busy" is beside as many other
processes as there are CPUs. Median seconds of the turns.
"""

import argparse
import contextlib
import csv
import multiprocessing
import os
import statistics
import time
import warnings
from unittest import mock

from capkit import CAPClassifier, GaussianTransduction
from capkit.datasets import make_concept_space
from capkit.tuning import AdapterTuning

USERS = ("capkit.transduction", "capkit.mismatch", "capkit.training.run")
FITS = {
    "transduction": lambda space: GaussianTransduction().fit(space),
    "CAP, 100 steps": lambda space: CAPClassifier(
        tuning=AdapterTuning(epochs=10, steps_per_epoch=10), random_state=0
    ).fit(space),
}


def work():
    """Keep a CPU busy."""
    while True:
        sum(range(10_000))


@contextlib.contextmanager
def busy(n_processes):
    """Other processes at work."""
    processes = [multiprocessing.Process(target=work, daemon=True) for _ in range(n_processes)]
    for process in processes:
        process.start()
    yield
    for process in processes:
        process.terminate()


@contextlib.contextmanager
def threads_of_the_libraries():
    """Take capkit's limit away."""
    with contextlib.ExitStack() as stack:
        for module in USERS:
            nothing = lambda n_numbers=0: contextlib.nullcontext()  # noqa: E731
            stack.enter_context(mock.patch(f"{module}.one_thread", nothing))
        yield


def seconds(fit, space):
    """Of one fit."""
    start = time.perf_counter()
    fit(space)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--csv", help="also write the table to this file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    space = make_concept_space(3000, 25, 512, random_state=0).space
    rows = [["fit", "machine", "one thread [s]", "libraries' own [s]", "ratio"]]
    print(" | ".join(rows[0]))
    for name, fit in FITS.items():
        for machine, n_others in (("idle", 0), ("busy", os.cpu_count())):
            limited, free = [], []
            with busy(n_others):
                for _ in range(arguments.turns):
                    limited.append(seconds(fit, space))
                    with threads_of_the_libraries():
                        free.append(seconds(fit, space))
            one, many = statistics.median(limited), statistics.median(free)
            rows.append([name, machine, f"{one:.2f}", f"{many:.2f}", f"{many / one:.1f}"])
            print(" | ".join(rows[-1]), flush=True)
    if arguments.csv:
        with open(arguments.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
