"""A fault, what came of it, and the table of all.

What came of a fault is one of four:

refused
    An error that the documentation names for it: capkit's own class, or a builtin with capkit's
    message; of some faults also the operating system's own error, see ``Fault.passed_on``.
recovered
    The right result in spite of the fault, for which something was done anew or left out; with
    the warning that is promised.
harmless
    The right result, as the fault lies in nothing that is read.
silent
    Anything else: a wrong result, another error, no end.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import linecache
import os
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

import capkit
from capkit.exceptions import CapkitError

REFUSED, RECOVERED, HARMLESS, SILENT = OUTCOMES = ("refused", "recovered", "harmless", "silent")
HEADER = ("kind of fault", "tried", *OUTCOMES)

# Files whose errors count as capkit's own: its checks of parameters are scikit-learn's.
_OWN_FILES = (
    os.path.dirname(capkit.__file__) + os.sep,
    os.path.join("sklearn", "utils", "_param_validation.py"),
    os.path.join("sklearn", "utils", "validation.py"),
    os.path.join("sklearn", "base.py"),
)


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault, and what a user does who meets it.

    Parameters
    ----------
    kind : str
        Row of the table.
    name : str
        What was done; with the kind it is enough to do it again.
    attempt : callable
        Does it; gives RECOVERED or HARMLESS, or raises. A wrong result is a :class:`WrongResult`.
    refusals : tuple of exception classes
        With which capkit may refuse it.
    passed_on : tuple of exception classes, default=()
        Errors of the operating system or of Python that capkit passes on as they are.
    seconds : float, default=10.0
        After which it counts as hanging.
    """

    kind: str
    name: str
    attempt: Callable[[], str]
    refusals: tuple[type[BaseException], ...]
    passed_on: tuple[type[BaseException], ...] = ()
    seconds: float = 10.0


class WrongResult(Exception):
    """Something was given that is not what it should be."""


class Hanging(BaseException):
    """The time limit is over; no Exception, which capkit could take for a fault of its own."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What came of a fault; `reason` is how an attempt ended."""

    fault: Fault
    outcome: str
    reason: str
    seconds: float


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`Hanging` in the main thread once the time is over."""

    def end(number, frame):
        raise Hanging

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def try_fault(fault: Fault) -> Finding:
    """Run a fault and say what came of it."""
    start = time.perf_counter()
    try:
        with warnings.catch_warnings(), time_limit(fault.seconds):
            warnings.simplefilter("ignore")
            outcome, reason = fault.attempt(), ""
    except Hanging:
        outcome, reason = SILENT, f"no end after {fault.seconds:g} s"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        outcome = REFUSED if _is_refusal(error, fault) else SILENT
        reason = "".join(traceback.format_exception_only(error)).strip()[:300]
        if outcome == SILENT and not isinstance(error, WrongResult):
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason += f" [{place.filename}:{place.lineno}]"
    return Finding(fault, outcome, reason, time.perf_counter() - start)


def _is_refusal(error: BaseException, fault: Fault) -> bool:
    if isinstance(error, fault.passed_on):
        return True
    if not isinstance(error, fault.refusals):
        return False
    return isinstance(error, CapkitError) or _has_own_message(error)


def _has_own_message(error: BaseException) -> bool:
    """Whether a ``raise`` of capkit made the error, and no library below one of its lines."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    path = frame.f_code.co_filename
    if not any(own in path for own in _OWN_FILES):
        return False
    return linecache.getline(path, line).lstrip().startswith("raise")


# -- what attempts share


@contextlib.contextmanager
def warned_of(category: type[Warning]) -> Iterator[list[bool]]:
    """Give a list that holds True afterwards where such a warning was given."""
    said: list[bool] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    said.extend(True for warning in caught if issubclass(warning.category, category))


def expect_same(found: object, right: object, what: str, tolerance: float = 0.0) -> None:
    """Raise :class:`WrongResult` unless two results are the same; arrays within a tolerance."""
    if isinstance(right, np.ndarray):
        same = (
            isinstance(found, np.ndarray)
            and found.shape == right.shape
            and found.dtype == right.dtype
            and _arrays_agree(found, right, tolerance)
        )
    else:
        same = type(found) is type(right) and found == right
    if not same:
        raise WrongResult(f"{what}: expected {right!r:.120}, got {found!r:.120}")


def _arrays_agree(found: np.ndarray, right: np.ndarray, tolerance: float) -> bool:
    if right.dtype.kind in "OUS" or not tolerance:
        return np.array_equal(found, right)
    return bool(np.allclose(found, right, rtol=0, atol=tolerance))


# -- the table


def try_all(faults: Iterable[Fault]) -> list[Finding]:
    """Run faults one after the other."""
    return [try_fault(fault) for fault in faults]


def table(findings: Iterable[Finding]) -> list[tuple]:
    """Rows of the table under :data:`HEADER`, the last one their sum."""
    counts: dict[str, Counter] = {}
    for finding in findings:
        counts.setdefault(finding.fault.kind, Counter())[finding.outcome] += 1
    counts["all"] = sum(counts.values(), Counter())
    return [
        (kind, count.total(), *(count[outcome] for outcome in OUTCOMES))
        for kind, count in counts.items()
    ]


def show(findings: list[Finding]) -> Iterator[str]:
    """Lines of the table, and a line for each silent fault."""
    rows = [HEADER, *table(findings)]
    width = max(len(row[0]) for row in rows)
    for kind, *numbers in rows:
        yield f"{kind:{width}}" + "".join(f"{number:>11}" for number in numbers)
    for finding in findings:
        if finding.outcome == SILENT:
            yield f"SILENT {finding.fault.kind}: {finding.fault.name}: {finding.reason}"


def write_csv(path: str | os.PathLike, findings: Iterable[Finding]) -> None:
    """Write the table for the documentation."""
    with Path(path).open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([HEADER, *table(findings)])
