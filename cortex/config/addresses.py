"""Addresses, names and durations as people write them in the configuration.

Each check raises `ValueError` with what was expected instead.
"""

import ipaddress
import re

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError('an address like "0.0.0.0:8000"')
    return value


def collector_of(value: str) -> str:
    found = _BASE_URL.fullmatch(value)
    if found is None or not _is_host(found[2]):
        raise ValueError('a URL like "http://collector.internal:4318"')
    return value.rstrip("/")


def endpoint_of(value: str) -> str:
    """A base URL without the `/v1` that clients add, and with its host in small letters.

    Raises:
        ValueError: What was expected instead.
    """
    if value.startswith(UNIX):
        return _socket(value)
    if "@" in value:
        raise ValueError("a URL without a user: the node's key goes into api_key_file")
    found = _BASE_URL.fullmatch(value)
    if found is None:
        raise ValueError('a URL like "http://gpu-1.internal:8080"')
    scheme, host, port, path = found.groups(default="")
    if not _is_host(host):
        raise ValueError('a URL with the name or address of a host, "[::1]" for IPv6')
    if port and not 1 <= int(port) <= 65535:
        raise ValueError("a URL with a port of 1 to 65535")
    at = f":{port}" if port else ""
    # The zone of an IPv6 address is the name of an interface, and has its own case.
    host = host if "%" in host else host.lower()
    return f"{scheme.lower()}://{host}{at}{path.rstrip('/').removesuffix('/v1')}"


def _socket(value: str) -> str:
    path = value.removeprefix(UNIX)
    if not path.startswith("/") or path.startswith("//") or not path.isprintable():
        raise ValueError('a socket by its whole path, "unix:/run/mistralrs.sock"')
    if len(path.encode()) > SOCKET_PATH_BYTES:
        raise ValueError(f"a socket's path of at most {SOCKET_PATH_BYTES} bytes")
    return value


UNIX = "unix:"
SOCKET_PATH_BYTES = 107
"""The kernel takes no longer one."""
_BASE_URL = re.compile(
    r"(https?)://(\[[^\]/]*\]|[^/:?#\[\]]+)(?::(\d{1,6}))?(/[^\s?#]*)?", re.IGNORECASE
)
_LABEL = re.compile(r"(?!-)[\w-]{1,63}(?<!-)")
"""Of a host name; RFC 1123, with the underscore that many a LAN has."""


def _is_host(text: str) -> bool:
    if text.startswith("["):
        try:
            return ipaddress.ip_address(text[1:-1]).version == 6
        except ValueError:
            return False
    try:
        ascii_name = text.encode("idna").decode()
    except UnicodeError:
        return False
    labels = ascii_name.removesuffix(".").split(".")
    return len(ascii_name) <= 253 and all(map(_LABEL.fullmatch, labels))


def plain_name(value: str) -> str:
    """The name of a node or a key; raises `ValueError`."""
    if not _NAME.fullmatch(value):
        raise ValueError("letters, digits, dots, dashes and underscores, at most 63")
    return value


def some_of(values: tuple[str, ...]) -> tuple[str, ...]:
    # Not by `min_length`, which would complain of an empty list where each of several was wrong.
    if not values:
        raise ValueError("at least one")
    return values


def seconds_or_off(value: object) -> object:
    return None if value == "off" else value


def origin(value: str) -> str:
    found = re.fullmatch(r"\*|[a-z*][a-z0-9+.*-]*://[^/\s]+", value)
    if found is None:
        raise ValueError("scheme://host or scheme://host:port expected, without a path; or *")
    return value


def host_name(value: str) -> str:
    if not _is_host(value):
        raise ValueError('the name of a host like "gateway.lan", without a port')
    return value.lower()
