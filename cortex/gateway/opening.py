"""Keeps a streaming client alive while its model is being loaded.

Clients give up on a connection that says nothing. After a while the head of the answer is sent
ahead, and comments or pings follow, which every client ignores. From then on a failure can only be
an error event; until then it is an honest status.
"""

from collections.abc import Callable

from cortex.gateway.line import Line
from cortex.gateway.reply import Reply

COMMENT_S = 5.0
"""Silence before the head is sent, and between two comments."""
EVENT_STREAM = (
    "Content-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
)
"""Header lines of a stream of our own making."""


class Opening:
    """The answer to one streaming request, before a node gives it."""

    __slots__ = ("_line", "_reply", "_waiting")

    def __init__(self, reply: Reply, line: Line, waiting: Callable[[], bytes]) -> None:
        self._reply = reply
        self._line = line
        self._waiting = waiting

    def beat(self) -> None:
        """Say that the request still waits."""
        if not self._reply.begun:
            self._reply.begin(200, EVENT_STREAM)
            self._line.sending(200)
        self._reply.write(self._waiting())
