"""The log line of every finished request, as far as a journal can take them."""

import logging

from cortex.core.clock import Clock
from cortex.core.records import Outcome, RequestRecord

log = logging.getLogger("cortex.request")

LINES_PER_S = 100
"""By default the journal drops what a service says beyond 333 lines a second (`RateLimitBurst=` of journald.conf(5)),
changes of the fleet too; and a line costs a third of what the request did.
"""


class RequestLines:
    """Writes them: at level warning of those that went wrong, which others cannot crowd out.

    Those beyond `LINES_PER_S` are counted by the next line, unless the level is debug: then each is written.
    """

    def __init__(self, clock: Clock) -> None:
        self._now_s = clock.now_s
        self._usual, self._wrong = _Allowance(logging.INFO), _Allowance(logging.WARNING)

    def request_done(self, record: RequestRecord) -> None:
        """Write the line of one request."""
        status = record.status
        # It failed though nothing was wrong with it; in the middle of its answer counts too.
        wrong = status >= 500 or (record.outcome is Outcome.ERROR and status < 400)
        allowance = self._wrong if wrong else self._usual
        if not allowance.take(int(self._now_s())):
            return
        level = allowance.level
        if omitted := allowance.omitted():
            fields = {"requests": omitted, "most_per_s": LINES_PER_S}
            log.log(level, "requests left out of this log", extra={"fields": fields})
        log.log(level, "request", extra={"fields": _fields(record)})


class _Allowance:
    """So many lines of one level in each second; all that come where the log is at level debug."""

    __slots__ = ("_every", "_left", "_omitted", "_second", "_written", "level")

    def __init__(self, level: int) -> None:
        self.level = level
        self._second, self._left, self._omitted = -1, 0, 0
        #: Whether lines of this level are written at all, and whether all are; asked once a second.
        self._written = self._every = False

    def take(self, second: int) -> bool:
        if second != self._second:
            self._second, self._left = second, LINES_PER_S
            self._written = log.isEnabledFor(self.level)
            self._every = log.isEnabledFor(logging.DEBUG)
        if self._left and self._written:
            self._left -= 1
            return True
        self._omitted += self._written and not self._every
        return self._every

    def omitted(self) -> int:
        """How many lines were refused since this was asked last."""
        count, self._omitted = self._omitted, 0
        return count


def _fields(record: RequestRecord) -> dict[str, object]:
    return {
        "request_id": record.request_id,
        "route": record.route,
        "model": record.model,
        "node": record.node,
        "client": record.client,
        "outcome": record.outcome.value,
        "error_code": record.error_code,
        "error": record.error_message,
        "status": record.status,
        "queue_ms": round(record.queue_ms, 1),
        "load_wait_ms": round(record.load_wait_ms, 1),
        "ttft_ms": record.ttft_ms and round(record.ttft_ms, 1),
        "duration_ms": round(record.duration_ms, 1),
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
    }
