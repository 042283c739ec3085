"""The admin API from the command's side: blocking HTTP on the standard library, for a fast start.

Every failure is a `CliError` of one line that names the endpoint and what to try.
"""

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http import HTTPStatus
from urllib.parse import urlencode

from cortex import __version__
from cortex.cli.endpoint import Endpoint
from cortex.cli.failures import CliError, KeyRefusedError, TemporaryError, UnreachableError
from cortex.cli.sse import SseEvent, parse_sse
from cortex.cli.text import safe
from cortex.cli.trust import context_of

TIMEOUT_S = 10.0
"""For the connection and between two bytes of an answer."""
STREAM_GAP_S = 90.0
"""Silence after which a stream counts as lost."""
LONGEST_LINE = 1 << 20
TEMPORARY = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)

Query = Mapping[str, object]


class StreamEndedError(UnreachableError):
    """An open stream broke or fell silent; the caller may ask again from the last id."""


class Client:
    """One gateway. Each call is a connection of its own."""

    def __init__(
        self, endpoint: Endpoint, *, key: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.endpoint = endpoint
        self._key = (os.environ.get("CORTEX_API_KEY", "") if key is None else key).strip()
        self._timeout_s = timeout_s

    def get(self, path: str, query: Query | None = None) -> object:
        """The JSON answer of a GET.

        Raises:
            UnreachableError: No connection, or it broke.
            KeyRefusedError: 401 or 403.
            CliError: Any other failure, with the gateway's own words.
        """
        wanted = {key: value for key, value in (query or {}).items() if value is not None}
        return self._call("GET", f"{path}?{urlencode(wanted)}" if wanted else path)

    def post(self, path: str, body: Mapping[str, object]) -> object:
        """The JSON answer of a POST; raises as `get` does."""
        return self._call("POST", path, json.dumps(body).encode())

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        last_id: str | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Iterator[Iterator[SseEvent]]:
        """The server-sent events of `path` after `last_id`; raises as `get` does on entering.

        With a body it is a POST. The iterator ends when the gateway ends the stream, and raises
        `StreamEndedError` when it breaks or falls silent.
        """
        headers = {"Accept": "text/event-stream"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        with closing(self._connection()) as connection:
            method = "GET" if content is None else "POST"
            answer = self._answer(
                connection, method, path, headers, content, gap_s=STREAM_GAP_S
            )
            with answer:
                yield parse_sse(_lines(answer))

    def _call(self, method: str, path: str, body: bytes | None = None) -> object:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        with closing(self._connection()) as connection, self._mapped():
            content = self._answer(connection, method, path, headers, body).read()
        try:
            parsed: object = json.loads(content)
        except ValueError as error:
            raise not_cortex(self.endpoint, f"no JSON from {path}") from error
        return parsed

    def _answer(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None = None,
        *,
        gap_s: float = TIMEOUT_S,
    ) -> http.client.HTTPResponse:
        """A successful answer whose body has not been read."""
        headers |= self.identity()
        with self._mapped():
            connection.request(method, self.endpoint.prefix + path, body, headers)
            # getresponse() lets go of the socket when the answer ends with the connection.
            sock = connection.sock
            answer = connection.getresponse()
            if answer.status // 100 != 2:
                raise self.refusal(answer.status, answer.read(), path)
            sock.settimeout(gap_s)
            return answer

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """The one place that knows how a connection can fail."""
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(
                f"cannot reach cortex at {self.endpoint}: {why(error)}; {_hint(error)}"
            ) from error

    def _connection(self) -> http.client.HTTPConnection:
        endpoint, timeout_s = self.endpoint, self._timeout_s
        if not endpoint.secure:
            return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout_s)
        return http.client.HTTPSConnection(
            endpoint.host, endpoint.port, timeout=timeout_s, context=context_of(endpoint)
        )

    def identity(self) -> dict[str, str]:
        """The headers that say who asks.

        Raises:
            KeyRefusedError: The key cannot be sent.
        """
        headers = {"User-Agent": f"cortex/{__version__}"}
        if self._key:
            if not (self._key.isascii() and self._key.isprintable()):
                raise KeyRefusedError("CORTEX_API_KEY holds characters that no key has")
            headers["Authorization"] = f"Bearer {self._key}"
        return headers

    def refusal(self, status: int, content: bytes, path: str) -> CliError:
        """What an answer that is none of success means."""
        said = _envelope(content)
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            hint = "try another key" if self._key else "set CORTEX_API_KEY"
            return KeyRefusedError(
                f"the gateway at {self.endpoint} refused: {said or status}; {hint}"
            )
        if said is None and status not in TEMPORARY:
            return not_cortex(self.endpoint, f"{status} for {path}")
        kind = TemporaryError if status in TEMPORARY else CliError
        return kind(f"{said or f'{status} for {path}'} ({self.endpoint})")


def _lines(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            line = answer.readline(LONGEST_LINE)
        except (OSError, http.client.HTTPException) as error:
            raise StreamEndedError(f"the stream broke off: {why(error)}") from error
        if not line:
            return
        yield line


def not_cortex(endpoint: Endpoint, detail: str) -> CliError:
    """What answers at the endpoint is something else, or a much older or newer cortex."""
    return CliError(
        f"{endpoint} does not answer as cortex {__version__} does: {safe(detail)};"
        " check --endpoint or $CORTEX_ENDPOINT"
    )


def _envelope(content: bytes) -> str | None:
    """Message and code of OpenAI's error envelope; None when it is something else."""
    try:
        body = json.loads(content)
    except ValueError:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    code = error.get("code")
    return safe(error["message"]) + (f" [{safe(code)}]" if isinstance(code, str) else "")


def _hint(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "--ca or $SSL_CERT_FILE names a file with what to trust"
    return "is `cortex serve` running there? --endpoint or $CORTEX_ENDPOINT names another"


def why(error: Exception) -> str:
    """How a connection failed, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {safe(error.verify_message)}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with what answers there: {safe(error.reason or error)}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed without an answer"
    if isinstance(error, http.client.HTTPException):
        return f"what answers there is not HTTP, or broke off ({type(error).__name__})"
    return safe(getattr(error, "strerror", None) or error)
