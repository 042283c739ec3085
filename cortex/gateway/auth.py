"""Who is asking: API keys in either header form, and this machine's user as admin where no keys exist."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from aiohttp import web

from cortex.config.keys import digest_of
from cortex.config.schema import Key
from cortex.core.errors import RequestError
from cortex.core.ids import ModelId
from cortex.core.quota import KeyLimits
from cortex.gateway.provenance import require_this_machine

CLIENT_NAME_LENGTH = 64
KNOWN_CALLERS = 1024
KNOWN_BY_CHARS = 512
"""Who sends longer headers is looked up anew each time."""


@dataclass(frozen=True, slots=True)
class Caller:
    name: str | None
    admin: bool
    share: str
    """Who is served in turn with others: the key, or without keys the address and program, whose
    turns are the address's.
    """
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
    """The configured keys by digest: looking up a digest tells nothing of a key by its timing.

    Args:
        keys: All of them.
        closed: A key is wanted even where there is none.
    """

    def __init__(self, keys: Iterable[Key], *, closed: bool = False) -> None:
        self._by_digest = {digest_of(key): _caller_of(key) for key in keys}
        #: No key is wanted: everyone may ask, and this machine's user may change.
        self.open = not self._by_digest and not closed
        #: Of the configured keys: all that may become a label.
        self.names = frozenset(caller.share for caller in self._by_digest.values())
        #: The latest callers by what they were known by. Strings are found by their hash, which is
        #: made with a secret of this process, so that this tells as little by its timing.
        self._known: dict[tuple[str | None, str | None], Caller] = {}

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


def require_admin(
    request: web.BaseRequest, caller: Caller, keyring: Keyring, hosts: Collection[str]
) -> None:
    """Let an admin key pass, and where there are no keys a user of this machine.

    Raises:
        RequestError: 403, saying who may.
    """
    if caller.admin:
        return
    if not keyring.open:
        raise RequestError("this is allowed with an admin key", code="permission_denied")
    require_this_machine(request, hosts)


def may_use(caller: Caller, model: ModelId, aliases: Mapping[str, ModelId]) -> bool:
    """Whether the key's patterns name the model, by its id or by an alias that means it."""
    if caller.models is None:
        return True
    names = [model, *(alias for alias, meant in aliases.items() if meant == model)]
    return any(fnmatchcase(name, pattern) for name in names for pattern in caller.models)


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
        tokens_per_day=key.tokens_per_day,
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
