"""mistral.rs's engine behind the `Engine` protocol: one child process per resident model."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from cortex.devnode.engine import (
    Ask,
    Device,
    End,
    Json,
    LoadFailedError,
    Piece,
    Reasoning,
    ToolCall,
    Usage,
)
from cortex.devnode.errors import AskRefusedError, EngineFailedError, WrongCategoryError
from cortex.devnode.knobs import Knobs
from cortex.devnode.scripted_engine import prompt_of

CHILD: Final = Path(__file__).with_name("engine_child.py")
GONE: Final[Json] = {"failed": "the engine's process ended"}


class Lines(asyncio.SubprocessProtocol):
    """Splits a child's output into objects and hands each to whoever waits for it."""

    def __init__(self) -> None:
        self._rest = b""
        self.first: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self.waiting: dict[int, asyncio.Queue[Json]] = {}
        self.ended = asyncio.Event()

    def pipe_data_received(self, _fd: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "id" not in said:
                self._begin(said)
            elif said["id"] in self.waiting:
                self.waiting[said["id"]].put_nowait(said)

    def process_exited(self) -> None:
        self.ended.set()
        self._begin(GONE)
        for waiting in self.waiting.values():
            waiting.put_nowait(GONE)

    def _begin(self, said: Json) -> None:
        if not self.first.done():
            self.first.set_result(said)


class Process:
    """One child: sends orders, yields what comes back."""

    def __init__(self, transport: asyncio.SubprocessTransport, lines: Lines) -> None:
        self._transport = transport
        self._lines = lines
        self._orders = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
        self._count = 0
        self.pid = transport.get_pid()

    async def ready(self) -> None:
        """Wait for the model. Raises `LoadFailedError`."""
        said = await self._lines.first
        if "ready" not in said:
            raise LoadFailedError(said["failed"])

    def kill(self) -> None:
        """End it; the kernel takes the memory back with the process."""
        self._transport.close()

    async def gone(self) -> None:
        """Wait until the process has ended."""
        await self._lines.ended.wait()

    def _order(self, **fields: object) -> None:
        if not self._lines.ended.is_set():
            self._orders.write(json.dumps(fields).encode() + b"\n")

    async def ask(self, **fields: object) -> AsyncGenerator[Json, None]:
        """Send one order and yield its lines, the last included; closing early cancels it."""
        self._count += 1
        number = self._count
        answers: asyncio.Queue[Json] = asyncio.Queue()
        self._lines.waiting[number] = answers
        if self._lines.ended.is_set():
            answers.put_nowait(GONE)
        finished = False
        try:
            self._order(id=number, **fields)
            while not finished:
                said = await answers.get()
                finished = not ("text" in said or "reasoning" in said)
                _raise_if_failed(said)
                yield said
        finally:
            del self._lines.waiting[number]
            if not finished:
                self._order(id=number, op="cancel")


def _raise_if_failed(said: Json) -> None:
    if "refused" in said:
        raise AskRefusedError(said["refused"])
    if "failed" in said:
        raise EngineFailedError(said["failed"])


class RealEngine:
    """Satisfies `engine.Engine`. Owns the child processes."""

    def __init__(
        self, ggufs: Mapping[str, str], *, knobs: Knobs, python: str, say: Callable[[str], None]
    ) -> None:
        """Describe it; nothing runs yet.

        Args:
            ggufs: File by model id; several ids may share a file.
            knobs: Only `load_fail` and the delays of the routes mean anything here.
            python: Interpreter that has the `mistralrs` wheel.
            say: Takes one line of progress.
        """
        self._ggufs = ggufs
        self._knobs = knobs
        self._python = python
        self._say = say
        self._children: dict[str, Process] = {}
        self._leaving: set[Process] = set()

    async def start(self, resident: Sequence[str]) -> None:
        for model in resident:
            await self.load(model)

    async def close(self) -> None:
        for model in tuple(self._children):
            self.unload(model)
        # A child may outlive its kill by a moment, and its end must be seen by this loop.
        for child in tuple(self._leaving):
            await child.gone()
            self._leaving.discard(child)

    async def load(self, model: str) -> None:
        fail = self._knobs.take_load_failure(model)
        if fail is not None:
            raise LoadFailedError(fail)
        self._say(f"loading {model}")
        began_s = time.monotonic()
        loop = asyncio.get_running_loop()
        # More threads than idle cores slow this engine down by an order of magnitude.
        environment = os.environ | {"RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        transport, lines = await loop.subprocess_exec(
            Lines,
            *(self._python, "-P", str(CHILD), self._ggufs[model]),
            env=environment,
            stderr=asyncio.subprocess.DEVNULL,
        )
        child = Process(transport, lines)
        try:
            await child.ready()
        except BaseException:
            self._kill(child)
            raise
        self._children[model] = child
        self._say(f"loaded {model} {time.monotonic() - began_s:.1f} s")

    def unload(self, model: str) -> None:
        child = self._children.pop(model, None)
        if child is not None:
            self._kill(child)

    def _kill(self, child: Process) -> None:
        child.kill()
        self._leaving.add(child)

    async def pieces(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        if ask.category != "text":
            raise WrongCategoryError
        child = self._child(ask.model)
        lines = child.ask(
            op="generate", kind=ask.kind, body=ask.body, max_tokens=ask.max_tokens
        )
        try:
            async for said in lines:
                yield _piece(said)
        finally:
            await lines.aclose()

    async def embed(self, model: str, inputs: Sequence[str]) -> tuple[list[list[float]], int]:
        # A text model has no embeddings: this fetches the engine's own words for that.
        async for _said in self._child(model).ask(op="embed", inputs=list(inputs)):
            pass
        raise EngineFailedError("no embedding came back")

    async def count_tokens(self, model: str, body: Json) -> int:
        text = prompt_of(Ask(kind="chat", model=model, body=body))
        async for said in self._child(model).ask(op="count", text=text):
            return int(said["count"])
        raise EngineFailedError("no count came back")

    def _child(self, model: str) -> Process:
        child = self._children.get(model)
        if child is None:
            raise EngineFailedError("the engine's process ended")
        return child

    def devices(self) -> Sequence[Device]:
        total, available = memory_bytes()
        return (Device(kind="cpu", name="CPU", total_bytes=total, available_bytes=available),)

    def processes(self) -> dict[str, int]:
        return {model: child.pid for model, child in self._children.items()}


def _piece(said: Json) -> Piece:
    if "text" in said:
        return str(said["text"])
    if "reasoning" in said:
        return Reasoning(said["reasoning"])
    end: dict[str, Any] = said["end"]
    return End(
        finish_reason=end["finish_reason"],
        usage=Usage(
            prompt_tokens=end["prompt_tokens"],
            completion_tokens=end["completion_tokens"],
            prompt_s=end["prompt_s"],
            completion_s=end["completion_s"],
        ),
        text=end["text"],
        tool_calls=tuple(ToolCall(**call) for call in end["tool_calls"]),
    )


def memory_bytes() -> tuple[int, int]:
    """(total, available) of the control group if it has a limit, else of the machine."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        return limit, max(0, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (
        int(rows[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable")
    )
    return total, available


def default_python() -> str:
    """The interpreter for children: `$CORTEX_ENGINE_PYTHON`, else this one."""
    return os.environ.get("CORTEX_ENGINE_PYTHON", sys.executable)
