"""Where a request comes from: all that a gateway without keys can go by.

Its admin rights are those of a user of this machine. An address alone does not tell: a proxy on this
machine asks from loopback for everybody, and so does a browser for the pages it shows.
"""

import socket
from collections.abc import Collection, Mapping
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from aiohttp import web

from cortex.core.errors import RequestError

FORWARDED_BY = frozenset(
    {
        "cf-connecting-ip",
        "client-ip",
        "fastly-client-ip",
        "forwarded",
        "proxy-client-ip",
        "true-client-ip",
        "via",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-envoy-external-address",
        "x-original-forwarded-for",
        "x-original-host",
        "x-originating-ip",
        "x-real-ip",
        "x-remote-addr",
        "x-remote-ip",
    }
)
"""What proxies add for somebody else, besides `X-Forwarded-…`; any will do, whatever it says."""
OWN_SITE = frozenset({"same-origin", "none"})
"""Of `Sec-Fetch-Site` (Fetch Metadata, 2.2): a page of this very origin, or the reader's own doing."""


def require_this_machine(request: web.BaseRequest, hosts: Collection[str]) -> None:
    """Let a user of this machine pass, by its own programs or the gateway's own page.

    Args:
        request: Of a gateway without keys.
        hosts: Names that the gateway has besides those of its machine.

    Raises:
        RequestError: 403, saying why it is not believed to be one.
    """
    if not _is_loopback(request):
        raise _refused("allowed from this machine only")
    headers = request.headers
    proxied = next(filter(_is_of_a_proxy, headers), None)
    if proxied is not None:
        raise _refused(f"not allowed through a proxy ({proxied[:40]} is set)")
    foreign_name = why_not_by_name(request, hosts)
    if foreign_name is not None:
        raise _refused(foreign_name)
    origin = headers.get("Origin")
    foreign = origin is not None and not _is_of(origin, request.host)
    if foreign or _is_of_another_site(headers):
        raise _refused("not allowed to a page of another site")


def why_not_by_name(request: web.BaseRequest, hosts: Collection[str]) -> str | None:
    """Why a client of this machine is not answered under the name it gives; None = it may be.

    A page that lets its own name mean 127.0.0.1 is of the same site as what it asks then, so no
    browser keeps it from reading: only a name that nobody else can own is good.
    """
    # No browser leaves it out; whoever comes from elsewhere may know this machine by any name.
    named = "Host" in request.headers and isinstance(_peer(request), tuple)
    if named and _is_loopback(request) and not is_own_name(request.host, hosts):
        return (
            f"not allowed under the name {request.host[:80]}, but under localhost, an address or one"
            " of `hosts` of [gateway]"
        )
    return None


def require_own_page(headers: Mapping[str, str], hosts: Collection[str]) -> None:
    """Refuse what a page of another site has its reader's browser send; other programs pass.

    A browser asks first before a page sends JSON elsewhere, but not before it sends text, which a
    gateway without keys would serve: the page could not read the answer, yet have models loaded.

    Args:
        headers: Of the request.
        hosts: As above.

    Raises:
        RequestError: 403.
    """
    origin = headers.get("Origin")
    if origin is None:
        foreign = _is_of_another_site(headers)
    else:
        # Whoever owns a name can let it mean this machine: its pages are then of the same origin.
        host = headers.get("Host", "")
        foreign = not (_is_of(origin, host) and is_own_name(host, hosts))
    if foreign:
        raise _refused(
            "not allowed to a page of this origin (cors_origins, hosts of [gateway])"
        )


def is_own_name(host: str, hosts: Collection[str]) -> bool:
    """An address, localhost (or below it), this machine's own name or one of `hosts`; with any port."""
    own = socket.gethostname().lower()
    try:
        parts = urlsplit(f"//{host}")
        name = parts.hostname or ""
        if parts.netloc != host or "@" in host:
            return False
        names = {"localhost", own, own.partition(".")[0], *hosts}
        return name in names or name.endswith(".localhost") or bool(ip_address(name))
    except ValueError:
        return False


def is_this_machine(host: str) -> bool:
    """A loopback address, also as a socket for both families of addresses writes it."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _refused(how: str) -> RequestError:
    return RequestError(
        f"this is {how}, as no keys are configured; `cortex keys add` makes one",
        code="permission_denied",
    )


def _is_of_a_proxy(name: str) -> bool:
    lower = name.lower()
    return lower in FORWARDED_BY or lower.startswith("x-forwarded-")


def _is_of_another_site(headers: Mapping[str, str]) -> bool:
    return headers.get("Sec-Fetch-Site", "none") not in OWN_SITE


def _is_of(origin: str, host: str) -> bool:
    return bool(host) and origin.partition("://")[2] == host


def _is_loopback(request: web.BaseRequest) -> bool:
    peer = _peer(request)
    if not isinstance(peer, tuple):
        return peer is not None  # a Unix socket: the file's permissions decide
    return is_this_machine(peer[0])


def _peer(request: web.BaseRequest) -> object:
    return request.transport.get_extra_info("peername") if request.transport else None
