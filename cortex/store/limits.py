"""How much the store takes and how long it waits. Tests tighten these; nothing else changes them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    flush_s: float = 0.25
    """A row is on disk this long after it was queued, at the latest."""
    flush_rows: int = 500
    """Rows of one transaction; retention deletes no more at a time either."""
    max_queued_rows: int = 50_000
    """Rows kept while the file takes none; the oldest are given up beyond that."""
    open_s: float = 2.0
    """Longest wait at start for another process to let go of the file."""
    busy_s: float = 2.0
    """How long one statement waits for another connection's lock."""
    retry_s: float = 0.25
    """First pause after a failed flush; it doubles with each that follows."""
    max_retry_s: float = 2.0
    """Longest such pause. With `busy_s` it stays below `save_s`, so that each save is tried."""
    save_s: float = 5.0
    """Longest wait for a residency, node or pin to be committed."""
    read_s: float = 10.0
    """Longest a question may take; past it the read is broken off."""
    prune_every_s: float = 600.0
    prune_pause_s: float = 0.05
    """Between two batches of one pruning, so that queued rows are not held up."""
    subscriber_rows: int = 1000
    """Events kept for a slow subscriber; it loses the oldest beyond that."""
