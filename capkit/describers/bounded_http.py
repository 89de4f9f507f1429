"""HTTP with limits on the time and the size of each answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Any

import httpx

__all__ = ["BoundedTransport", "OversizedAnswer", "RedirectedAnswer"]


class OversizedAnswer(httpx.TransportError):
    """The answer exceeds the size limit."""


class RedirectedAnswer(httpx.TransportError):
    """The server redirects to another address, which is the message."""


class BoundedTransport(httpx.BaseTransport):
    """Fetches each answer as a whole, within a time and a size, and follows no redirect.

    httpx only limits each single read, so it would wait forever for a server that sends a byte now
    and then, and it reads answers of any size.

    Parameters
    ----------
    seconds : float
        From the request to the last byte of the answer.
    max_bytes : int
        Size limit of the answer's body.
    """

    def __init__(self, seconds: float, max_bytes: int):
        self.seconds = seconds
        self.max_bytes = max_bytes
        # A client, since it knows the proxies of the environment and a plain transport does not.
        # No kept-alive connections: nothing is left open, and there is nothing to close.
        self._client = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read its answer.

        Parameters
        ----------
        request : httpx.Request

        Returns
        -------
        httpx.Response
            Read to its end.

        Raises
        ------
        httpx.TimeoutException, OversizedAnswer, RedirectedAnswer, httpx.TransportError
        """
        with _Deadline(self.seconds) as deadline:
            # While it connects there is nothing to shut yet: that has a time limit of its own.
            request.extensions["timeout"] = httpx.Timeout(self.seconds).as_dict()
            request.extensions["trace"] = deadline.watch
            request.headers["Accept-Encoding"] = "identity"  # a few bytes can unpack to gigabytes
            response = self._client.send(request, stream=True, auth=None, follow_redirects=False)
            with contextlib.closing(response):
                if response.has_redirect_location:
                    raise RedirectedAnswer(response.headers["Location"])
                body = self._read(response)
        content_type = response.headers.get("Content-Type", "application/json")
        return httpx.Response(
            response.status_code, headers={"Content-Type": content_type}, content=body
        )

    def _read(self, response: httpx.Response) -> bytes:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise httpx.DecodingError(f"the answer is compressed ({encoding}), unasked for")
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > self.max_bytes:
                raise OversizedAnswer(f"more than {self.max_bytes} bytes")
        return bytes(body)


class _Deadline:
    """Shuts the connection of a request when its time is up, whatever it is waiting for."""

    def __init__(self, seconds: float):
        self._stream: Any = None
        self._lock = threading.Lock()
        self._over = False
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if isinstance(error, httpx.TimeoutException):
            return  # which says itself what was waited for
        # Without an error too: the end of a connection can look like the end of the answer.
        if self._over and (error is None or isinstance(error, Exception)):
            raise httpx.ReadTimeout("the answer was not complete in time") from error

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """Note the connection; called by httpcore at each of its steps, see its ``trace``."""
        stream = info.get("return_value")
        if hasattr(stream, "get_extra_info"):
            with self._lock:
                self._stream = stream
                if self._over:
                    self._shut()

    def _expire(self) -> None:
        with self._lock:
            self._over = True
            self._shut()

    def _shut(self) -> None:
        connection = self._stream and self._stream.get_extra_info("socket")
        if connection is not None:
            with contextlib.suppress(OSError):  # closed in the meantime
                # Not the method of an SSLSocket, which would take its state from under a read.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
