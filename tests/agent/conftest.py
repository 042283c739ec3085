import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cortex.agent.agent import Agent, Limits
from cortex.agent.gpus import GpuReader
from cortex.agent.memory import Memory
from cortex.agent.settings import Settings
from cortex.agent.uplink import Pace
from cortex.core.ids import NodeName
from tests.agent.gateway import TinyGateway
from tests.agent.nvml import FakeNvml
from tests.running import free_port

QUICK = Limits(
    observe_s=0.5,
    post_s=2.0,
    restart_s=10.0,
    pace=Pace(first_s=0.05, most_s=0.2, refused_s=0.1),
)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of whoever runs the tests, nor of a service manager above."""
    for name in list(os.environ):
        if name.startswith("CORTEX_") or name in {"STATE_DIRECTORY", "NOTIFY_SOCKET"}:
            monkeypatch.delenv(name)


@pytest.fixture
async def gateway() -> AsyncIterator[TinyGateway]:
    async with TinyGateway() as gateway:
        yield gateway


@asynccontextmanager
async def agent_of(
    gateway: TinyGateway,
    folder: Path,
    *,
    limits: Limits = QUICK,
    gpus: GpuReader | None = None,
    **more: Any,
) -> AsyncIterator[Agent]:
    """An agent in this loop until the block ends; nothing listens as its node unless `local` says so."""
    wanted: dict[str, Any] = {
        "gateway": gateway.url,
        "node": NodeName("n0"),
        "local": f"http://127.0.0.1:{free_port()}",
        "state_dir": folder / "state",
    }
    with Memory(folder / "state") as memory:
        agent = Agent(
            Settings(**wanted | more), memory, gpus=gpus or GpuReader(FakeNvml), limits=limits
        )
        serving = asyncio.create_task(agent.serve(), name="agent")  # noqa: TID251 (ended below)
        try:
            yield agent
        finally:
            agent.stop()
            async with asyncio.timeout(2):
                await serving


class Lines(logging.Handler):
    """What the agent logged, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def fields(self, text: str) -> dict[str, Any]:
        record = next(record for record in self.records if record.getMessage() == text)
        return dict(getattr(record, "fields", {}))


@pytest.fixture
def lines() -> Iterator[Lines]:
    lines, log = Lines(), logging.getLogger("cortex.agent")
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(lines)
    log.setLevel(logging.NOTSET)
