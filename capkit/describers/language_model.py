"""Base class of the describers that ask a language model on a server."""

from __future__ import annotations

import abc
import json
import logging
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils import check_scalar
from sklearn.utils._param_validation import Interval

from capkit.describers.answers import (
    Answer,
    Question,
    make_folder,
    read_answer,
    remove_remnants,
    write_answer,
)
from capkit.describers.asking import (
    check_class_names,
    clean_descriptions,
    object_without_doubles,
    unfit_character,
)
from capkit.describers.server import Advice, ServedModel
from capkit.exceptions import (
    DescriberAnswerError,
    DescriberConnectionError,
    DescriberError,
)

__all__ = ["DEFAULT_PROMPT", "LanguageModelDescriber"]

logger = logging.getLogger(__name__)

DEFAULT_PROMPT = (
    "What does {class_name} look like in a picture? Write {n} different descriptions of it, each "
    "one phrase of 5 to 20 words that could stand under such a picture. Name only what can be "
    "seen: shapes, colours, textures, parts and how they are arranged. Leave out what is only "
    "known: its use, its origin, its history, sounds, smells and opinions."
)
_RETRY_WAIT = 0.5  # seconds before the first retry; doubled before each further one
_PASSING_FAULTS = {429, 500, 502, 503, 504}  # statuses of a busy or restarting server


class LanguageModelDescriber(BaseEstimator, abc.ABC):
    """Descriptions by a language model on a server, with any protocol.

    Its subclasses document the parameters.
    """

    _system_prompt = "You describe how things look, precisely and in plain words. Answer in JSON."
    _length_option: str  # what the protocol calls the greatest number of tokens of an answer

    _parameter_constraints: dict = {
        "model": [str],
        "n": [Interval(Integral, 1, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="left")],
        "seed": [Integral, None],
        "timeout": [Interval(Real, 0, threading.TIMEOUT_MAX, closed="right")],
        "cache_dir": [str, os.PathLike, None],
        "prompt": [str],
        "max_retries": [Interval(Integral, 0, None, closed="left")],
        "n_jobs": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        model: str,
        n: int,
        temperature: float,
        seed: int | None,
        timeout: float,
        cache_dir: str | os.PathLike | None,
        prompt: str,
        max_retries: int,
        n_jobs: int,
    ):
        self.model = model
        self.n = n
        self.temperature = temperature
        self.seed = seed
        self.timeout = timeout
        self.cache_dir = cache_dir
        self.prompt = prompt
        self.max_retries = max_retries
        self.n_jobs = n_jobs

    @abc.abstractmethod
    def _full_name(self) -> str:
        """What kept answers call the model: all that says which one it is."""

    @abc.abstractmethod
    def _connect(self) -> ServedModel: ...

    @abc.abstractmethod
    def _advise(self) -> Advice: ...

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
        ClassNamesError
            If `class_names` are not str that say something.
        DescriberConnectionError
            If the server cannot be reached.
        DescriberModelError
            If it does not have the model, or Ollama lets another one answer.
        DescriberTimeoutError
            If an answer is not complete within `timeout`.
        DescriberAnswerError
            If an answer is empty, too long or not what was asked for, `max_retries` times over.
        DescriberError
            If the server redirects or reports another fault. All of these carry the classes that
            were answered as ``error.descriptions``; asked again, this object goes on from there.
        CacheError
            If `cache_dir` cannot be written to.
        """
        self._check_parameters()
        n = check_scalar(self.n if n is None else n, "n", Integral, min_val=1)
        questions = [self._question(name, int(n)) for name in check_class_names(class_names)]
        folder = None if self.cache_dir is None or not questions else make_folder(self.cache_dir)
        found = {question.class_name: self._find(question, folder) for question in questions}
        answers = {name: answer for name, answer in found.items() if answer is not None}
        if len(answers) < len(questions):
            answers = self._ask_for_missing(questions, answers, folder)
        return {q.class_name: list(answers[q.class_name].descriptions) for q in questions}

    def _check_parameters(self) -> None:
        self._validate_params()
        if "{class_name}" not in self.prompt:
            raise ValueError(
                "expected {class_name} in prompt, where the name of the class goes, "
                f"got {self.prompt!r}"
            )
        if fault := unfit_character(self.prompt):
            raise ValueError(f"expected text as prompt, got {fault} in {self.prompt!r:.80}")

    def _question(self, class_name: str, n: int) -> Question:
        options: dict[str, Any] = {
            "temperature": float(self.temperature),
            # Tokens; a model that rambles on must come to an end.
            self._length_option: 64 * n + 128,
        }
        if self.seed is not None:
            options["seed"] = int(self.seed)
        prompt = _fill(self.prompt, class_name, n)
        return Question(self._full_name(), class_name, n, self._system_prompt, prompt, options)

    # -- kept answers

    def _kept_answers(self) -> dict[str, Answer]:
        return self.__dict__.setdefault("_answers", {})

    def _find(self, question: Question, folder: Path | None) -> Answer | None:
        key, answers = question.key(), self._kept_answers()
        if key not in answers and folder is not None:
            answer = read_answer(folder, question)
            if answer is not None:
                answers[key] = answer
        return answers.get(key)

    def _keep(self, question: Question, answer: Answer, folder: Path | None) -> None:
        self._kept_answers()[question.key()] = answer
        if folder is not None:
            write_answer(folder, question, answer)

    # -- new answers

    def _ask_for_missing(
        self, questions: list[Question], kept: dict[str, Answer], folder: Path | None
    ) -> dict[str, Answer]:
        """Answers of one version of the model, the kept ones among them, by class name."""
        try:
            served = self._connect()
            digest = served.version()
        except DescriberError as error:
            error.descriptions = _descriptions(kept)
            raise
        current = {name: answer for name, answer in kept.items() if answer.digest == digest}
        if len(current) < len(kept):
            logger.warning(
                "%s was pulled anew; asking again for %d classes that were answered before",
                self.model,
                len(kept) - len(current),
            )
        if folder is not None:
            remove_remnants(folder)
        missing = [question for question in questions if question.class_name not in current]
        return self._ask_all(served, digest, missing, current, folder)

    def _ask_all(
        self,
        served: ServedModel,
        digest: str,
        questions: list[Question],
        kept: dict[str, Answer],
        folder: Path | None,
    ) -> dict[str, Answer]:
        """Kept and new answers; what is answered is kept, whatever happens to the others."""

        def answer(question: Question) -> Answer:
            new = Answer(tuple(self._ask(served, question)), digest)
            self._keep(question, new, folder)
            return new

        # Not a with statement: Ctrl-C must not wait for answers that are still being written.
        pool = ThreadPoolExecutor(min(self.n_jobs, len(questions)), "capkit-describer")
        try:
            asked = {question.class_name: pool.submit(answer, question) for question in questions}
            for future in wait(asked.values(), return_when=FIRST_EXCEPTION).not_done:
                future.cancel()
            wait(asked.values())  # what is under way may still be answered
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        finished = {name: future for name, future in asked.items() if not future.cancelled()}
        answers = kept | {
            name: future.result() for name, future in finished.items() if not future.exception()
        }
        for future in finished.values():
            if isinstance(error := future.exception(), DescriberError):
                total = len(kept) + len(questions)
                failure = type(error)(
                    f"{error} {len(answers)} of {total} classes were answered and are kept."
                )
                failure.descriptions = _descriptions(answers)
                raise failure from error
        return answers | {name: future.result() for name, future in finished.items()}

    def _ask(self, served: ServedModel, question: Question) -> list[str]:
        pause = _RETRY_WAIT
        for attempt in range(self.max_retries):
            try:
                return self._ask_once(served, question, attempt)
            except DescriberError as error:
                if not _may_pass(error):
                    raise
                logger.warning("asking again in %.1f s: %s", pause, error)
            time.sleep(pause)
            pause *= 2
        return self._ask_once(served, question, self.max_retries)

    def _ask_once(self, served: ServedModel, question: Question, attempt: int) -> list[str]:
        options = dict(question.options)
        if "seed" in options:
            options["seed"] += attempt  # the same seed would give the same wrong answer
        messages = [
            {"role": "system", "content": question.system},
            {"role": "user", "content": question.prompt},
        ]
        reply = served.chat(messages, question.schema(), options)
        if reply.is_cut_off:
            raise DescriberAnswerError(
                f"{self.model} rambled on about class {question.class_name!r} and was cut off. "
                "Take a larger model, or lower the temperature or the number of descriptions."
            )
        descriptions = self._parse(reply.text, question)
        if len(descriptions) < question.n:
            logger.warning(
                "%s gave %d different descriptions of class %r, not %d",
                self.model,
                len(descriptions),
                question.class_name,
                question.n,
            )
        return descriptions

    def _parse(self, content: str, question: Question) -> list[str]:
        if not content.strip():
            raise DescriberAnswerError(
                f"{self.model} gave an empty answer for class {question.class_name!r}. See that "
                f"it answers at all ({self._advise().try_model}), or take another model or seed."
            )
        try:
            answer = json.loads(content, object_pairs_hook=object_without_doubles)
            descriptions = answer["descriptions"]
        except (KeyError, RecursionError, TypeError, ValueError):
            raise DescriberAnswerError(
                f'expected {{"descriptions": [...]}} from {self.model} for class '
                f"{question.class_name!r}, got {content[:80]!r}. {self._advise().layout}, or take "
                "another model or seed."
            ) from None
        return clean_descriptions(descriptions, question.class_name, question.n)


def _descriptions(answers: dict[str, Answer]) -> dict[str, list[str]]:
    return {name: list(answer.descriptions) for name, answer in answers.items()}


def _fill(prompt: str, class_name: str, n: int) -> str:
    # The name last: braces in it are its own. Quoted, so that it reads as a name, whatever it is.
    quoted = json.dumps(class_name, ensure_ascii=False)
    return prompt.replace("{n}", str(n)).replace("{class_name}", quoted)


def _may_pass(error: DescriberError) -> bool:
    status = getattr(error.__cause__, "status_code", None)
    return status in _PASSING_FAULTS or isinstance(
        error, (DescriberAnswerError, DescriberConnectionError)
    )
