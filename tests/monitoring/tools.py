"""Prometheus' own tools, where they are installed: its checker, and a whole server of one test."""

import asyncio
import contextlib
import math
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.monitoring.files import RULES, SCRAPE
from tests.running import free_port, until

SCRAPE_S = 1

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (package prometheus)"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus and promtool are not installed (package prometheus)",
)


def promtool(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class Prometheus:
    """The HTTP API of a running server."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._http = http

    async def ready(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with self._http.get(f"{self._url}/-/ready") as response:
                return response.status == 200
        return False

    async def get(self, path: str, **query: str) -> Any:
        async with self._http.get(f"{self._url}/api/v1/{path}", params=query) as response:
            body = await response.json()
        assert body["status"] == "success", f"{query}: {body}"
        return body["data"]

    async def instant(self, expression: str) -> list[Any]:
        return list((await self.get("query", query=expression))["result"])

    async def over(self, expression: str, start_s: float, end_s: float) -> list[Any]:
        # The last step is at the very end, so that a short time has what was scraped in it.
        start_s = end_s - math.ceil((end_s - start_s) / SCRAPE_S) * SCRAPE_S
        window = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": str(SCRAPE_S)}
        return list((await self.get("query_range", query=expression, **window))["result"])

    async def has_scraped(self, since_s: float) -> bool:
        """Whether all of the gateway's doings up to then have been seen."""
        last = await self.instant("timestamp(cortex_store_ok)")
        return bool(last) and float(last[0]["value"][1]) > since_s


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[Prometheus]:
    """A server of its own with the example's configuration, in a hurry and with this target."""
    config = yaml.safe_load(SCRAPE.read_text())
    config["global"] = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    source = folder / "prometheus.yml"
    source.write_text(yaml.safe_dump(config))
    listen = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={source}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={listen}",
            stdout=log,
            stderr=log,
        )
        try:
            async with aiohttp.ClientSession() as http:
                server = Prometheus(f"http://{listen}", http)
                await until(server.ready, "Prometheus to start", 20.0)
                yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
