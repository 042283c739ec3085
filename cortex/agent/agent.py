"""The agent's loop: report, act on the reply, wait. A lost gateway is tried for ever."""

import asyncio
import contextlib
import logging
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from cortex import __version__
from cortex.agent import restart
from cortex.agent.commands import Acks, Answer, CarryOut, Leave, Standing, judge
from cortex.agent.gpus import GpuReader
from cortex.agent.memory import Memory
from cortex.agent.observe import Observer
from cortex.agent.settings import LONGEST_S, SHORTEST_S, Settings
from cortex.agent.threads import DaemonThreads
from cortex.agent.uplink import NoReply, Pace, Uplink
from cortex.agentapi import AgentCommand, AgentReply, AgentReport, CommandAck
from cortex.telemetry import logs, sdnotify

log = logging.getLogger("cortex.agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every deadline of the agent."""

    observe_s: float = 3.0
    """For the local node and for the GPUs, side by side."""
    post_s: float = 10.0
    restart_s: float = 60.0
    pace: Pace = field(default_factory=Pace)


def run(settings: Settings, environ: Mapping[str, str] = os.environ) -> int:
    """Report until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigError: The state directory cannot be used, or the log not be written as it is wanted.
    """
    logs.configure(environ)
    with Memory(settings.state_dir) as memory, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(Agent(settings, memory).serve())
    return 0


async def once(
    settings: Settings, *, gpus: GpuReader | None = None, limits: Limits | None = None
) -> tuple[AgentReport, AgentReply | NoReply]:
    """Post one report. Commands in the reply are neither carried out nor acknowledged."""
    limits = limits or Limits()
    observer = Observer(settings, gpus or _gpu_reader(settings), deadline_s=limits.observe_s)
    uplink = Uplink(settings.gateway, settings.token_file, timeout_s=limits.post_s)
    async with observer, uplink:
        report = await observer.report()
        return report, await uplink.post(report)


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop that can end while a driver or a name server hangs."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(DaemonThreads())
    return loop


def _gpu_reader(settings: Settings) -> GpuReader:
    return GpuReader(only=settings.gpus, as_cuda_counts=settings.gpus_as_cuda_counts)


class Agent:
    """One running agent."""

    def __init__(
        self,
        settings: Settings,
        memory: Memory,
        *,
        gpus: GpuReader | None = None,
        limits: Limits | None = None,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._limits = limits or Limits()
        self._fraction = fraction
        self._observer = Observer(
            settings, gpus or _gpu_reader(settings), deadline_s=self._limits.observe_s
        )
        self._uplink = Uplink(
            settings.gateway, settings.token_file, timeout_s=self._limits.post_s
        )
        self._acks = Acks()
        self._stop = asyncio.Event()
        self._group: asyncio.TaskGroup
        self._command: asyncio.Task[None] | None = None
        self._running: str | None = None
        """Id of the command under way; set before its task first runs."""
        self._begun_s = 0.0
        self._failures = 0
        self._trouble = ""
        """`lost`, `refused`, or "" while reports are answered."""
        self._met = False
        """Whether the gateway ever answered this agent."""

    async def serve(self) -> None:
        """Report until `stop`, then end at once. A restart under way is left to itself."""
        self._begun_s = asyncio.get_running_loop().time()
        async with self._observer, self._uplink, asyncio.TaskGroup() as self._group:
            loops = [
                self._group.create_task(self._report_on(), name="reports"),
                self._group.create_task(self._feed_watchdog(), name="watchdog"),
            ]
            with self._signals():
                fields = {"version": __version__, "node": self._settings.node}
                log.info("agent started", extra={"fields": fields})
                sdnotify.notify("READY=1", f"STATUS=Looking for {self._settings.gateway}")
                await self._stop.wait()
            sdnotify.notify("STOPPING=1")
            for task in (*loops, *([self._command] if self._command else [])):
                task.cancel()
        log.info("agent stopped", extra={"fields": {"left_running": self._running}})

    def stop(self) -> None:
        """End `serve`."""
        self._stop.set()

    async def _report_on(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun_s = loop.time()
            report = await self._observer.report(self._acks.pending())
            posted_s = loop.time()
            answer = await self._uplink.post(report)
            if isinstance(answer, NoReply):
                await asyncio.sleep(self._lost(answer))
                continue
            self._found()
            self._acks.arrived(report.acks)
            self._act(answer, taken_s=loop.time() - posted_s)
            wanted_s = min(LONGEST_S, max(SHORTEST_S, answer.interval_s))
            interval_s = self._settings.interval_s or wanted_s
            await asyncio.sleep(begun_s + interval_s - loop.time())

    def _act(self, reply: AgentReply, *, taken_s: float) -> None:
        """Judge and begin with no await in between, so that two replies cannot begin two."""
        for command in reply.commands:
            match judge(command, self._standing(taken_s)):
                case CarryOut(command):
                    self._running = command.id
                    latest_s = command.max_age_s - command.age_s - taken_s
                    self._command = self._group.create_task(
                        self._carry_out(command, spare_s=latest_s), name="command"
                    )
                case Answer(ack):
                    self._answer(ack)
                case Leave():
                    pass
                case never:
                    assert_never(never)

    def _standing(self, taken_s: float) -> Standing:
        lived_s = asyncio.get_running_loop().time() - self._begun_s
        return Standing(
            past=self._memory.entries,
            running=self._running,
            can_restart=bool(self._settings.restart),
            taken_s=taken_s,
            memory_s=None if self._memory.complete else lived_s,
        )

    async def _carry_out(self, command: AgentCommand, *, spare_s: float) -> None:
        """Write it down, run it, write down how it went. Returns failures, raises none."""
        fields = {"id": command.id, "action": command.action}
        log.info("command begun", extra={"fields": fields})
        outcome = await self._restart(command.id, spare_s)
        try:
            await asyncio.to_thread(
                self._memory.end, command.id, ok=outcome.ok, detail=outcome.detail
            )
        except OSError as exc:
            log.warning(
                "outcome not written down", extra={"fields": {"reason": exc.strerror, **fields}}
            )
        self._running = None
        self._answer(CommandAck(id=command.id, ok=outcome.ok, detail=outcome.detail))

    async def _restart(self, command_id: str, spare_s: float) -> restart.Outcome:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        try:
            await asyncio.to_thread(self._memory.begin, command_id)
        except OSError as exc:
            why = f"not carried out: it cannot be written down first: {exc.strerror}"
            return restart.Outcome(ok=False, detail=why)
        if loop.time() - begun_s > spare_s:
            why = "not carried out: too old by the time it was written down"
            return restart.Outcome(ok=False, detail=why)
        return await restart.run(
            self._settings.restart, os.environ, deadline_s=self._limits.restart_s
        )

    def _answer(self, ack: CommandAck) -> None:
        if ack not in self._acks.pending():
            level = logging.INFO if ack.ok else logging.WARNING
            log.log(level, "command answered", extra={"fields": ack.model_dump()})
        self._acks.add(ack)

    def _lost(self, answer: NoReply) -> float:
        """Note that a report was not answered; returns how long to wait. Logs changes only."""
        trouble = "refused" if answer.refused else "lost"
        if trouble != self._trouble:
            level = logging.ERROR if answer.refused else logging.WARNING
            text = "gateway refuses this agent" if answer.refused else "gateway lost"
            fields = {"gateway": self._settings.gateway, "reason": answer.reason}
            log.log(level, text, extra={"fields": fields})
            sdnotify.notify(f"STATUS={text.capitalize()}: {answer.reason}")
            self._failures = 0
        self._trouble = trouble
        self._failures += 1
        pace = self._limits.pace
        if answer.refused:
            return pace.slow_s(self._fraction())
        return pace.wait_s(self._failures, self._fraction())

    def _found(self) -> None:
        if self._trouble or not self._met:
            fields = {"gateway": self._settings.gateway}
            text = "gateway back" if self._met else "gateway found"
            log.info(text, extra={"fields": fields})
            sdnotify.notify(f"STATUS=Reporting to {self._settings.gateway}")
        self._met, self._trouble, self._failures = True, "", 0

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end `serve`."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def _feed_watchdog(self) -> None:
        """Tell systemd that the loop turns; a stuck loop cannot."""
        interval_s = sdnotify.watchdog_interval_s()
        while interval_s is not None:
            sdnotify.notify("WATCHDOG=1")
            await asyncio.sleep(interval_s)
