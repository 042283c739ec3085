"""The measurements: each asks one gateway for something and returns flat figures.

Times are in microseconds unless the name says otherwise. CPU is that of the gateway alone, taken over
the measured seconds only.
"""

import json
import os
import resource
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import machine
from bench.gateways import MODEL, Running

BUILD = Path(__file__).parent / ".build"
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
NOISE_CORES = 0.15
"""A measurement that others disturbed by more than this is taken once more."""
BEGUN = b"measuring\n"
"""What a load says when it begins to."""
SLACK_S = 20.0
"""What a load may take beyond its own time before it is killed."""

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Pace:
    """How long a measurement takes."""

    seconds: float = 4.0
    warmup_s: float = 0.7
    ramp_s: float = 1.0
    patience_s: float = 10.0
    again: int = 1


@dataclass
class Load:
    """One running load generator."""

    process: "subprocess.Popen[str]"
    lead_s: float
    """Until it measures, at most."""
    seconds: float

    def await_begin(self) -> None:
        """Until it measures, or has ended; past the buffer of `process`, which `result` reads."""
        assert self.process.stdout is not None
        os.read(self.process.stdout.fileno(), len(BEGUN))

    def result(self) -> dict[str, Any]:
        try:
            out, _ = self.process.communicate(timeout=self.lead_s + self.seconds + SLACK_S)
        finally:
            self.process.kill()
        if self.process.returncode:
            raise RuntimeError(f"the load generator ended with {self.process.returncode}")
        return dict(json.loads(out.splitlines()[-1]))


@dataclass
class Stand:
    """What every measurement needs: the node, the cores, the pace."""

    node_port: int
    cores: machine.Cores
    pace: Pace
    loads: list[Load] = field(default_factory=list)

    def node(self, **wanted: int) -> dict[str, int]:
        """Set the node's pace; its counters."""
        query = "&".join(f"{name}={value}" for name, value in wanted.items())
        url = f"http://127.0.0.1:{self.node_port}/bench?{query}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return dict(json.load(response))

    def load(
        self,
        gateway: Running,
        *options: object,
        path: str = CHAT,
        ramp_s: float = 0.0,
        wait_s: float = 0.0,
        seconds: float | None = None,
        nice: int = 0,
    ) -> Load:
        """Start a load; it measures after its warm-up, its ramp, and at most `wait_s` for all held streams."""
        seconds = seconds or self.pace.seconds
        argv = [BUILD / "load", "--url", f"http://127.0.0.1:{gateway.port}{path}"]
        argv += ["--model", MODEL, "--seconds", seconds, "--warmup", self.pace.warmup_s]
        argv += ["--ramp", ramp_s, "--patience", wait_s]
        argv += [*(["--anthropic"] if path == MESSAGES else []), *options]
        for name, value in gateway.headers.items():
            argv += ["--header", f"{name}: {value}"]

        def place() -> None:
            machine.pin(self.cores.load)
            os.nice(nice)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

        # An interruption waits until `end` knows of the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process = subprocess.Popen(
                [str(part) for part in argv],
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=place,
            )
            self.loads.append(Load(process, self.pace.warmup_s + ramp_s + wait_s, seconds))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return self.loads[-1]

    def cpu_share(self, gateway: Running, load: Load) -> float | None:
        """CPU of the gateway over wall time, while the load measures; None without a gateway."""
        load.await_begin()
        if gateway.pid is None:
            return None
        began_s, before_s = time.monotonic(), machine.cpu_s([gateway.pid])
        # A little less than what the load measures, so that its end is not part of it.
        time.sleep(0.95 * load.seconds)
        used_s = machine.cpu_s([gateway.pid]) - before_s
        return used_s / (time.monotonic() - began_s)

    def settle(self, gateway: Running) -> None:
        """Let a gateway come to rest: some go on with streams whose clients are gone."""
        end_s = time.monotonic() + self.pace.patience_s
        own = [gateway.pid] if gateway.pid else []
        while time.monotonic() < end_s:
            before_s = machine.cpu_s(own)
            time.sleep(0.1)
            if self.node()["active"] == 0 and machine.cpu_s(own) - before_s < 0.02:
                break
        machine.wait_quiet(
            [os.getpid()], busy_below=NOISE_CORES, patience_s=self.pace.patience_s
        )

    def end(self) -> None:
        for load in self.loads:
            load.process.kill()
            load.process.wait()
        self.loads.clear()


Test = Callable[[Stand, Running], Figures]


def take(stand: Stand, gateway: Running, test: Test, *, again: bool) -> Figures:
    """Measure once, and once more where the machine was busy; the calmer figures stay."""
    best: Figures = {}
    for _ in range(1 + (stand.pace.again if again else 0)):
        stand.settle(gateway)
        # A whole answer may be a stream on the node's side, so no pause of the last case may stay.
        stand.node(pause_us=0)
        noise, ended_s = machine.Noise([os.getpid()]), _cpu_of_ended_s()
        try:
            figures = test(stand, gateway)
        finally:
            stand.end()
        noisy = noise.cores(_cpu_of_ended_s() - ended_s)
        if not best or noisy < (best["noise"] or 0):
            best = {**figures, "noise": noisy}
        if noisy < NOISE_CORES:
            break
    return best


def _cpu_of_ended_s() -> float:
    """CPU time of the load generators that have come and gone."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
