"""Descriptions by a language model that an Ollama server runs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator
from sklearn.utils import check_scalar
from sklearn.utils._param_validation import Interval

from capkit._files import write_atomically
from capkit.describers.asking import clean_descriptions
from capkit.exceptions import (
    CacheError,
    DescriberAnswerError,
    DescriberConnectionError,
    DescriberError,
    DescriberModelError,
    DescriberTimeoutError,
)

if TYPE_CHECKING:
    from ollama import Client

__all__ = ["DEFAULT_PROMPT", "OllamaDescriber"]

logger = logging.getLogger(__name__)

DEFAULT_PROMPT = (
    "What does {class_name} look like in a picture? Write {n} different descriptions of it, each "
    "one phrase of 5 to 20 words that could stand under such a picture. Name only what can be "
    "seen: shapes, colours, textures, parts and how they are arranged. Leave out what is only "
    "known: its use, its origin, its history, sounds, smells and opinions."
)
_SYSTEM_PROMPT = "You describe how things look, precisely and in plain words. Answer in JSON."
_RETRY_WAIT = 0.5  # seconds before the first retry; doubled before each further one
_PASSING_FAULTS = {429, 500, 502, 503, 504}  # statuses of a busy or restarting server


class OllamaDescriber(BaseEstimator):
    """Descriptions by a language model on an Ollama server.

    The server is asked for an answer of a given JSON layout and for what can be seen, not for
    what is known. Answers are kept, by this object and its clones and with `cache_dir` on disk
    too, so that no class is asked for twice.

    Parameters
    ----------
    model : str, default="llama3.2"
        Name of the model as ``ollama list`` shows it; ``":latest"`` may be left out.
    host : str or None, default=None
        Address of the server. None: what the ``ollama`` client takes, that is ``OLLAMA_HOST`` or
        else ``http://127.0.0.1:11434``.
    n : int, default=8
        Descriptions a class where the caller names no number. :class:`~capkit.ConceptAligner`
        names its own.
    temperature : float, default=0.7
        Sampling temperature, at least 0.
    seed : int or None, default=0
        Seed of the sampling. None leaves it to the server.
    timeout : float, default=120.0
        Seconds to wait for one answer. The first one includes loading the model.
    cache_dir : path or None, default=None
        Folder for the answers, one JSON file each in its subfolder ``descriptions``. The key is
        the digest of the model, the class, the prompt and the sampling parameters.
    prompt : str, default=DEFAULT_PROMPT
        The question. ``{class_name}`` stands for the quoted class name and must be there,
        ``{n}`` for the number of descriptions. Say here what kind of pictures they are.
    max_retries : int, default=3
        Further attempts after a passing fault of the server or an answer that is not what was
        asked for, after 0.5, 1, 2, ... seconds.
    n_jobs : int, default=4
        Requests under way at once. The server queues what is more than its
        ``OLLAMA_NUM_PARALLEL``.

    See Also
    --------
    TableDescriber : Descriptions from a table.
    save_descriptions : Keep the answers as a table, to read and correct them.

    Examples
    --------
    >>> from capkit.describers import OllamaDescriber
    >>> describer = OllamaDescriber(model="gemma3:4b", temperature=0.2)
    >>> describer("river", 3)  # doctest: +SKIP
    ['a winding blue band between green fields', ...]
    """

    _parameter_constraints: dict = {
        "model": [str],
        "host": [str, None],
        "n": [Interval(Integral, 1, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="left")],
        "seed": [Integral, None],
        "timeout": [Interval(Real, 0, None, closed="neither")],
        "cache_dir": [str, os.PathLike, None],
        "prompt": [str],
        "max_retries": [Interval(Integral, 0, None, closed="left")],
        "n_jobs": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        model: str = "llama3.2",
        *,
        host: str | None = None,
        n: int = 8,
        temperature: float = 0.7,
        seed: int | None = 0,
        timeout: float = 120.0,
        cache_dir: str | os.PathLike | None = None,
        prompt: str = DEFAULT_PROMPT,
        max_retries: int = 3,
        n_jobs: int = 4,
    ):
        self.model = model
        self.host = host
        self.n = n
        self.temperature = temperature
        self.seed = seed
        self.timeout = timeout
        self.cache_dir = cache_dir
        self.prompt = prompt
        self.max_retries = max_retries
        self.n_jobs = n_jobs

    def __sklearn_clone__(self):
        # A search clones the describer for every candidate; none of them asks again.
        clone = super().__sklearn_clone__()
        clone._answers = self._kept_answers()
        return clone

    def __call__(self, class_name: str, n: int | None = None) -> list[str]:
        """Descriptions of one class; see :meth:`describe`.

        Parameters
        ----------
        class_name : str
        n : int or None, default=None
            None is the `n` of the constructor.

        Returns
        -------
        list of str
        """
        return self.describe([class_name], n)[class_name]

    def describe(self, class_names: Iterable[str], n: int | None = None) -> dict[str, list[str]]:
        """Descriptions of each class, asked for in parallel.

        Parameters
        ----------
        class_names : iterable of str
        n : int or None, default=None
            None is the `n` of the constructor.

        Returns
        -------
        dict of str to list of str
            1 to `n` descriptions of each class, in the order of `class_names`.

        Raises
        ------
        DescriberConnectionError
            If the server cannot be reached.
        DescriberModelError
            If it does not have the model.
        DescriberTimeoutError
            If an answer takes longer than `timeout`.
        DescriberAnswerError
            If an answer is empty or not what was asked for, `max_retries` times over.
        DescriberError
            If the server reports another fault. All of these carry the classes that were
            answered as ``error.descriptions``; asked again, this object goes on from there.
        CacheError
            If `cache_dir` cannot be written to.
        """
        self._validate_params()
        if "{class_name}" not in self.prompt:
            raise ValueError(
                "expected {class_name} in prompt, where the name of the class goes, "
                f"got {self.prompt!r}"
            )
        n = check_scalar(self.n if n is None else n, "n", Integral, min_val=1)
        class_names = list(dict.fromkeys(class_names))
        if not class_names:
            return {}
        folder = None if self.cache_dir is None else _make_folder(self.cache_dir)
        client = self._connect()
        digest = self._model_digest(client)
        questions = [self._question(name, n) for name in class_names]
        return self._ask_all(client, questions, digest, folder)

    def _question(self, class_name: str, n: int) -> _Question:
        options: dict[str, Any] = {
            "temperature": float(self.temperature),
            "num_predict": 64 * n + 128,  # tokens; a model that rambles on must come to an end
        }
        if self.seed is not None:
            options["seed"] = int(self.seed)
        return _Question(class_name, n, _fill(self.prompt, class_name, n), options)

    def _ask_all(
        self, client: Client, questions: list[_Question], digest: str, folder: Path | None
    ) -> dict[str, list[str]]:
        """Answers by class name; what is answered is kept, whatever happens to the others."""
        # Not a with statement: Ctrl-C must not wait for answers that are still being written.
        pool = ThreadPoolExecutor(min(self.n_jobs, len(questions)), "capkit-describer")
        try:
            asked = [pool.submit(self._answer, client, q, digest, folder) for q in questions]
            for future in wait(asked, return_when=FIRST_EXCEPTION).not_done:
                future.cancel()
            wait(asked)  # what is under way may still be answered
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        finished = {
            question.class_name: future
            for question, future in zip(questions, asked, strict=True)
            if not future.cancelled()
        }
        answers = {name: f.result() for name, f in finished.items() if f.exception() is None}
        for future in finished.values():
            if isinstance(error := future.exception(), DescriberError):
                kept = f"{len(answers)} of {len(questions)} classes were answered and are kept."
                failure = type(error)(f"{error} {kept}")
                failure.descriptions = answers
                raise failure from error
        return {name: future.result() for name, future in finished.items()}

    def _answer(
        self, client: Client, question: _Question, digest: str, folder: Path | None
    ) -> list[str]:
        """The kept answer to a question, else a new one."""
        key = question.key(digest)
        answers = self._kept_answers()
        path = None if folder is None else folder / f"{key}.json"
        if key not in answers and path is not None:
            answers.update(_read_answer(path, question, key))
        if key not in answers:
            answers[key] = self._ask(client, question)
            if path is not None:
                _write_answer(path, question, digest, self.model, answers[key])
        return list(answers[key])

    def _kept_answers(self) -> dict[str, list[str]]:
        return self.__dict__.setdefault("_answers", {})

    # -- the conversation with the server

    def _connect(self) -> Client:
        import httpx
        import ollama

        with self._translated_errors():
            # No kept-alive connections: nothing is left open, and there is nothing to close.
            return ollama.Client(
                self.host, timeout=self.timeout, limits=httpx.Limits(max_keepalive_connections=0)
            )

    def _model_digest(self, client: Client) -> str:
        with self._translated_errors():
            models = client.list().models
        for model in models:
            if model.model in (self.model, f"{self.model}:latest"):
                return model.digest or model.model
        names = ", ".join(sorted(model.model for model in models if model.model))
        raise DescriberModelError(
            f"the Ollama server {self._where()} has no model {self.model!r}, "
            f"only: {names or 'none at all'}. Fetch it with `ollama pull {self.model}`."
        )

    def _ask(self, client: Client, question: _Question) -> list[str]:
        pause = _RETRY_WAIT
        for attempt in range(self.max_retries):
            try:
                return self._ask_once(client, question, attempt)
            except DescriberError as error:
                if not _may_pass(error):
                    raise
                logger.warning("asking again in %.1f s: %s", pause, error)
            time.sleep(pause)
            pause *= 2
        return self._ask_once(client, question, self.max_retries)

    def _ask_once(self, client: Client, question: _Question, attempt: int) -> list[str]:
        options = dict(question.options)
        if "seed" in options:
            options["seed"] += attempt  # the same seed would give the same wrong answer
        with self._translated_errors(of_model=True):
            response = client.chat(
                self.model,
                messages=[
                    {"role": "system", "content": _SYSTEM_PROMPT},
                    {"role": "user", "content": question.text},
                ],
                format=question.schema(),
                options=options,
                think=False,
            )
        if response.done_reason == "length":
            raise DescriberAnswerError(
                f"{self.model} rambled on about class {question.class_name!r} and was cut off. "
                "Take a larger model, or lower the temperature or the number of descriptions."
            )
        return self._parse(response.message.content or "", question)

    def _parse(self, content: str, question: _Question) -> list[str]:
        if not content.strip():
            raise DescriberAnswerError(
                f"{self.model} gave an empty answer for class {question.class_name!r}. See that "
                f"it answers at all (`ollama run {self.model}`), or take another model or seed."
            )
        try:
            descriptions = json.loads(content)["descriptions"]
        except (KeyError, TypeError, ValueError):
            raise DescriberAnswerError(
                f'expected {{"descriptions": [...]}} from {self.model} for class '
                f"{question.class_name!r}, got {content[:80]!r}. Update the server (layouts of "
                "answers need Ollama 0.5), or take another model or seed."
            ) from None
        return clean_descriptions(descriptions, question.class_name, question.n)

    def _where(self) -> str:
        return f"at {self.host or 'its default address (OLLAMA_HOST, or else 127.0.0.1:11434)'}"

    @contextlib.contextmanager
    def _translated_errors(self, *, of_model: bool = False) -> Iterator[None]:
        """Say of the client's errors what they mean and what helps against them."""
        import httpx
        import ollama

        server = f"the Ollama server {self._where()}"
        try:
            yield
        except ollama.ResponseError as error:
            if error.status_code == 404 and of_model:
                raise DescriberModelError(
                    f"{server} has no model {self.model!r}. Fetch it with "
                    f"`ollama pull {self.model}`."
                ) from error
            raise DescriberError(
                f"{server} answered with status {error.status_code}: {error.error!s:.200} "
                "See its log: `journalctl -u ollama`, or where `ollama serve` runs."
            ) from error
        except (ConnectionError, httpx.ConnectTimeout) as error:
            raise DescriberConnectionError(
                f"{server} cannot be reached. Start it with `ollama serve`, pass its address as "
                "host=, or use saved descriptions with TableDescriber."
            ) from error
        except httpx.TimeoutException as error:
            raise DescriberTimeoutError(
                f"{server} did not answer within timeout={self.timeout:g} seconds. Raise timeout, "
                f"load the model beforehand with `ollama run {self.model}`, or take a smaller one."
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DescriberConnectionError(
                f"the connection to {server} failed: {error}. See that it runs (`ollama ps`) and "
                "that host= is its address, for instance http://127.0.0.1:11434."
            ) from error
        except (AttributeError, TypeError, ValueError) as error:  # from reading its JSON
            raise DescriberAnswerError(
                f"{server} did not answer as Ollama does: {error!s:.200} Ask it yourself with "
                "`ollama list`, and see that host= is not the address of something else."
            ) from error


@dataclasses.dataclass(frozen=True)
class _Question:
    """What is asked about one class, and all that the answer depends on but the model."""

    class_name: str
    n: int
    text: str
    options: dict[str, Any]

    def schema(self) -> dict[str, Any]:
        texts = {
            "type": "array",
            "items": {"type": "string"},
            "minItems": self.n,
            "maxItems": self.n,
        }
        return {
            "type": "object",
            "properties": {"descriptions": texts},
            "required": ["descriptions"],
        }

    def key(self, digest: str) -> str:
        parts = [digest, self.class_name, _SYSTEM_PROMPT, self.text, self.schema(), self.options]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _fill(prompt: str, class_name: str, n: int) -> str:
    # The name last: braces in it are its own. Quoted, so that it reads as a name, whatever it is.
    quoted = json.dumps(class_name, ensure_ascii=False)
    return prompt.replace("{n}", str(n)).replace("{class_name}", quoted)


def _may_pass(error: DescriberError) -> bool:
    status = getattr(error.__cause__, "status_code", None)
    return status in _PASSING_FAULTS or isinstance(
        error, (DescriberAnswerError, DescriberConnectionError)
    )


# -- answers on disk


def _make_folder(cache_dir: str | os.PathLike) -> Path:
    folder = Path(cache_dir).expanduser() / "descriptions"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(f"cannot make the folder {folder} for cache_dir: {error}") from error
    return folder


def _read_answer(path: Path, question: _Question, key: str) -> dict[str, list[str]]:
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))["descriptions"]
        return {key: clean_descriptions(texts, question.class_name, question.n)}
    except FileNotFoundError:
        return {}
    except (OSError, KeyError, TypeError, ValueError) as error:
        logger.warning("kept answer %s cannot be read (%s); asking again", path, error)
        return {}


def _write_answer(
    path: Path, question: _Question, digest: str, model: str, descriptions: list[str]
) -> None:
    record = {
        "class_name": question.class_name,
        "model": model,
        "digest": digest,
        "prompt": question.text,
        "options": question.options,
        "descriptions": descriptions,
    }
    try:
        write_atomically(path, json.dumps(record, ensure_ascii=False, indent=2).encode())
    except OSError as error:
        raise CacheError(
            f"cannot write the answer for class {question.class_name!r} to {path}: {error}. Free "
            "space or name another cache_dir; this object still has the answer."
        ) from error
