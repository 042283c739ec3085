"""The page at `/` and its files: the same for everybody, and nothing in them is secret.

What the page shows it asks for itself, with the key that its reader types in.
"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from aiohttp import web

from cortex.core.errors import RequestError

PREFIX = "/web/"
_INDEX = "index.html"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept, Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class _File:
    kind: str
    plain: bytes
    packed: bytes
    etag: str


@cache
def static_files() -> dict[str, _File]:
    """Every file by its path below `PREFIX`; read once, as they come with the package."""
    return dict(_read(files("cortex.gateway") / "static", ""))


def _read(folder: Traversable, path: str) -> list[tuple[str, _File]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _read(entry, f"{path}{entry.name}/")
        elif (kind := _TYPES.get(entry.name.rpartition(".")[2])) is not None:
            data = entry.read_bytes()
            etag = hashlib.sha256(data).hexdigest()[:20]
            packed = gzip.compress(data, mtime=0)
            found.append((path + entry.name, _File(kind, data, packed, etag)))
    return found


async def page(request: web.Request) -> web.Response:
    """GET /: the page for browsers; a word for clients that only look whether somebody is there."""
    if "text/html" in request.headers.get("Accept", ""):
        return _answer(request, static_files()[_INDEX])
    return web.Response(text="cortex\n", headers={"Vary": "Accept"})


async def file(request: web.Request) -> web.Response:
    """GET /web/…: a file of the page."""
    found = static_files().get(request.match_info["file"])
    if found is None:
        raise RequestError(f"there is no {request.path[:200]} here", code="not_found")
    return _answer(request, found)


def _answer(request: web.Request, found: _File) -> web.Response:
    packed = "gzip" in request.headers.get("Accept-Encoding", "")
    etag = f'W/"{found.etag}"'
    headers = {**_HEADERS, "ETag": etag, "Content-Type": found.kind}
    if etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    if packed:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=found.packed if packed else found.plain, headers=headers)
