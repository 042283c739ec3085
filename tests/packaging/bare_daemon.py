"""The least daemon of the same libraries: imports them, serves one route, tells that it is ready.

Its start is what this machine needs for the libraries alone, so the start of cortex is measured by it:
milliseconds would mostly say how fast the machine is.
"""

import asyncio
import signal

import aiohttp
import aiosqlite
import orjson
import prometheus_client
import pydantic
import rich
import uvloop
from aiohttp import web

from cortex.telemetry import sdnotify

LIBRARIES = (aiohttp, aiosqlite, orjson, prometheus_client, pydantic, rich, uvloop)


class Settings(pydantic.BaseModel):
    host: str = "127.0.0.1"
    port: int = 0


async def serve(settings: Settings) -> None:
    async with aiosqlite.connect(":memory:"):
        app = web.Application()
        app.router.add_get("/health", health)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, settings.host, settings.port).start()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        sdnotify.notify("READY=1")
        await ended.wait()
        sdnotify.notify("STOPPING=1")


async def health(_: web.Request) -> web.Response:
    return web.json_response({})


if __name__ == "__main__":
    uvloop.run(serve(Settings()))
