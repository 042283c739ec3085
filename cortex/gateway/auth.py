"""Who is asking: API keys in either header form, and loopback as admin where no keys exist."""

import hashlib
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv6Address, ip_address
from typing import NoReturn, Protocol
from urllib.parse import urlsplit

from aiohttp import web

from cortex.config.keys import digest_of
from cortex.config.schema import Key
from cortex.core.errors import RequestError
from cortex.core.ids import ModelId
from cortex.core.quota import KeyLimits

CLIENT_NAME_LENGTH = 64
KNOWN_CALLERS = 1024
KNOWN_BY_CHARS = 512
"""Who sends longer headers is looked up anew each time."""


@dataclass(frozen=True, slots=True)
class Caller:
    name: str | None
    admin: bool
    share: str
    """Who is served in turn with others: the key, or without keys the address and program."""
    who: str = ""
    """Whom a failure is counted to that may be the caller's: the key, or without keys the address."""
    models: tuple[str, ...] | None = None
    """Patterns of the models that the key may use; None = all."""
    limits: KeyLimits | None = None
    """None = the key has no limits."""


class Asking(Protocol):
    """What a caller is known by."""

    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def remote(self) -> str | None: ...


class Keyring:
    """The configured keys by digest: looking up a digest tells nothing of a key by its timing."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._by_digest = {digest_of(key): _caller_of(key) for key in keys}
        #: Of the configured keys: all that may become a label.
        self.names = frozenset(caller.share for caller in self._by_digest.values())
        #: The latest callers by what they were known by. Strings are found by their hash, which is
        #: made with a secret of this process, so that this tells as little by its timing.
        self._known: dict[tuple[str | None, str | None], Caller] = {}

    @property
    def open(self) -> bool:
        """No key is configured: everyone may ask, loopback may change."""
        return not self._by_digest

    def caller(self, request: Asking) -> Caller:
        """Who asks.

        Raises:
            RequestError: Keys are configured and the request carries none of them.
        """
        headers = request.headers
        by = (
            (headers.get("User-Agent"), request.remote)
            if self.open
            else (headers.get("Authorization"), headers.get("x-api-key"))
        )
        caller = self._known.get(by)
        if caller is None:
            caller = self._nobody(request) if self.open else self._of_key(request)
            if sum(map(len, filter(None, by))) <= KNOWN_BY_CHARS:
                if len(self._known) >= KNOWN_CALLERS:
                    self._known.clear()
                self._known[by] = caller
        return caller

    def _nobody(self, request: Asking) -> Caller:
        product = _product(request)
        address = request.remote or ""
        return Caller(product, admin=False, share=f"{address} {product}", who=address)

    def _of_key(self, request: Asking) -> Caller:
        presented = _presented(request)
        for key in presented:
            caller = self._by_digest.get(hashlib.sha256(_bytes_of(key)).digest())
            if caller is not None:
                return caller
        raise RequestError(
            "this API key is not known here"
            if presented
            else "no API key: send Authorization: Bearer or x-api-key",
            code="invalid_api_key",
        )


def require_admin(request: web.BaseRequest, caller: Caller, keyring: Keyring) -> None:
    """Let an admin key pass, and loopback where there are no keys.

    Raises:
        RequestError: 403, saying who may.
    """
    if caller.admin:
        return
    if keyring.open and _is_loopback(request):
        _refuse_other_sites(request)
        return
    who = (
        "from this machine only, as no keys are configured"
        if keyring.open
        else "with an admin key"
    )
    raise RequestError(f"this is allowed {who}", code="permission_denied")


def may_use(caller: Caller, model: ModelId, aliases: Mapping[str, ModelId]) -> bool:
    """Whether the key's patterns name the model, by its id or by an alias that means it."""
    if caller.models is None:
        return True
    names = [model, *(alias for alias, meant in aliases.items() if meant == model)]
    return any(fnmatchcase(name, pattern) for name in names for pattern in caller.models)


def refuse_foreign_name(request: web.BaseRequest, keyring: Keyring) -> None:
    """Without keys, answer this machine's own clients only under a name that nobody else can own.

    A page that lets its own name mean 127.0.0.1 is of the same site as what it asks then, so no
    browser keeps it from reading.

    Raises:
        RequestError: 403, saying which names are good.
    """
    if not keyring.open or "Host" not in request.headers:
        return  # no browser leaves it out
    peer = request.transport.get_extra_info("peername") if request.transport else None
    by_network = isinstance(peer, tuple)
    if by_network and _is_loopback(request) and not _is_own_name(request.host):
        _wrong_name(request)


def require_model(caller: Caller, model: ModelId, aliases: Mapping[str, ModelId]) -> None:
    """Refuse a model that the key may not use.

    Raises:
        RequestError: 403.
    """
    if not may_use(caller, model, aliases):
        raise RequestError(
            f"this key may not use {model[:200]!r}: `models` of [[auth.keys]] does not name it",
            code="model_not_allowed",
            param="model",
        )


def _caller_of(key: Key) -> Caller:
    limits = KeyLimits(
        concurrent=key.max_concurrent,
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
    )
    return Caller(
        key.name,
        admin=key.role == "admin",
        share=key.name,
        who=key.name,
        models=key.models,
        limits=None if limits == KeyLimits() else limits,
    )


def _bytes_of(header: str) -> bytes:
    """As it came: aiohttp keeps bytes that are no UTF-8 as lone surrogates."""
    return header.encode("utf-8", "surrogateescape")


def _presented(request: Asking) -> list[str]:
    """The keys of a request: clients that want one in a header send a dummy there."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    bearer = token.strip(" \t") if scheme.lower() == "bearer" else ""
    return [key for key in (bearer, request.headers.get("x-api-key")) if key]


def _product(request: Asking) -> str | None:
    """The first word of the User-Agent: enough to tell one's own clients apart in the history."""
    agent = request.headers.get("User-Agent", "").split(" ", 1)[0][:CLIENT_NAME_LENGTH]
    return agent if agent.isprintable() and agent else None


def _refuse_other_sites(request: web.BaseRequest) -> None:
    """A page of another site can make its reader's browser, on this very machine, post here."""
    origin = request.headers.get("Origin")
    if origin is None:
        return
    if origin.partition("://")[2] != request.host:
        raise RequestError(
            "not from a page of another site, as no keys are configured",
            code="permission_denied",
        )
    if not _is_own_name(request.host):
        _wrong_name(request)


def _wrong_name(request: web.BaseRequest) -> NoReturn:
    # Whoever owns a name can let it mean 127.0.0.1, and his page is then of the same site.
    raise RequestError(
        f"not under the name {request.host[:80]}, as no keys are configured:"
        " by localhost or an address",
        code="permission_denied",
    )


def _is_own_name(host: str) -> bool:
    """An address, localhost (or below it) or this machine's own name; each may have a port."""
    own = socket.gethostname().lower()
    try:
        parts = urlsplit(f"//{host}")
        name = parts.hostname or ""
        if parts.netloc != host or "@" in host:
            return False
        own_names = {"localhost", own, own.partition(".")[0]}
        return name in own_names or name.endswith(".localhost") or bool(ip_address(name))
    except ValueError:
        return False


def _is_loopback(request: web.BaseRequest) -> bool:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not isinstance(peer, tuple):
        return peer is not None  # a Unix socket: the file's permissions decide
    return is_this_machine(peer[0])


def is_this_machine(host: str) -> bool:
    """A loopback address, also as a socket for both families of addresses writes it."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
