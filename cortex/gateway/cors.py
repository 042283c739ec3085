"""Which pages of other origins may use the API from a browser (Fetch Standard, 3.2).

Inference and the list of models only: what changes or shows the fleet is for its own page.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

APP_SCHEMES = frozenset(
    {
        "app",
        "capacitor",
        "chrome-extension",
        "file",
        "moz-extension",
        "safari-web-extension",
        "tauri",
        "vscode-webview",
    }
)
"""Origins of programs on the user's machine; no page of the web has one of them."""
_EXPOSED = (
    "request-id, retry-after, x-cortex-cold-start, x-cortex-model, x-cortex-node, x-request-id,"
    " x-should-retry"
)
_METHODS = "GET, POST, DELETE"
_MAX_AGE_S = 600
_NAMES = re.compile(r"[\w!#$%&'*+.^`|~-]+(?:\s*,\s*[\w!#$%&'*+.^`|~-]+)*", re.ASCII)
_OPEN = re.compile(
    r"/v1/(?:chat/completions|completions|embeddings|images/generations|audio/speech"
    r"|messages(?:/count_tokens)?|responses(?:/.+)?|models(?:/(?!(?:status|unload|reload)\Z).+)?)"
)


def shared(path: str) -> bool:
    """Whether a page of another origin may use it at all; the path is canonical."""
    return _OPEN.fullmatch(path) is not None


@lru_cache(maxsize=256)
def allowed(origin: str, origins: tuple[str, ...] | None, *, keyed: bool) -> bool:
    """Whether an origin's pages may ask.

    Args:
        origin: As the browser sends it.
        origins: What is configured: patterns; None = nothing is.
        keyed: Keys are configured, so that a page has to have one.
    """
    if not (origin.isascii() and origin.isprintable() and origin):
        return False
    if origins is not None:
        return any(fnmatchcase(origin, pattern) for pattern in origins)
    if keyed:
        return True
    try:
        parts = urlsplit(origin)
        scheme, host = parts.scheme, parts.hostname or ""
    except ValueError:
        return False
    if scheme in APP_SCHEMES:
        return True
    return scheme in ("http", "https") and _is_loopback(host)


def answer_headers(origin: str) -> dict[str, str]:
    """For an answer that the origin's page may read."""
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": _EXPOSED,
        "Vary": "Origin",
    }


def preflight_headers(origin: str, asked: Mapping[str, str]) -> dict[str, str]:
    """For the question that a browser asks first."""
    headers = answer_headers(origin) | {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Max-Age": str(_MAX_AGE_S),
    }
    # By name: `*` does not stand for Authorization.
    wanted = asked.get("Access-Control-Request-Headers", "").strip()
    if _NAMES.fullmatch(wanted):
        headers["Access-Control-Allow-Headers"] = wanted
    if asked.get("Access-Control-Request-Private-Network") == "true":
        headers["Access-Control-Allow-Private-Network"] = "true"
    return headers


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
