"""Servers of language models that answer wrongly, without end, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ollama_server import OllamaServer

from capkit.describers import OllamaDescriber
from capkit.exceptions import DescriberError
from faults.common import RECOVERED, Fault, WrongResult, expect_same

# What no server may do; see tests/ollama_server.py.
ALWAYS = (
    "400",
    "404",
    "429",
    "500",
    "503",
    "a book",
    "bomb",
    "broken JSON",
    "broken protocol",
    "cut off",
    "deep JSON",
    "deep protocol",
    "drip body",
    "drip head",
    "drip status",
    "empty",
    "endless",
    "escapes",
    "half sent",
    "hang",
    "hang up",
    "latin-1",
    "no texts",
    "not done",
    "other model",
    "page 200",
    "page 502",
    "redirect",
    "truncated",
    "wrong layout",
    "wrong type",
)
# After which another question may be answered rightly.
ONCE = ("broken JSON", "cut off", "deep JSON", "empty", "no texts", "wrong layout", "wrong type")
_SECONDS = 0.3  # for an answer


def faults(folder: Path) -> Iterator[Fault]:
    """All faults of this kind; answers that are kept lie in `folder`."""
    with OllamaServer() as server:
        for fault in ALWAYS:
            for n_known in (0, 1):
                name = f"{fault}, {n_known} of 2 classes kept"
                attempt = _asked_in_vain(server, fault, n_known)
                yield Fault("server that fails", name, attempt, (DescriberError,))
        for fault in ONCE:
            yield Fault("server that fails once", fault, _asked_again(server, fault), ())


def _asked_in_vain(server: OllamaServer, fault: str, n_known: int) -> Callable[[], str]:
    """Every new question is answered wrongly; what was known before has to come with the error."""

    def attempt() -> str:
        describer = OllamaDescriber(host=server.host, n=2, timeout=_SECONDS, max_retries=1)
        known = describer.describe(["river"][:n_known])
        server.fail_for("harbour", fault)
        try:
            found = describer.describe(["river", "harbour"])
        except DescriberError as error:
            kept = {name: error.descriptions[name] for name in known}
            expect_same(kept, known, "descriptions of before")
            raise
        finally:
            server._class_faults.clear()
        raise WrongResult(f"an answer: {found!r:.80}")

    return attempt


def _asked_again(server: OllamaServer, fault: str) -> Callable[[], str]:
    def attempt() -> str:
        options = {"host": server.host, "n": 2, "timeout": 10.0}
        right = OllamaDescriber(**options).describe(["river"])
        server.fail_next(fault)
        found = OllamaDescriber(**options, max_retries=2).describe(["river"])
        expect_same(found, right, "descriptions")
        return RECOVERED

    return attempt
