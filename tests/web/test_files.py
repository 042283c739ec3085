"""The page's files: how they are served, and what they may hold."""

import re

import pytest

from cortex.gateway.page import static_files
from tests.command import ROOT
from tests.running import Running

STATIC = ROOT / "cortex" / "gateway" / "static"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
LIMIT_BYTES = 200_000
OURS = [
    path for path in sorted(STATIC.rglob("*")) if path.is_file() and "vendor" not in path.parts
]


async def test_a_browser_gets_the_page_and_a_probe_a_word(shared: Running) -> None:
    page = await shared.get("/", headers=BROWSER)
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<title>cortex</title>" in page.text
    for probe in (await shared.get("/"), await shared.get("/", headers={"Accept": "*/*"})):
        assert (probe.status, probe.text) == (200, "cortex\n")
    assert (await shared.send("HEAD", "/")).status == 200
    assert (await shared.send("HEAD", "/", headers=BROWSER)).body == b""


async def test_nothing_but_the_own_origin_is_allowed(shared: Running) -> None:
    for path in ("/", "/web/app.js", "/web/style.css"):
        headers = (await shared.get(path, headers=BROWSER)).headers
        assert headers["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Frame-Options"] == "DENY"
        assert "Set-Cookie" not in headers


async def test_every_file_is_served_as_what_it_is(shared: Running) -> None:
    kinds = {
        ".js": "text/javascript",
        ".css": "text/css",
        ".svg": "image/svg+xml",
        ".html": "text/html",
    }
    for path in STATIC.rglob("*.*"):
        reply = await shared.get(f"/web/{path.relative_to(STATIC)}")
        assert reply.status == 200, path
        assert reply.body == path.read_bytes()
        assert reply.headers["Content-Type"].startswith(kinds[path.suffix])


async def test_a_file_that_is_known_is_not_sent_again(shared: Running) -> None:
    first = await shared.get("/web/app.js")
    assert first.headers["Cache-Control"] == "no-cache"
    again = await shared.get("/web/app.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    other = await shared.get("/web/app.js", headers={"If-None-Match": 'W/"other"'})
    assert other.status == 200


async def test_files_are_packed_for_those_who_can_unpack(shared: Running) -> None:
    packed = await shared.get("/web/style.css", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["Vary"]
    plain = await shared.get("/web/style.css", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert int(packed.headers["Content-Length"]) < len(plain.body) / 2


@pytest.mark.parametrize(
    "path",
    [
        "/web/",
        "/web/nothing.js",
        "/web/..%2fapp.py",
        "/web/%2e%2e/page.py",
        "/web/views",
        "/web",
    ],
)
async def test_nothing_else_is_served(shared: Running, path: str) -> None:
    from yarl import URL

    reply = await shared.http.get(URL(shared.url + path, encoded=True))
    assert reply.status == 404
    assert (await reply.json())["error"]["code"] == "not_found"


def test_the_page_is_small() -> None:
    total = sum(len(found.plain) for found in static_files().values())
    assert total < LIMIT_BYTES, total


def test_the_charting_library_comes_with_its_licence() -> None:
    text = (STATIC / "vendor" / "uplot" / "LICENSE").read_text()
    assert "MIT" in text
    assert "Copyright" in text


def test_no_script_or_style_is_inline_and_nothing_comes_from_elsewhere() -> None:
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=", page) == []
    for path in OURS:
        found = re.findall(r"https?://[^\s\"'`]+", path.read_text())
        assert [url for url in found if not url.startswith("http://www.w3.org/")] == [], (
            path.name
        )


def test_nothing_is_ever_parsed_as_markup_or_code() -> None:
    """What nodes and clients say goes in as text, so it cannot become anything else."""
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc"
    for path in OURS:
        if path.suffix == ".js":
            assert re.findall(ways, path.read_text()) == [], path.name


def test_the_key_is_kept_for_the_session_at_most() -> None:
    for path in OURS:
        text = path.read_text()
        stored = re.findall(r"localStorage\.setItem\(([^,]+),", text)
        assert set(stored) <= {'"cortex.theme"'}, path.name
        assert "document.cookie" not in text
