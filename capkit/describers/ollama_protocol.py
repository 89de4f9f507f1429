"""The conversation with an Ollama server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from capkit.describers.server import MAX_ANSWER_BYTES, Advice, Reply, ServedModel, is_page
from capkit.exceptions import (
    DescriberAnswerError,
    DescriberConnectionError,
    DescriberError,
    DescriberModelError,
)

if TYPE_CHECKING:
    from ollama import Client, ResponseError

__all__ = ["OllamaModel", "advise", "full_name"]

_SHOWN_MODELS = 20


def full_name(model: str) -> str:
    """Name of a model with its tag, ``:latest`` if none is given.

    Parameters
    ----------
    model : str

    Returns
    -------
    str
    """
    # A colon before the last slash belongs to the address of a registry.
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"


def advise(model: str) -> Advice:
    """Advice for errors when Ollama, or a model on it, fails.

    Parameters
    ----------
    model : str

    Returns
    -------
    Advice
    """
    return Advice(
        speaker="Ollama",
        server="Ollama",
        parameter="host=",
        example="http://127.0.0.1:11434",
        suffix="/api/...",
        start="with `ollama serve`",
        running="`ollama ps`",
        log=": `journalctl -u ollama`, or where `ollama serve` runs",
        ask="`ollama list`",
        load=f"with `ollama run {model}`",
        try_model=f"`ollama run {model}`",
        layout="Update the server (layouts of answers need Ollama 0.5)",
    )


class OllamaModel(ServedModel):
    """A language model on an Ollama server.

    Parameters
    ----------
    model : str
    host : str or None
        None is the client's default.
    timeout : float
        Seconds for one whole answer.

    Raises
    ------
    DescriberConnectionError
        If `host` is no address.
    """

    def __init__(self, model: str, host: str | None, timeout: float):
        address = host or "its default address (OLLAMA_HOST, or else 127.0.0.1:11434)"
        super().__init__(model, f"the Ollama server at {address}", timeout, advise(model))
        self._client = self._connect(host)

    def version(self) -> str:
        """Ask the server which version of the model it has.

        Returns
        -------
        str
            The model's digest, or its name if the server gives no digest.

        Raises
        ------
        DescriberError
            DescriberModelError if it has no model of this name.
        """
        with self._translated_errors():
            models = self._client.list().models
        for model in models:
            if model.model and full_name(model.model) == full_name(self.model):
                return model.digest or model.model
        names = sorted(self.excerpt(model.model) for model in models if model.model)
        more = ", ..." if len(names) > _SHOWN_MODELS else ""
        raise DescriberModelError(
            f"{self.server} has no model {self.model!r}, only: "
            f"{', '.join(names[:_SHOWN_MODELS]) or 'none at all'}{more}. Fetch it with "
            f"`ollama pull {self.model}`."
        )

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
            Of this model, complete.

        Raises
        ------
        DescriberError
        """
        with self._translated_errors(of_model=True):
            response = self._client.chat(
                self.model, messages=messages, format=schema, options=options, think=False
            )
        if response.model and full_name(response.model) != full_name(self.model):
            raise DescriberModelError(
                f"{self.server} was asked for {self.model!r}, but "
                f"{self.excerpt(response.model)!r} answered. Name that model if it will do, or "
                "see that host= is the address of Ollama itself, not of a gateway that chooses "
                "models."
            )
        if response.done is False:
            raise DescriberAnswerError(
                f"{self.server} sent a part of an answer (done: false) where the whole was "
                "asked for. Update it, and see that host= is the address of Ollama itself."
            )
        return Reply(response.message.content or "", response.done_reason == "length")

    def _connect(self, host: str | None) -> Client:
        import httpx
        import ollama

        from capkit.describers.bounded_http import BoundedTransport

        transport = BoundedTransport(self.timeout, MAX_ANSWER_BYTES)
        try:
            return ollama.Client(host, transport=transport)
        except (ValueError, httpx.InvalidURL) as error:
            raise DescriberConnectionError(
                f"expected an address such as {self.advice.example} in host= or OLLAMA_HOST, "
                f"got {host!r}: {error}"
            ) from error

    @contextlib.contextmanager
    def _translated_errors(self, *, of_model: bool = False) -> Iterator[None]:
        """Translate the client's errors into errors that say what they mean and what helps."""
        import ollama

        with self.translated_errors():
            try:
                yield
            except ollama.ResponseError as error:
                raise self._refusal(error, of_model) from error

    def _refusal(self, error: ResponseError, of_model: bool) -> DescriberError:
        """Error for a status that is not 200."""
        if error.status_code == 404 and of_model and not is_page(error.error):
            return DescriberModelError(
                f"{self.server} has no model {self.model!r}. Fetch it with "
                f"`ollama pull {self.model}`."
            )
        return self.refusal(error.status_code, error.error)
