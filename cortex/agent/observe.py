"""What a report says: the local node and the GPUs, asked side by side, each with a deadline."""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from cortex import __version__
from cortex.agent.gpus import GpuReader, GpuWatch
from cortex.agent.settings import Settings
from cortex.agent.weights import MIB, WeightsWatch
from cortex.agentapi import AgentReport, CommandAck
from cortex.core.errors import NodeError
from cortex.core.ids import ModelId
from cortex.node.client import NodeClient


class Observer:
    """Makes reports; `async with`."""

    def __init__(self, settings: Settings, gpus: GpuReader, *, deadline_s: float) -> None:
        self._settings = settings
        self._gpus = GpuWatch(gpus)
        self._deadline_s = deadline_s
        self._weights = WeightsWatch(settings.weights)
        self._models: tuple[ModelId, ...] = ()
        #: Where the node says that it keeps files; asked for once.
        self._files: tuple[Path, ...] | None = None
        self._node: NodeClient

    async def __aenter__(self) -> Self:
        self._node = NodeClient(
            self._settings.node, self._settings.local, connect_timeout_s=self._deadline_s
        )
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._node.close()

    async def report(self, acks: Sequence[CommandAck] = ()) -> AgentReport:
        """A fresh report that carries `acks`."""
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(self._ask_node(), name="node")
            readings = await self._gpus.read(self._deadline_s)
        reason = asked.result()
        if not reason and self._files is None:
            self._files = await self._ask_for_files()
        return AgentReport(
            node=self._settings.node,
            agent_version=__version__,
            can_restart=bool(self._settings.restart),
            node_ok=not reason,
            node_reason=reason,
            gpus=list(readings.gpus),
            gpu_reason=readings.reason,
            ram_total_mib=_ram_mib(),
            weights=self._weights.latest(self._models, self._files or ()),
            acks=list(acks),
        )

    async def _ask_for_files(self) -> tuple[Path, ...]:
        """Where the node keeps what it fetched, as far as it says."""
        said = None
        with contextlib.suppress(NodeError, TimeoutError):
            async with asyncio.timeout(self._deadline_s):
                said = (await self._node.system_info()).files_path
        return (Path(said),) if said and said.startswith("/") else ()

    async def _ask_node(self) -> str:
        """Why the local node does not answer; "" when it does."""
        try:
            async with asyncio.timeout(self._deadline_s):
                self._models = tuple((await self._node.list_models()).models)
        except NodeError as exc:
            return exc.message
        except TimeoutError:
            return f"{self._settings.node}: no answer within {self._deadline_s:g} s"
        return ""


def _ram_mib() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
    except (OSError, ValueError):
        return None
