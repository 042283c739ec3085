"""What HTTP's parser lets pass and cortex does not: requests that another server may read otherwise."""

import logging

from aiohttp import HttpVersion10, HttpVersion11, compression_utils, web
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError, LineTooLong

from cortex.core.errors import RequestError
from cortex.gateway.call import request_id_of
from cortex.gateway.errors import Unread, error_response
from cortex.gateway.front import Front
from cortex.gateway.http1 import is_host

# zstd came with aiohttp 3.13; the floor is older.
DECODERS = {
    "br": compression_utils.HAS_BROTLI,
    "zstd": getattr(compression_utils, "HAS_ZSTD", False),
}
HTTP_LOG = logging.getLogger("cortex.http")


_NOISE = (HttpProcessingError, web.RequestPayloadError, ConnectionError)


def _no_noise(record: logging.LogRecord) -> bool:
    """Bytes that are no HTTP are answered and not logged: anybody can send any number of them."""
    return not (record.exc_info and isinstance(record.exc_info[1], _NOISE))


HTTP_LOG.addFilter(_no_noise)


ENCODINGS = frozenset(
    ("identity", "gzip", "deflate", *(name for name, able in DECODERS.items() if able))
)
"""Of bodies, as aiohttp undoes them before a handler reads them."""


class Connection(web.RequestHandler):
    """Aiohttp's, with cortex's own words for what is no request."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer in an envelope, without what was sent: it may hold a key."""
        if isinstance(exc, LineTooLong):
            error = RequestError(
                "a header, or the path, is longer than 8190 bytes", code="headers_too_large"
            )
        elif isinstance(exc, ContentEncodingError):
            error = _unsupported()
        elif status < 500 and isinstance(exc, HttpProcessingError):
            error = RequestError("this is not a well-formed HTTP request")
        else:
            return super().handle_error(request, status, exc, message)
        # It leads back to the connection, which is not freed as long as it does.
        exc.__traceback__ = None
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way")
        front = None if self.transport is None else self.transport.get_protocol()
        path = front.path if isinstance(front, Front) else request.path
        request_id = request_id_of({})
        response = error_response(Unread(path), error, request_id)
        response.headers.update({"Server": "cortex", "x-request-id": request_id})
        response.force_close()
        return response


def _unsupported() -> RequestError:
    return RequestError(
        f"a body may be encoded as {', '.join(sorted(ENCODINGS - {'identity'}))} here",
        code="unsupported_encoding",
    )


def refuse_odd_framing(request: web.BaseRequest) -> None:
    """Refuse what is not HTTP/1.0 or 1.1 with `chunked` at most; the connection ends with the answer.

    Raises:
        RequestError: A version that has other rules, a transfer coding that is not undone here
            (RFC 9112, 2.3 and 6.1), a tunnel, or what is no name of a host.
    """
    if not is_host(request.headers.get("Host", "")):
        request.protocol.close()
        raise RequestError("this is not a well-formed HTTP request: Host")
    if request.method == "CONNECT":
        # What follows would be the tunnel's.
        request.protocol.close()
        raise RequestError("there is no tunnel through here", code="method_not_allowed")
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ENCODINGS:
        request.protocol.close()
        raise _unsupported()
    coding = request.headers.get("Transfer-Encoding")
    if request.version == HttpVersion11 and (coding is None or coding.lower() == "chunked"):
        return
    if request.version == HttpVersion10 and coding is None:
        return
    request.protocol.close()
    if coding is not None:
        raise RequestError("of transfer codings only chunked is read, and not in HTTP/1.0")
    raise RequestError("HTTP/1.1 and 1.0 are spoken here")
