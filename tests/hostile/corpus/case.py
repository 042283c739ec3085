"""What a case of the corpus is, and the few shapes that most of them are made of."""

from dataclasses import dataclass

A, B, S = b"<<MARK-A>>", b"<<MARK-B>>", b"<<MARK-S>>"
"""Replaced by marks of the run's own: of the first request, of the second, of a smuggled one."""
CHAT = b"/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes, and what must come of them.

    `expect` holds the statuses of the answers, in order; alternatives stand between `|`.
    `closed`: nothing more is said and the connection ends. `waits`: nothing is said for a while,
    because the request is not complete; nothing of it reaches the node then. `!` at the end: the
    connection must be closed behind the last answer, since nobody knows where the next begins.
    """

    name: str
    send: bytes | tuple[bytes, ...]
    """Several pieces are sent one by one, so that each is read by itself."""
    expect: str
    why: str
    reaches: str | None = None
    """Marks of the requests that the node sees, each once; by default anything but a smuggled one."""
    pause_s: float = 0.0
    """Between two pieces."""


def said(mark: bytes = A, model: bytes = b"m1", more: bytes = b"") -> bytes:
    """A good chat request's body."""
    return (
        b'{"model":"'
        + model
        + b'","messages":[{"role":"user","content":"'
        + mark
        + b'"}]'
        + more
        + b"}"
    )


def post(
    headers: bytes = b"",
    body: bytes | None = None,
    *,
    line: bytes = b"POST " + CHAT + b" HTTP/1.1",
    host: bytes = b"Host: h\r\n",
    length: bool = True,
) -> bytes:
    """A request with a body and its length; `headers` are whole lines."""
    body = said() if body is None else body
    counted = b"Content-Length: %d\r\n" % len(body) if length else b""
    return (
        line
        + b"\r\n"
        + host
        + b"Content-Type: application/json\r\n"
        + headers
        + counted
        + b"\r\n"
        + body
    )


def bare(headers: bytes, rest: bytes = b"") -> bytes:
    """A request whose length is all in `headers`."""
    return post(headers, rest, length=False)


def get(
    path: bytes = b"/health", headers: bytes = b"", *, host: bytes = b"Host: h\r\n"
) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + host + headers + b"\r\n"


def chunked(*parts: bytes, last: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + last


SMUGGLED = post(body=said(S))
"""What an attacker would have the gateway take for the next request."""
