"""The fleet as the live feed told it so far: pure, each frame makes the next picture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cortex.adminapi import EventRow, ModelOnNode, QueueBody
from cortex.liveapi import LiveFleet, LiveFrame, LiveNode, LiveRequest

WINDOW_MS = 10_000
"""Over which rates are taken."""
LEAST_WINDOW_MS = 900
"""Below this a rate would be chance."""
EVENTS_KEPT = 200

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at an instant of the gateway's clock."""

    at_ms: int
    requests: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that one gateway told, and when."""

    at_ms: int = 0
    """The gateway's clock at the last frame."""
    fleet: LiveFleet | None = None
    """None = nothing was told yet."""
    nodes: Mapping[str, LiveNode] = field(default_factory=dict)
    models: Mapping[str, ModelOnNode] = field(default_factory=dict)
    requests: Mapping[str, LiveRequest] = field(default_factory=dict)
    queues: Mapping[str, QueueBody] = field(default_factory=dict)
    events: tuple[EventRow, ...] = ()
    """Oldest first."""
    tokens: int = 0
    """Events of streams that came since this picture began; a node sends one a token."""
    samples: tuple[Sample, ...] = ()
    """Oldest first, over the window."""

    def after(self, frame: LiveFrame, *, whole: bool) -> "Picture":
        """The picture with this frame in it. A whole one replaces all that was known."""
        before = Picture() if whole else self
        fleet = frame.fleet or before.fleet
        requests = _merged(before.requests, frame.requests)
        tokens = before.tokens + (0 if whole else _came(before.requests, requests))
        sample = Sample(frame.at_ms, fleet.requests_total if fleet else 0, tokens)
        return Picture(
            at_ms=frame.at_ms,
            fleet=fleet,
            nodes=_merged(before.nodes, frame.nodes),
            models=_merged(before.models, frame.models),
            requests=requests,
            queues=_merged(before.queues, frame.queues),
            events=(*before.events, *frame.events)[-EVENTS_KEPT:],
            tokens=tokens,
            samples=(*before.samples, sample),
        ).at(frame.at_ms)

    def at(self, now_ms: int) -> "Picture":
        """Without the samples that are too old by now; the last one before the window stays."""
        begin_ms = now_ms - WINDOW_MS
        old = sum(sample.at_ms <= begin_ms for sample in self.samples)
        return replace(self, samples=self.samples[max(0, old - 1) :]) if old > 1 else self

    def requests_per_s(self, now_ms: int) -> float | None:
        """Ended requests; None = not known long enough."""
        return self._rate(now_ms, lambda sample: sample.requests)

    def tokens_per_s(self, now_ms: int) -> float | None:
        """Of all streams together; answers that come whole have no pace to be seen."""
        return self._rate(now_ms, lambda sample: sample.tokens)

    def _rate(self, now_ms: int, count: Callable[[Sample], int]) -> float | None:
        if not self.samples:
            return None
        # Before the first frame nothing is known; where nothing changes no frame comes.
        first = self.at(now_ms).samples[0]
        span_ms = min(now_ms - first.at_ms, WINDOW_MS)
        if span_ms < LEAST_WINDOW_MS:
            return None
        return max(0, count(self.samples[-1]) - count(first)) * 1000 / span_ms

    def frame(self) -> LiveFrame:
        """The whole of it as one frame."""
        return LiveFrame(
            at_ms=self.at_ms,
            fleet=self.fleet,
            nodes=dict(self.nodes),
            models=dict(self.models),
            requests=dict(self.requests),
            queues=dict(self.queues),
            events=list(self.events),
        )


def _merged(before: Mapping[str, T], told: Mapping[str, T | None]) -> Mapping[str, T]:
    """`before` with what was told; an entry of None is gone."""
    if not told:
        return before
    both = {**before, **told}
    return {key: value for key, value in both.items() if value is not None}


def _came(before: Mapping[str, LiveRequest], now: Mapping[str, LiveRequest]) -> int:
    """Stream events since the picture before, of requests that still run."""
    if before is now:
        return 0
    return sum(
        max(0, request.events - (before[key].events if key in before else 0))
        for key, request in now.items()
    )
