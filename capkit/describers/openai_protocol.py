"""The conversation with a server that speaks OpenAI's chat protocol."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from capkit.describers.asking import object_without_doubles
from capkit.describers.server import MAX_ANSWER_BYTES, Advice, Reply, ServedModel, is_page
from capkit.exceptions import (
    DescriberConnectionError,
    DescriberError,
    DescriberModelError,
)

__all__ = ["OpenAIModel", "advise", "check_address", "read_key"]

logger = logging.getLogger(__name__)

_EXAMPLE = "http://127.0.0.1:8080/v1"
_NOT_UNDERSTOOD = {400, 422}  # statuses of a request that the server cannot make sense of
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def advise(base_url: str) -> Advice:
    """Advice for errors when a server with this protocol, or a model on it, fails.

    Parameters
    ----------
    base_url : str

    Returns
    -------
    Advice
    """
    models = f"{base_url.rstrip('/')}/models"
    return Advice(
        speaker="a server of OpenAI's protocol",
        server="the server",
        parameter="base_url=",
        example=_EXAMPLE,
        suffix="/chat/completions",
        start="with its model (for instance `llama-server -m model.gguf`)",
        running=f"`curl {models}`",
        log="",
        ask=f"`curl {models}`",
        load="by a question of your own",
        try_model="by a question of your own",
        layout="Take a server that keeps response_format (llama.cpp, vLLM, LM Studio, Ollama do)",
    )


def check_address(base_url: str) -> None:
    """Refuse anything that is not an address, or that may contain a secret.

    Parameters
    ----------
    base_url : str

    Raises
    ------
    DescriberConnectionError
        The message does not repeat an address that may contain a secret.
    """
    if any(mark in base_url for mark in "@?#"):
        raise DescriberConnectionError(
            f"expected in base_url= an address such as {_EXAMPLE} and nothing else, got one with "
            "a user, a query or a fragment. An address is kept with the answers: give a key by "
            "api_key_env=, the name of the environment variable that holds it."
        )
    try:
        parts = urlsplit(base_url)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none, brackets that do not close
        is_address = False
    if not is_address:
        raise DescriberConnectionError(
            f"expected an address such as {_EXAMPLE} in base_url=, got {base_url!r:.80}"
        )


def read_key(api_key_env: str | None) -> str | None:
    """Read a key from the environment.

    Parameters
    ----------
    api_key_env : str or None
        Name of the variable.

    Returns
    -------
    str or None
        None if no variable is named.

    Raises
    ------
    ValueError
        If there is no such variable, or no key in it. The message repeats neither name nor value,
        because a user may have passed the key as the name.
    """
    if api_key_env is None:
        return None
    key = os.environ.get(api_key_env, "").strip()
    if not key:
        raise ValueError(
            "expected in api_key_env the name of an environment variable that holds the key, "
            "such as 'OPENAI_API_KEY', but no variable of the name given is set. Set it before "
            "Python starts, and give its name, never the key itself."
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError(
            "expected a key in the environment variable that api_key_env names, got a value with "
            "blanks or characters that are not ASCII (it is not shown). Set it to the key alone."
        )
    return key


class OpenAIModel(ServedModel):
    """A language model on a server that speaks OpenAI's chat protocol.

    Parameters
    ----------
    model : str
    base_url : str
        Address without ``/chat/completions``.
    key : str or None
        API key.
    timeout : float
        Seconds for one whole answer.
    """

    def __init__(self, model: str, base_url: str, key: str | None, timeout: float):
        from capkit.describers.bounded_http import BoundedTransport

        super().__init__(model, f"the server at {base_url}", timeout, advise(base_url))
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._key = key
        self._transport = BoundedTransport(timeout, MAX_ANSWER_BYTES)
        self._takes_schema = True  # until it says otherwise
        self._answering: set[str] = set()  # names of models that answered
        parts = urlsplit(base_url)
        if key is not None and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            logger.warning("the key goes to %s unencrypted; use https", parts.hostname)

    def version(self) -> str:
        """Return the model's name, because the protocol does not reveal the version.

        Returns
        -------
        str
            The model's name.
        """
        return self.model

    def chat(
        self, messages: list[dict[str, str]], schema: dict[str, Any], options: dict[str, Any]
    ) -> Reply:
        """Ask the model.

        Parameters
        ----------
        messages : list of dict
        schema : dict
            JSON schema of the answer.
        options : dict
            Sampling options.

        Returns
        -------
        Reply

        Raises
        ------
        DescriberError
        """
        question = {"model": self.model, "messages": messages, "stream": False, **options}
        with self._translated_errors():
            answer = json.loads(
                self._ask(question, schema), object_pairs_hook=object_without_doubles
            )
            reply = _read_reply(answer)
        self._note_other_model(answer.get("model"))
        return reply

    def excerpt(self, said: object) -> str:
        """Beginning of the server's message, without the key.

        Parameters
        ----------
        said : object

        Returns
        -------
        str
        """
        text = str(said)
        return super().excerpt(text if self._key is None else text.replace(self._key, "[key]"))

    def _ask(self, question: dict[str, Any], schema: dict[str, Any]) -> bytes:
        """Ask for an answer in a given layout, in the way that the server understands."""
        if not self._takes_schema:
            return self._send(question, _json_object(schema))
        try:
            return self._send(question, _json_schema(schema))
        except _Refused as error:
            if not error.may_be_of_layout():
                raise
            first = error
        try:
            answer = self._send(question, _json_object(schema))
        except _Refused as error:
            both = f"{first.said:.90} (with json_schema), {error.said:.90} (with json_object)"
            raise _Refused(error.status_code, both) from error
        self._takes_schema = False
        return answer

    def _send(self, question: dict[str, Any], response_format: dict[str, Any]) -> bytes:
        import httpx

        headers = {"User-Agent": "capkit"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        body = {**question, "response_format": response_format}
        response = self._transport.handle_request(
            httpx.Request("POST", self._url, headers=headers, json=body)
        )
        if response.status_code != 200:
            raise _Refused(response.status_code, _error_text(response.text))
        return response.content

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        with self.translated_errors():
            try:
                yield
            except _Refused as error:
                raise self._refusal(error.status_code, error.said) from error

    def _refusal(self, status: int, said: str) -> DescriberError:
        """Error for a status that is not 200."""
        text = self.excerpt(said)
        if is_page(said):
            return self.refusal(status, said)
        if status in (401, 403):
            return DescriberError(
                f"{self.server} lets nobody in without the right key (status {status}): {text} "
                "Put the key into an environment variable and give its name as api_key_env=."
            )
        if status == 404 and "model" in text.lower():
            return DescriberModelError(
                f"{self.server} has no model {self.model!r}: {text} "
                f"{self.advice.ask} shows those that it has."
            )
        if status == 404:
            return DescriberError(
                f"{self.server} knows no {urlsplit(self._url).path} (status 404): {text} See "
                "that base_url= is what comes before /chat/completions; most end in /v1."
            )
        if status in _NOT_UNDERSTOOD:
            return DescriberError(
                f"{self.server} refuses the question (status {status}): {text} If it cannot keep "
                "to a JSON schema, take one that can: llama.cpp, vLLM, LM Studio, Ollama."
            )
        return self.refusal(status, said)

    def _note_other_model(self, answering: object) -> None:
        # Full names of versions and paths of files are how servers call what was asked for.
        if not isinstance(answering, str) or answering in self._answering:
            return
        self._answering.add(answering)
        if self.model not in answering:
            logger.warning(
                "%s was asked for %r, but says that %r answered",
                self.server,
                self.model,
                self.excerpt(answering),
            )


class _Refused(Exception):
    """The server answered with a status other than 200."""

    def __init__(self, status_code: int, said: str):
        super().__init__(status_code, said)
        self.status_code = status_code
        self.said = said

    def may_be_of_layout(self) -> bool:
        """Whether another ``response_format`` may work."""
        # llama-cpp-python answers 500 to what it does not understand.
        return self.status_code in _NOT_UNDERSTOOD or "response_format" in self.said


def _json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    described = {"name": "descriptions", "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": described}


def _json_object(schema: dict[str, Any]) -> dict[str, Any]:
    """The layout for llama-cpp-python and other servers that do not know ``json_schema``."""
    return {"type": "json_object", "schema": schema}


def _read_reply(answer: Any) -> Reply:
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        is_cut_off = choice.get("finish_reason") == "length"
    except (AttributeError, LookupError, TypeError):
        raise ValueError(f"expected choices[0].message.content, got {answer!r:.80}.") from None
    if not isinstance(text, str | None):
        raise ValueError(f"expected a text as content, got {text!r:.80}.")
    return Reply(text or "", is_cut_off)


def _error_text(body: str) -> str:
    """A server's error message, which each kind of server puts in another place."""
    try:
        said = json.loads(body)
    except (RecursionError, ValueError):
        return body
    for name in ("error", "message", "detail"):
        if isinstance(said, dict):
            said = said.get(name, said)
    return said if isinstance(said, str) else body
