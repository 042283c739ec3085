"""What HTTP's parser lets pass and cortex does not: requests that another server may read otherwise."""

import logging

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from cortex.core.errors import RequestError

HTTP_LOG = logging.getLogger("cortex.http")


_NOISE = (HttpProcessingError, web.RequestPayloadError, ConnectionError)


def _no_noise(record: logging.LogRecord) -> bool:
    """Bytes that are no HTTP are answered and not logged: anybody can send any number of them."""
    return not (record.exc_info and isinstance(record.exc_info[1], _NOISE))


HTTP_LOG.addFilter(_no_noise)


def refuse_odd_framing(request: web.BaseRequest) -> None:
    """Refuse what is not HTTP/1.0 or 1.1 with `chunked` at most; the connection ends with the answer.

    Raises:
        RequestError: A version that has other rules, or a transfer coding that is
            not undone here (RFC 9112, 2.3 and 6.1), or a tunnel.
    """
    if request.method == "CONNECT":
        # What follows would be the tunnel's.
        request.protocol.close()
        raise RequestError("there is no tunnel through here", code="method_not_allowed")
    coding = request.headers.get("Transfer-Encoding")
    if request.version == HttpVersion11 and (coding is None or coding.lower() == "chunked"):
        return
    if request.version == HttpVersion10 and coding is None:
        return
    request.protocol.close()
    if coding is not None:
        raise RequestError("of transfer codings only chunked is read, and not in HTTP/1.0")
    raise RequestError("HTTP/1.1 and 1.0 are spoken here")
