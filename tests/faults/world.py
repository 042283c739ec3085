"""The fleet that the faults happen to: two nodes, a third that resets, one gateway, and what it kept."""

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.e2e.processes import Child, Gateway, Processes, eventually, request
from tests.faults.disk import Disk
from tests.faults.load import Load
from tests.faults.wallclock import WallClock

TOML = """[polling]
interval_s = 0.2
timeout_s = 1.0
[limits]
idle_timeout_s = 2
connect_timeout_s = 1
queue_timeout_s = 10
max_bodies_mb = 96
[state]
path = "{path}"
"""
KNOBS = '{"info_delay_s": 0.0, "token_interval_s": 0.01}'


class World:
    """`a` is on both nodes, `b` on the first alone; `a` is pinned by request."""

    def __init__(self, processes: Processes, disk: Disk, clock: WallClock) -> None:
        self.processes = processes
        self.disk = disk
        self.clock = clock
        self.database = disk.folder / "cortex.db"
        self.urls = [self.start_node("a", "b"), self.start_node("a")]
        self.nodes: list[Child] = [
            child for child in processes.children if "devnode" in str(child.process.args)
        ]
        self.gateway: Gateway = processes.serve(
            *self.urls, toml=TOML.format(path=self.database), **clock.environ
        )
        pinned = processes.cortex("pin", "a", "--endpoint", self.gateway.url)
        assert pinned.process.returncode == 0, pinned.stderr

    def start_node(self, *models: str, port: str = "0") -> str:
        named = [part for model in models for part in ("--model", model)]
        return self.processes.listening("scripted", *named, "--knobs", KNOBS, "--port", port)

    def kill_first(self) -> None:
        self.nodes[0].kill()

    def restart_first(self) -> None:
        self.start_node("a", "b", port=self.urls[0].rpartition(":")[2])
        self.nodes[0] = self.processes.children[-1]

    @contextmanager
    def first_frozen(self) -> Iterator[None]:
        self.nodes[0].send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.nodes[0].send(signal.SIGCONT)

    @contextmanager
    def with_idle_timeout(self, seconds: int) -> Iterator[None]:
        text = self.gateway.source.read_text()
        other = text.replace("idle_timeout_s = 2\n", f"idle_timeout_s = {seconds}\n")
        assert other != text
        self._reload(other)
        try:
            yield
        finally:
            self._reload(text)

    def _reload(self, text: str) -> None:
        before = len(self.gateway.events("config"))
        self.gateway.source.write_text(text)
        self.gateway.send(signal.SIGHUP)
        eventually(lambda: len(self.gateway.events("config")) > before, "a reload")

    def load(self, *models: str) -> Load:
        return Load(self.gateway.port, *(models or ("a", "b")))


def lost(gateway: Gateway, database: Path, load: Load, *, pinned: str | None = "a") -> str:
    """What is missing of what must be there: rows of answered requests, events, pins; in words.

    Fails where a row is there twice.
    """
    # Before the file is read: where clients go on, later answers are not in it yet.
    answered = {outcome.request_id for outcome in load.outcomes if outcome.answered}
    eventually(
        lambda: request(gateway.url + "/cortex/v1/status").json["store"]["queued_rows"] == 0,
        "the rows to be written",
        20,
    )
    store = request(gateway.url + "/cortex/v1/status").json["store"]
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as file:
        rows = file.execute("SELECT request_id, count(*) FROM requests GROUP BY 1").fetchall()
        pins = {model for (model,) in file.execute("SELECT model FROM pins")}
    assert all(number == 1 for _, number in rows), "a row is there twice"
    missing = answered - {request_id for request_id, _ in rows}
    said = []
    if missing:
        said.append(f"{len(missing)} of {len(answered)} rows")
    if store["dropped_rows"]:
        said.append(f"{store['dropped_rows']} rows dropped")
    if pinned is not None and not (
        pinned in pins and any(m["pinned"] for m in gateway.models() if m["model"] == pinned)
    ):
        said.append("a pin")
    return ", ".join(said) or f"nothing ({len(answered)} rows)"


def now_s() -> float:
    return time.monotonic()
