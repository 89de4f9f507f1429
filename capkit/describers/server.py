"""The conversation with an Ollama server, and what its failures mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from capkit.describers.asking import clean_text
from capkit.exceptions import (
    DescriberAnswerError,
    DescriberConnectionError,
    DescriberError,
    DescriberModelError,
    DescriberTimeoutError,
)

if TYPE_CHECKING:
    from ollama import ChatResponse, Client, ResponseError

__all__ = ["MAX_ANSWER_BYTES", "ServedModel", "full_name"]

MAX_ANSWER_BYTES = 4 * 2**20  # a thousand descriptions, or the list of a thousand models, take 1
_SHOWN_MODELS = 20
_EXCERPT_LENGTH = 200  # characters of what a server said


def full_name(model: str) -> str:
    """Name of a model with its tag, which is ``:latest`` where none is given.

    Parameters
    ----------
    model : str

    Returns
    -------
    str
    """
    # A colon before the last slash belongs to the address of a registry.
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"


class ServedModel:
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
        self.model = model
        self.host = host
        self.timeout = timeout
        self._server = (
            f"the Ollama server at "
            f"{host or 'its default address (OLLAMA_HOST, or else 127.0.0.1:11434)'}"
        )
        self._client = self._connect()

    def digest(self) -> str:
        """Ask the server which version of the model it has.

        Returns
        -------
        str
            The model's digest, or where the server names none its name.

        Raises
        ------
        DescriberError
            DescriberModelError if it has none of this name.
        """
        with self._translated_errors():
            models = self._client.list().models
        for model in models:
            if model.model and full_name(model.model) == full_name(self.model):
                return model.digest or model.model
        names = sorted(_excerpt(model.model) for model in models if model.model)
        more = ", ..." if len(names) > _SHOWN_MODELS else ""
        raise DescriberModelError(
            f"{self._server} has no model {self.model!r}, only: "
            f"{', '.join(names[:_SHOWN_MODELS]) or 'none at all'}{more}. Fetch it with "
            f"`ollama pull {self.model}`."
        )

    def chat(
        self, messages: list[dict[str, str]], schema: dict[str, Any], options: dict[str, Any]
    ) -> ChatResponse:
        """Ask the model.

        Parameters
        ----------
        messages : list of dict
        schema : dict
            JSON schema of the answer.
        options : dict
            Of the sampling.

        Returns
        -------
        ollama.ChatResponse
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
                f"{self._server} was asked for {self.model!r}, but "
                f"{_excerpt(response.model)!r} answered. Name that model if it will do, or see "
                "that host= is the address of Ollama itself, not of a gateway that chooses models."
            )
        if response.done is False:
            raise DescriberAnswerError(
                f"{self._server} sent a part of an answer (done: false) where the whole was "
                "asked for. Update it, and see that host= is the address of Ollama itself."
            )
        return response

    def _connect(self) -> Client:
        import httpx
        import ollama

        from capkit.describers.bounded_http import BoundedTransport

        transport = BoundedTransport(self.timeout, MAX_ANSWER_BYTES)
        try:
            return ollama.Client(self.host, transport=transport)
        except (ValueError, httpx.InvalidURL) as error:
            raise DescriberConnectionError(
                f"expected an address such as http://127.0.0.1:11434 in host= or OLLAMA_HOST, "
                f"got {self.host!r}: {error}"
            ) from error

    @contextlib.contextmanager
    def _translated_errors(self, *, of_model: bool = False) -> Iterator[None]:
        """Say of the client's errors what they mean and what helps against them."""
        import httpx
        import ollama

        from capkit.describers.bounded_http import OversizedAnswer, RedirectedAnswer

        try:
            yield
        except ollama.ResponseError as error:
            raise self._refusal(error, of_model) from error
        except RedirectedAnswer as error:
            raise DescriberError(
                f"{self._server} does not answer but redirects to {_excerpt(error)}. If Ollama "
                "is there, pass that address (without /api/...) as host=."
            ) from error
        except OversizedAnswer as error:
            raise DescriberAnswerError(
                f"{self._server} sent {error}, which no answer takes. See that host= is the "
                "address of Ollama itself, or ask for fewer descriptions."
            ) from error
        except (ConnectionError, httpx.ConnectTimeout) as error:
            raise DescriberConnectionError(
                f"{self._server} cannot be reached. Start it with `ollama serve`, pass its "
                "address as host=, or use saved descriptions with TableDescriber."
            ) from error
        except httpx.TimeoutException as error:
            raise DescriberTimeoutError(
                f"{self._server} did not answer within timeout={self.timeout:g} seconds. Raise "
                f"timeout, load the model beforehand with `ollama run {self.model}`, or take a "
                "smaller one."
            ) from error
        except httpx.HTTPError as error:
            raise DescriberConnectionError(
                f"the connection to {self._server} failed: {error}. See that it runs "
                "(`ollama ps`) and that host= is its address, for instance "
                "http://127.0.0.1:11434."
            ) from error
        except (AttributeError, RecursionError, TypeError, ValueError) as error:  # of its JSON
            raise DescriberAnswerError(
                f"{self._server} did not answer as Ollama does: {_excerpt(error)} Ask it "
                "yourself with `ollama list`, and see that host= is not the address of something "
                "else."
            ) from error

    def _refusal(self, error: ResponseError, of_model: bool) -> DescriberError:
        """Error for a status that is not 200."""
        text = _excerpt(error.error)
        if text.startswith("<"):
            return DescriberError(
                f"{self._server} answered with status {error.status_code} and an HTML page where "
                "JSON was expected. Something else answers there, a proxy perhaps: see that host= "
                "is the address of Ollama itself."
            )
        if error.status_code == 404 and of_model:
            return DescriberModelError(
                f"{self._server} has no model {self.model!r}. Fetch it with "
                f"`ollama pull {self.model}`."
            )
        return DescriberError(
            f"{self._server} answered with status {error.status_code}: {text} "
            "See its log: `journalctl -u ollama`, or where `ollama serve` runs."
        )


def _excerpt(said: object) -> str:
    """Beginning of what a server said, fit to be shown on a terminal."""
    return clean_text(str(said)[: 5 * _EXCERPT_LENGTH])[:_EXCERPT_LENGTH]
