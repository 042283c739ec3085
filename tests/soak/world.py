"""A real gateway, real nodes, and the hands that make things go wrong with them."""

import asyncio
import json
import signal
import socket
import sqlite3
import struct
import time
from pathlib import Path
from typing import Any

from tests.e2e.processes import Child, Gateway, Processes, eventually
from tests.running import free_ports
from tests.soak import plan
from tests.soak.load import EMBEDDER, MODELS, RIVER
from tests.soak.plan import Fault

NODES = ("n0", "n1", "n2")
"""Those that faults strike; a fourth has the model that never ends."""
RIVER_NODE = "n3"
IDLE_S = 6.0
LIMITS = f"""max_in_flight_per_model = {{in_flight}}
queue_timeout_s = 20.0
load_timeout_s = 15.0
connect_timeout_s = 2.0
idle_timeout_s = {IDLE_S}
drain_timeout_s = 5.0"""
STOP_S = 20.0
RESETS = 5


class World:
    """Owns the processes; `processes.end()` takes all of them away."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._folder = folder
        self._processes = processes
        self._ports = dict(zip((*NODES, RIVER_NODE), free_ports(len(NODES) + 1), strict=True))
        self._nodes: dict[str, Child] = {}
        self._listen, self._metrics_port = free_ports(2)
        self._reloads = 0
        self.database = folder / "cortex.db"
        self.url = f"http://127.0.0.1:{self._listen}"
        self.metrics_url = f"http://127.0.0.1:{self._metrics_port}"
        self.gateway: Gateway
        #: Ids of requests that the faults themselves made.
        self.asked: list[str] = []

    @property
    def node_ports(self) -> frozenset[int]:
        return frozenset(self._ports.values())

    def start(self) -> None:
        for name in self._ports:
            self._start_node(name)
        for name, node in self._nodes.items():
            eventually(lambda node=node: "listening " in node.stdout, f"node {name}", STOP_S)
        source = self._write()
        self.gateway = self._processes.serve_file(source, self._listen)

    def _start_node(self, name: str) -> None:
        sizes = {EMBEDDER: 512, RIVER: 512}
        models = (RIVER,) if name == RIVER_NODE else (*MODELS, EMBEDDER)
        argv = [part for m in models for part in ("--model", f"{m}:{sizes.get(m, 8192)}")]
        first = NODES.index(name) if name in NODES else 0
        for model in MODELS if name in NODES else ():
            if model != MODELS[first]:
                argv += ["--unloaded", model]
        knobs: dict[str, object] = {
            "vram_total_mib": 20_000,
            "load_s": 0.3,
            "info_delay_s": 0.0,
            "category": {EMBEDDER: "embedding"},
        }
        knobs |= {"endless": True} if name == RIVER_NODE else {"token_interval_s": 0.01}
        argv += ["--port", str(self._ports[name]), "--knobs", json.dumps(knobs)]
        self._nodes[name] = self._processes.spawn("-m", "cortex.devnode", "scripted", *argv)

    def _write(self) -> Path:
        limits = LIMITS.format(in_flight=16 + self._reloads % 2)
        text = (
            f'[gateway]\nlisten = "127.0.0.1:{self._listen}"\n'
            f'metrics_listen = "127.0.0.1:{self._metrics_port}"\n'
            f'[state]\npath = "{self.database}"\n'
            f"[polling]\ninterval_s = 0.5\ntimeout_s = 1.0\n[limits]\n{limits}\n"
        )
        for name, port in self._ports.items():
            text += f'[[nodes]]\nname = "{name}"\nendpoint = "http://127.0.0.1:{port}"\n'
        source = self._folder / "cortex.toml"
        source.write_text(text)
        return source

    async def strike(self, fault: Fault) -> None:
        """Let it happen, for as long as it lasts."""
        match fault.kind:
            case plan.KILL:
                await asyncio.to_thread(self._nodes[fault.node].kill)
                await asyncio.sleep(fault.length_s)
                self._start_node(fault.node)
            case plan.FREEZE:
                await self._freeze(self._nodes[fault.node], fault.length_s)
            case plan.RELOAD:
                self._reloads += 1
                self._write()
                self.gateway.send(signal.SIGHUP)
            case plan.RESET:
                for _ in range(RESETS):
                    await asyncio.to_thread(self._half_read, 0.0)
            case plan.UNREAD:
                await asyncio.to_thread(self._half_read, fault.length_s)
            case plan.LOCK:
                await asyncio.to_thread(self._lock, fault.length_s)
            case other:
                raise AssertionError(other)

    async def _freeze(self, node: Child, length_s: float) -> None:
        node.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(length_s)
        finally:
            node.send(signal.SIGCONT)

    def _half_read(self, wait_s: float) -> None:
        """Ask for what never ends, read its first bytes, then nothing; at last reset the connection."""
        request_id = f"soak-fault-{len(self.asked)}"
        self.asked.append(request_id)
        messages = [{"role": "user", "content": "hi"}]
        body = json.dumps({"model": RIVER, "stream": True, "messages": messages})
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: soak\r\nx-request-id: {request_id}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.socket() as client:
            # Before it connects, or the window is already the usual one.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(STOP_S)
            client.connect(("127.0.0.1", self._listen))
            client.sendall(head.encode() + body.encode())
            client.recv(512)
            time.sleep(wait_s)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _lock(self, length_s: float) -> None:
        other = sqlite3.connect(self.database, isolation_level=None, timeout=STOP_S)
        try:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(length_s)
            other.execute("ROLLBACK")
        finally:
            other.close()

    def logged(self) -> list[tuple[str, str, str | None]]:
        """(request id, outcome, error code) of every row of the request log."""
        rows = self._read("SELECT request_id, outcome, error_code FROM requests")
        return [(str(i), str(outcome), code) for i, outcome, code in rows]

    def events(self) -> list[dict[str, object]]:
        """What the gateway wrote down of its fleet, oldest first."""
        rows = self._read(
            "SELECT at_ms, kind, node, model, reason, detail FROM events ORDER BY id"
        )
        names = ("at_ms", "kind", "node", "model", "reason", "detail")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _read(self, query: str) -> list[Any]:
        other = sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True, timeout=STOP_S)
        try:
            return other.execute(query).fetchall()
        finally:
            other.close()

    def stop(self) -> int:
        """SIGTERM to the gateway; its exit code."""
        self.gateway.send(signal.SIGTERM)
        return self.gateway.end(STOP_S)
