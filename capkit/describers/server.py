"""A language model on a server, and errors that explain the server's failures."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from capkit.describers.asking import clean_text
from capkit.exceptions import (
    DescriberAnswerError,
    DescriberConnectionError,
    DescriberError,
    DescriberTimeoutError,
)

__all__ = ["MAX_ANSWER_BYTES", "Advice", "Reply", "ServedModel", "is_page"]

MAX_ANSWER_BYTES = 4 * 2**20  # a thousand descriptions, or the list of a thousand models, take 1
_EXCERPT_LENGTH = 200  # characters of what a server said
# What comes of JSON that is none, or says something else.
_OF_JSON = (AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class Advice:
    """What helps when a server of one kind, or a model on it, fails.

    Parameters
    ----------
    speaker : str
        What answers like this kind of server.
    server : str
        What has to be at the address.
    parameter : str
        Where the user names the address.
    example : str
        An address.
    suffix : str
        Path that is appended to the address for requests.
    start : str
        How to start it, as a command.
    running : str
        How to see that it runs.
    log : str
        Where its log is.
    ask : str
        How to ask it without capkit.
    load : str
        How to load the model beforehand.
    try_model : str
        How to see that the model answers at all.
    layout : str
        What to do if answers do not have the requested layout.
    """

    speaker: str
    server: str
    parameter: str
    example: str
    suffix: str
    start: str
    running: str
    log: str
    ask: str
    load: str
    try_model: str
    layout: str


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a model wrote.

    Parameters
    ----------
    text : str
    is_cut_off : bool
        Whether the answer reached its length limit before it was finished.
    """

    text: str
    is_cut_off: bool


class ServedModel(abc.ABC):
    """A language model on a server; a subclass speaks the server's protocol.

    Parameters
    ----------
    model : str
    server : str
        How errors refer to the server.
    timeout : float
        Seconds for one whole answer.
    advice : Advice
    """

    def __init__(self, model: str, server: str, timeout: float, advice: Advice):
        self.model = model
        self.server = server
        self.timeout = timeout
        self.advice = advice

    @abc.abstractmethod
    def version(self) -> str:
        """Get the version of the model that the server has.

        Returns
        -------
        str

        Raises
        ------
        DescriberError
        """

    @abc.abstractmethod
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

    def excerpt(self, said: object) -> str:
        """Beginning of a server's message, safe to show in a terminal.

        Parameters
        ----------
        said : object

        Returns
        -------
        str
        """
        return clean_text(str(said)[: 5 * _EXCERPT_LENGTH])[:_EXCERPT_LENGTH]

    @contextlib.contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Translate connection and JSON errors into errors that say what they mean and what helps.

        Yields
        ------
        None
        """
        try:
            yield
        except DescriberError:
            raise
        except Exception as error:
            translated = self._of_answer(error) or self._of_connection(error)
            if translated is None:
                raise
            raise translated from error

    def _of_answer(self, error: Exception) -> DescriberError | None:
        """Error for an unusable answer."""
        from capkit.describers.bounded_http import OversizedAnswer, RedirectedAnswer

        advice = self.advice
        if isinstance(error, RedirectedAnswer):
            return DescriberError(
                f"{self.server} does not answer but redirects to {self.excerpt(error)}. If "
                f"{advice.server} is there, pass that address (without {advice.suffix}) as "
                f"{advice.parameter}."
            )
        if isinstance(error, OversizedAnswer):
            return DescriberAnswerError(
                f"{self.server} sent {error}, which no answer takes. See that {advice.parameter} "
                f"is the address of {advice.server} itself, or ask for fewer descriptions."
            )
        if isinstance(error, _OF_JSON):
            return DescriberAnswerError(
                f"{self.server} did not answer as {advice.speaker} does: {self.excerpt(error)} "
                f"Ask it yourself with {advice.ask}, and see that {advice.parameter} is not the "
                "address of something else."
            )
        return None

    def _of_connection(self, error: Exception) -> DescriberError | None:
        """Error for a connection that fails or breaks off."""
        import httpx

        advice = self.advice
        if isinstance(error, (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout)):
            # A certificate that is not to be trusted among them: httpx says what it is.
            reason = f" ({self.excerpt(error)})" if isinstance(error, httpx.ConnectError) else ""
            return DescriberConnectionError(
                f"{self.server} cannot be reached{reason}. Start it {advice.start}, pass its "
                f"address as {advice.parameter}, or use saved descriptions with TableDescriber."
            )
        if isinstance(error, httpx.TimeoutException):
            return DescriberTimeoutError(
                f"{self.server} did not answer within timeout={self.timeout:g} seconds. Raise "
                f"timeout, load the model beforehand {advice.load}, or take a smaller one."
            )
        if isinstance(error, httpx.HTTPError):
            return DescriberConnectionError(
                f"the connection to {self.server} failed: {self.excerpt(error)}. See that it "
                f"runs ({advice.running}) and that {advice.parameter} is its address, for "
                f"instance {advice.example}."
            )
        return None

    def refusal(self, status: int, said: object) -> DescriberError:
        """Error for a status that means that there is no answer.

        Parameters
        ----------
        status : int
        said : object
            The message that came with it.

        Returns
        -------
        DescriberError
        """
        if is_page(said):
            return DescriberError(
                f"{self.server} answered with status {status} and an HTML page where JSON was "
                "expected. Something else answers there, a proxy perhaps: see that "
                f"{self.advice.parameter} is the address of {self.advice.server} itself."
            )
        return DescriberError(
            f"{self.server} answered with status {status}: {self.excerpt(said)} "
            f"See its log{self.advice.log}."
        )


def is_page(said: object) -> bool:
    """Whether a server's message is HTML.

    Parameters
    ----------
    said : object

    Returns
    -------
    bool
    """
    return str(said).lstrip().startswith("<")
