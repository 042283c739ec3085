"""Who is asking: API keys in either header form, and loopback as admin where no keys exist."""

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import web

from cortex.config.schema import Key
from cortex.core.errors import RequestError

CLIENT_NAME_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Caller:
    name: str | None
    admin: bool
    share: str
    """Who is served in turn with others: the key, or without keys the address and program."""


class Keyring:
    """The configured keys by digest: looking up a digest tells nothing of a key by its timing."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._by_digest = {
            _digest_of(key): Caller(key.name, key.role == "admin", key.name) for key in keys
        }

    @property
    def open(self) -> bool:
        """No key is configured: everyone may ask, loopback may change."""
        return not self._by_digest

    def caller(self, request: web.BaseRequest) -> Caller:
        """Who asks.

        Raises:
            RequestError: Keys are configured and the request carries none of them.
        """
        if self.open:
            product = _product(request)
            return Caller(product, admin=False, share=f"{request.remote} {product}")
        presented = _presented(request)
        if presented is None:
            raise RequestError(
                "no API key: send Authorization: Bearer or x-api-key", code="invalid_api_key"
            )
        caller = self._by_digest.get(hashlib.sha256(presented.encode()).digest())
        if caller is None:
            raise RequestError("this API key is not known here", code="invalid_api_key")
        return caller


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


def _digest_of(key: Key) -> bytes:
    if key.key_sha256 is not None:
        return bytes.fromhex(key.key_sha256)
    if key.key_file is not None:
        return hashlib.sha256(key.key_file.read_text().strip().encode()).digest()
    assert key.key is not None
    return hashlib.sha256(key.key.get_secret_value().encode()).digest()


def _presented(request: web.BaseRequest) -> str | None:
    authorization = request.headers.get("Authorization", "")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.headers.get("x-api-key")


def _product(request: web.BaseRequest) -> str | None:
    """The first word of the User-Agent: enough to tell one's own clients apart in the history."""
    agent = request.headers.get("User-Agent", "").split(" ", 1)[0][:CLIENT_NAME_LENGTH]
    return agent if agent.isprintable() and agent else None


def _refuse_other_sites(request: web.BaseRequest) -> None:
    """A page of another site can make its reader's browser, on this very machine, post here."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise RequestError(
            "not from a page of another site, as no keys are configured",
            code="permission_denied",
        )


def _is_loopback(request: web.BaseRequest) -> bool:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not isinstance(peer, tuple):
        return peer is not None  # a Unix socket: the file's permissions decide
    try:
        return ipaddress.ip_address(peer[0]).is_loopback
    except ValueError:
        return False
