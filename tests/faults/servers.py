"""Servers of language models that answer wrongly, without end, or not at all."""

from __future__ import annotations

import json
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

# What a request for a description is not answered by; 404 and others that are tried again above.
STATUSES = (
    *(201, 202, 203, 204, 205, 206, 226, 300, 301, 302, 303, 304, 305, 307, 308, 401, 402, 403),
    *(405, 406, 407, 408, 409, 410, 411, 413, 414, 415, 418, 421, 422, 423, 425, 426, 428, 431),
    *(451, 501, 502, 504, 505, 507, 508, 511, 520, 529, 599),
)
# What a model may write instead of an object with a list of texts: in place of the list, of one
# of its texts, and of all.
_NO_LISTS = ("null", "true", "1", "1e999", "{}", "[]", '""', '"a blue band"', '{"0": "a band"}')
_NO_TEXTS = ("null", "true", "NaN", "{}", "[]", '""', '["a band"]', '{"text": "a band"}')
CONTENTS = (
    *(f'{{"descriptions": {value}}}' for value in _NO_LISTS),
    *(f'{{"descriptions": [{value}]}}' for value in (*_NO_TEXTS, '"\\u200b"')),
    *(f'{{"descriptions": ["a blue band", {value}]}}' for value in ("null", "1", "[]", "{}")),
    *("null", "true", "1", "NaN", '"a blue band"', "[]", '["a blue band"]', "{}", "[[[]]]"),
    *('{"Descriptions": ["a blue band"]}', '{"description": "a blue band"}'),
    *('{"descriptions": ["a band"], "descriptions": []}', '{"descriptions": ["a band"]} {}'),
    *("{'descriptions': ['a blue band']}", '{"descriptions": ["a blue band",]}', "\ufeff{}"),
    *('```json\n{"descriptions": ["a blue band"]}\n```', "Here are the descriptions: a band"),
    '{"descriptions": ["a blue band", "' + "1" * 10_001 + '"]}',
    '{"descriptions": [' + "1" * 5000 + "]}",
)
_RIGHT = {
    "model": "llama3.2",
    "created_at": "2026-01-01T00:00:00Z",
    "message": {"role": "assistant", "content": '{"descriptions": ["a blue band"]}'},
    "done": True,
    "done_reason": "stop",
}
_WRONG = (None, 7, "text", [], {}, ["text"], {"x": 1})


def faults(folder: Path) -> Iterator[Fault]:
    """All faults of this kind; answers that are kept lie in `folder`."""
    with OllamaServer() as server:
        for fault in ALWAYS:
            for n_known in (0, 1):
                name = f"{fault}, {n_known} of 2 classes kept"
                attempt = _asked_in_vain(server, fault, n_known)
                yield Fault("server that fails", name, attempt, (DescriberError,))
        for fault in _wrong_answers():
            attempt = _asked_in_vain(server, fault, 1, max_retries=0)
            name = f"{fault[:60]!r} of {len(fault)} characters"
            yield Fault("server that answers wrongly", name, attempt, (DescriberError,))
        for fault in ONCE:
            yield Fault("server that fails once", fault, _asked_again(server, fault), ())


def _wrong_answers() -> Iterator[str]:
    """Statuses, contents and bodies that are no answer."""
    yield from map(str, STATUSES)
    yield from (f"content {content}" for content in CONTENTS)
    right = json.dumps(_RIGHT)
    yield from (f"body {right[: len(right) * part // 20]}" for part in range(20))
    for value in _WRONG:
        yield f"body {json.dumps(value)}"
        yield f"body {json.dumps({**_RIGHT, 'message': value})}"
        message = {"role": "assistant", "content": value}
        if value != "text":  # which is a content of the right type
            yield f"body {json.dumps({**_RIGHT, 'message': message})}"
    for value in _WRONG[1:]:
        yield f"body {json.dumps({**_RIGHT, 'model': value})}"
    yield f"body {right} {right}"
    yield f'body {right[:-1]}, "message": null}}'


def _asked_in_vain(
    server: OllamaServer, fault: str, n_known: int, max_retries: int = 1
) -> Callable[[], str]:
    """Every new question is answered wrongly; what was known before has to come with the error."""

    def attempt() -> str:
        describer = OllamaDescriber(
            host=server.host, n=2, timeout=_SECONDS, max_retries=max_retries
        )
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
