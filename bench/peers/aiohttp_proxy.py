"""The least an aiohttp proxy can do: forward and relay. No routing, no metrics, no log, no care.

aiohttp_proxy.py PORT NODE_URL [uvloop]
"""

import asyncio
import sys

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web

NOT_FORWARDED = {"host", "connection", "transfer-encoding", "content-length", "keep-alive"}


async def forward(request: web.Request) -> web.StreamResponse:
    headers = {k: v for k, v in request.headers.items() if k.lower() not in NOT_FORWARDED}
    url = request.app["node"] + request.path_qs
    body = await request.read()
    async with request.app["session"].request(
        request.method, url, data=body, headers=headers
    ) as answer:
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in NOT_FORWARDED}
        if answer.content_length is not None:
            return web.Response(status=answer.status, headers=kept, body=await answer.read())
        out = web.StreamResponse(status=answer.status, headers=kept)
        await out.prepare(request)
        async for chunk in answer.content.iter_any():
            await out.write(chunk)
        return out


async def main(port: int, node: str) -> None:
    app = web.Application(client_max_size=64 << 20)
    app["node"] = node
    app.router.add_route("*", "/{path:.*}", forward)
    async with ClientSession(
        connector=TCPConnector(limit=0),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        timeout=ClientTimeout(total=None),
    ) as app["session"]:
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    loop_factory = None
    if sys.argv[3:] == ["uvloop"]:
        import uvloop

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as running:
        running.run(main(int(sys.argv[1]), sys.argv[2]))
