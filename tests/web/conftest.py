"""A real browser in front of a real gateway. Chromium is the machine's own; nothing is downloaded."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import ROOT
from tests.gateway.conftest import scripted
from tests.running import Running, running

CHROMIUM = Path("/usr/bin/chromium")
SHOTS = ROOT / "build" / "screenshots"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 10_000


class Visits:
    """Pages of gateways in one browser, and what went wrong in them."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._origins: set[str] = set()
        self._asked: set[str] = set()
        self.wrong: list[str] = []
        #: Words of console errors that are expected: a refusal is one to the browser, and so is
        #: the end of the gateway, which a test leaves before its browser.
        self.expected = [
            "net::ERR_INCOMPLETE_CHUNKED_ENCODING",
            "net::ERR_CONNECTION_REFUSED",
            "the server responded with a status of 503",
        ]

    async def __call__(self, gateway: Running, fragment: str = "", **options: Any) -> Any:
        """Open the page; `options` are those of a browser context."""
        self._origins.add(gateway.url)
        context = await self._browser.new_context(**options)
        page = await context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.wrong.append(f"{error}\n{error.stack}"))
        page.on("console", self._heard)
        page.on("request", lambda request: self._asked.add(request.url))
        await page.goto(f"{gateway.url}/{fragment}")
        return page

    def allow(self, gateway: Running) -> None:
        """A page was made to ask this one on purpose."""
        self._origins.add(gateway.url)

    def _heard(self, said: Any) -> None:
        if said.type in {"error", "warning"} and not any(
            words in said.text for words in self.expected
        ):
            self.wrong.append(said.text)

    def check(self) -> None:
        """Nothing broke (a breach of the content policy counts), nothing came from elsewhere."""
        near = (*self._origins, "data:")
        assert [url for url in self._asked if not url.startswith(near)] == []
        assert self.wrong == []


@pytest.fixture
async def visit() -> AsyncIterator[Visits]:
    """Open the page of a gateway: `page = await visit(gateway, "#/models", color_scheme="dark")`."""
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is missing")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing (Debian's package chromium)")
    async with playwright.async_playwright() as driver:
        # A new profile in a directory of its own, gone at the end.
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        visits = Visits(browser)
        yield visits
        await browser.close()
    visits.check()


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway with one node n0 that holds m1."""
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        yield gateway
