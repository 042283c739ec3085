"""Keeps a streaming client alive while its model is being loaded.

Clients give up on a connection that says nothing. After a while the head of the answer is sent
ahead, and comments follow, which every SSE client ignores. From then on a failure can only be an
error event; until then it is an honest status.
"""

from aiohttp import web

from cortex.core.ids import RequestId
from cortex.gateway.line import Line

COMMENT_S = 5.0
"""Silence before the head is sent, and between two comments."""
COMMENT = b": waiting for the model\n\n"


class Opening:
    """The answer to one streaming request, before a node gives it."""

    def __init__(self, request: web.Request, line: Line, request_id: RequestId) -> None:
        self._request = request
        self._line = line
        self._request_id = request_id
        #: Once its head has been sent.
        self.response: web.StreamResponse | None = None

    async def beat(self) -> None:
        """Say that the request still waits."""
        if self.response is None:
            self.response = web.StreamResponse(
                headers={
                    "Content-Type": "text/event-stream",
                    "Cache-Control": "no-cache",
                    "X-Accel-Buffering": "no",
                    "x-request-id": self._request_id,
                }
            )
            await self.response.prepare(self._request)
            self._line.sending(self.response.status)
        await self.response.write(COMMENT)
