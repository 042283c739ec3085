"""Keeps a streaming client alive while its model is being loaded.

Clients give up on a connection that says nothing. After a while the head of the answer is sent
ahead, and comments or pings follow, which every client ignores. From then on a failure can only be
an error event; until then it is an honest status.
"""

from collections.abc import Callable, Mapping

from aiohttp import web

from cortex.gateway.line import Line
from cortex.gateway.services import REQUEST_ID

COMMENT_S = 5.0
"""Silence before the head is sent, and between two comments."""


class Opening:
    """The answer to one streaming request, before a node gives it."""

    def __init__(self, request: web.Request, line: Line, waiting: Callable[[], bytes]) -> None:
        self._request = request
        self._line = line
        self._waiting = waiting
        #: Once its head has been sent.
        self.response: web.StreamResponse | None = None

    async def beat(self) -> None:
        """Say that the request still waits."""
        if self.response is None:
            self.response = event_stream(self._request, {})
            await self.response.prepare(self._request)
            self._line.sending(self.response.status)
        await self.response.write(self._waiting())


def event_stream(request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
    """The head of a stream of our own making."""
    return web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            "x-request-id": request[REQUEST_ID],
            **headers,
        }
    )
