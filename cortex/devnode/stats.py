"""Counters of one node, for tests to assert on; they outlive its restarts."""

from collections import Counter
from dataclasses import dataclass, field, fields


@dataclass(slots=True)
class Stats:
    """What the node has seen and done so far."""

    started: int = 0
    """Inference requests whose body was read."""
    finished: int = 0
    """Those answered in full, an error answer included."""
    cancelled: int = 0
    """Those whose client hung up first."""
    streams_stopped: int = 0
    """Streams whose work ended because the client hung up."""
    whole_continued: int = 0
    """Answers not streamed whose work went on after the client hung up."""
    cut: int = 0
    """Requests that lost their engine to an unload."""
    cut_unheard: int = 0
    """Those of them whose client had hung up before: an answer sent whole is made to its end."""
    counts: int = 0
    """Requests to count tokens."""
    injected: int = 0
    """Requests answered by the knob `http_error`, which count as nothing else."""
    generated: int = 0
    """Pieces (about tokens) that reached a stream or a whole answer."""
    requests: Counter[str] = field(default_factory=Counter)
    """Inference requests per model, by resolved id."""
    in_flight: Counter[str] = field(default_factory=Counter)
    status_posts: Counter[str] = field(default_factory=Counter)
    reload_posts: Counter[str] = field(default_factory=Counter)
    unload_posts: Counter[str] = field(default_factory=Counter)
    loads: Counter[str] = field(default_factory=Counter)
    """Loads that began, per model, whoever asked."""
    listings: int = 0
    infos: int = 0
    loading: int = 0
    max_loading: int = 0
    """Most loads that ran at the same time."""
    connections: int = 0
    """Connections ever accepted."""

    def as_dict(self) -> dict[str, object]:
        """JSON-able copy."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {k: dict(v) if isinstance(v, Counter) else v for k, v in values}
