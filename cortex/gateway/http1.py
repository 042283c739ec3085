"""HTTP/1.1 request heads out of bytes (RFC 9112); no I/O.

Reads plain requests only: with a length, without anything that asks for more than an answer. What
is not plain, or not well-formed, is not judged here but left to aiohttp, which knows all of HTTP.
"""

import re
from typing import NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy

from cortex.core.fields import header_fields
from cortex.gateway.facts import Facts, facts_of

MAX_HEAD_BYTES = 16 * 1024
MAX_FIELDS = 100
MAX_FIELD_BYTES = 8190
"""Of one name and value; what has a longer one is aiohttp's to refuse."""
CACHED_HEADS = 256

_LENGTH = re.compile(rb"\r\n(?:content-length|Content-Length): ?([0-9]{1,15})(?=\r\n)")
_NOT_PLAIN = frozenset(
    {"transfer-encoding", "expect", "upgrade", "content-encoding", "content-length", "trailer"}
)
_CONNECTION = frozenset({"", "keep-alive", "close"})
_HOST = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+(?:%25[\w.~-]+)?\]|[\w.~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?", re.ASCII
)


class Head(NamedTuple):
    """A plain request, its length apart."""

    path: str
    headers: CIMultiDictProxy[str]
    """Without Content-Length."""
    keep_alive: bool
    facts: Facts


class HeadReader:
    """Reads heads, and remembers the latest: a client repeats itself, the length apart."""

    def __init__(self, paths: frozenset[str]) -> None:
        self._paths = paths
        self._known: dict[bytes, Head | None] = {}

    def read(self, raw: bytes) -> tuple[Head, int] | None:
        """Read a head, given with the line end that closes its last field.

        Returns:
            The head and the length of the body; None = it is not plain, or none of our paths.
        """
        length = _LENGTH.search(raw)
        if length is None:
            return None
        key = raw[: length.start()] + raw[length.end() :]
        head = self._known.get(key)
        if head is None and key not in self._known:
            if len(self._known) >= CACHED_HEADS:
                del self._known[next(iter(self._known))]
            head = self._known[key] = _read(key, self._paths)
        return None if head is None else (head, int(length[1]))


def is_host(text: str) -> bool:
    """Whether it may stand in `Host` (RFC 9110, 7.2; RFC 3986, 3.2.2)."""
    return _HOST.fullmatch(text) is not None


def _read(raw: bytes, paths: frozenset[str]) -> Head | None:
    try:
        first, _, lines = raw.decode().partition("\r\n")
    except ValueError:
        return None
    method, _, target = first.partition(" ")
    path, _, version = target.partition(" ")
    if method != "POST" or path not in paths or version != "HTTP/1.1":
        return None
    fields = header_fields(lines.removesuffix("\r\n"))
    if fields is None or len(fields) > MAX_FIELDS:
        return None
    if len(raw) > MAX_FIELD_BYTES and max(map(len, lines.split("\r\n"))) > MAX_FIELD_BYTES:
        return None
    headers = CIMultiDict(fields)
    if any(name in headers for name in _NOT_PLAIN):
        return None
    wanted = headers.get("Connection", "").lower()
    hosts = headers.getall("Host", ())
    if len(hosts) != 1 or not is_host(hosts[0]) or wanted not in _CONNECTION:
        return None
    return Head(
        path,
        CIMultiDictProxy(headers),
        keep_alive=wanted != "close",
        facts=facts_of(headers),
    )
