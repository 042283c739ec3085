"""The gateways that are compared: how each is installed, started, asked and ended."""

import http.client
import json
import os
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench import machine

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
PEERS = BENCH / "peers"
VENVS = Path(sys.prefix) / "peers"
KEY = "sk-bench-0123456789abcdef"
MODEL = "bench"
INSTALL_S = 600
END_S = 5.0


class UnavailableError(Exception):
    """A peer that cannot take part, and why."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One gateway. In `argv`, `environ` and `config`, ${...} stands for what `Running` fills in."""

    name: str
    about: str
    argv: tuple[str, ...] = ()
    config: str | None = None
    headers: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    venv: str | None = None
    packages: tuple[str, ...] = ()
    program: str | None = None
    start_s: float = 30.0
    #: Seconds to open 1,000 streams in; a slow gateway needs more than a quick one.
    ramp_s: float = 2.0
    translates: bool = False


def _dependencies() -> tuple[str, ...]:
    """What the product needs, without its extras."""
    return tuple(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    )


CORTEX_ARGV = ("-m", "cortex", "serve", "--config", "${config}")
ROUTER_ARGV = (
    *("--host", "127.0.0.1", "--port", "${port}", "--worker-urls", "${node}"),
    *("--policy", "round_robin", "--log-level", "error"),
    *("--prometheus-host", "127.0.0.1", "--prometheus-port", "${metrics_port}"),
)

KINDS = {
    kind.name: kind
    for kind in (
        Kind(name="direct", about="no gateway: the load asks the node itself"),
        Kind(
            name="cortex",
            about="the product, with the speed extra",
            argv=(sys.executable, *CORTEX_ARGV),
            config="cortex.toml",
            headers=(f"Authorization: Bearer {KEY}",),
            environ={"PYTHONPATH": str(ROOT)},
            translates=True,
        ),
        Kind(
            name="cortex-plain",
            about="the product, without the speed extra",
            argv=("${python}", *CORTEX_ARGV),
            config="cortex.toml",
            headers=(f"Authorization: Bearer {KEY}",),
            environ={"PYTHONPATH": str(ROOT)},
            venv="plain",
            packages=_dependencies(),
            translates=True,
        ),
        Kind(
            name="aiohttp",
            about="a bare aiohttp proxy on asyncio",
            argv=("${python}", str(PEERS / "aiohttp_proxy.py"), "${port}", "${node}"),
            venv="aiohttp",
            packages=("aiohttp", "uvloop"),
        ),
        Kind(
            name="aiohttp-uvloop",
            about="the same on uvloop",
            argv=("${python}", str(PEERS / "aiohttp_proxy.py"), "${port}", "${node}", "uvloop"),
            venv="aiohttp",
            packages=("aiohttp", "uvloop"),
        ),
        Kind(
            name="nginx",
            about="nginx, one worker",
            argv=(
                "${program}",
                "-p",
                "${folder}",
                "-e",
                "${folder}/start.log",
                "-c",
                "${config}",
            ),
            config="nginx.conf",
            program="nginx",
        ),
        Kind(
            name="haproxy",
            about="HAProxy, one thread",
            argv=("${program}", "-db", "-f", "${config}"),
            config="haproxy.cfg",
            program="haproxy",
        ),
        Kind(
            name="sglang-router",
            about="sglang-router (Rust)",
            argv=("${python}", "-m", "sglang_router.launch_router", *ROUTER_ARGV),
            venv="sglang",
            packages=("sglang-router",),
        ),
        Kind(
            name="vllm-router",
            about="vllm-router (Rust)",
            argv=("${bin}/vllm-router", *ROUTER_ARGV),
            venv="vllm",
            packages=("vllm-router",),
        ),
        Kind(
            name="litellm",
            about="LiteLLM proxy, one worker",
            argv=(
                *("${bin}/litellm", "--config", "${config}", "--num_workers", "1"),
                *("--host", "127.0.0.1", "--port", "${port}"),
            ),
            config="litellm.yaml",
            headers=(f"Authorization: Bearer {KEY}",),
            environ={
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_LOG": "ERROR",
                "LITELLM_TELEMETRY": "False",
                "NO_DOCS": "True",
            },
            venv="litellm",
            packages=("litellm[proxy]",),
            start_s=90.0,
            ramp_s=20.0,
            translates=True,
        ),
    )
}


def install(kind: Kind, say: Callable[[str], None]) -> None:
    """Have what a gateway needs.

    Raises:
        UnavailableError: It cannot be had here.
    """
    if kind.program and not _program(kind.program):
        raise UnavailableError(f"{kind.program} is not installed")
    if not kind.venv or (done := VENVS / kind.venv / ".installed").exists():
        return
    say(f"installing {' '.join(kind.packages)} in {done.parent}")
    python = done.parent / "bin/python"
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    for argv in (
        (sys.executable, "-m", "venv", str(done.parent)),
        (str(python), *pip, "--only-binary", ":all:", *kind.packages),
    ):
        try:
            ran = subprocess.run(
                argv, check=False, capture_output=True, text=True, timeout=INSTALL_S
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"its installation took more than {INSTALL_S} s") from None
        if ran.returncode:
            reason = (ran.stderr or ran.stdout).strip().splitlines()
            raise UnavailableError(reason[-1][:200] if reason else "pip failed")
    done.touch()


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def versions(kind: Kind) -> dict[str, str]:
    """What is installed of the packages that this peer is."""
    if not kind.venv or kind.name.startswith("cortex"):
        return {}
    names = [package.partition("[")[0] for package in kind.packages]
    code = (
        "import sys, json; from importlib.metadata import version;"
        "print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
    )
    python = str(VENVS / kind.venv / "bin/python")
    ran = subprocess.run(
        [python, "-c", code, *names], capture_output=True, text=True, check=True
    )
    return dict(json.loads(ran.stdout))


def free_ports(count: int) -> list[int]:
    """Ports nobody uses just now; different ones, since all are held until the last is found."""
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def post(
    port: int, path: str, body: object, headers: Mapping[str, str], timeout_s: float
) -> int:
    """The status of one request; an OSError when there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        sent = {"Content-Type": "application/json"} | dict(headers)
        connection.request("POST", path, json.dumps(body), sent)
        response = connection.getresponse()
        response.read()
        return response.status
    except http.client.HTTPException as exc:
        raise OSError(str(exc)) from exc
    finally:
        connection.close()


class Running:
    """A gateway as a process of its own group; `first_answer_s` and `ready_s` count from exec."""

    def __init__(self, kind: Kind, node_port: int, folder: Path, core: int | None) -> None:
        self.kind = kind
        self.port, metrics_port = free_ports(2)
        self.first_answer_s: float | None = None
        self.ready_s: float | None = None
        self.process: subprocess.Popen[bytes] | None = None
        if not kind.argv:
            self.port = node_port
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "output"
        words = {
            "port": str(self.port),
            "metrics_port": str(metrics_port),
            "node": f"http://127.0.0.1:{node_port}",
            "node_address": f"127.0.0.1:{node_port}",
            "folder": str(folder),
            "key": KEY,
            "config": str(folder / (kind.config or "")),
            "program": _program(kind.program) or "" if kind.program else "",
            "bin": str(VENVS / (kind.venv or "") / "bin"),
            "python": str(VENVS / (kind.venv or "") / "bin/python"),
        }
        if kind.config:
            text = string.Template((PEERS / kind.config).read_text()).substitute(words)
            (folder / kind.config).write_text(text)
        argv = [string.Template(part).substitute(words) for part in kind.argv]
        self._start(argv, folder, core)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    @property
    def headers(self) -> dict[str, str]:
        return dict(header.split(": ", 1) for header in self.kind.headers)

    def _start(self, argv: list[str], folder: Path, core: int | None) -> None:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CORTEX_")}
        environ |= {**self.kind.environ, "NOTIFY_SOCKET": str(folder / "notify")}
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
            self._log.open("wb") as log,
        ):
            notified.bind(environ["NOTIFY_SOCKET"])
            notified.setblocking(False)
            began_s = time.monotonic()
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                cwd=folder,
                start_new_session=True,
                preexec_fn=lambda: machine.pin(core),
            )
            try:
                self._await_start(notified, began_s)
            except BaseException:
                self.end()
                raise

    def _await_start(self, notified: socket.socket, began_s: float) -> None:
        """Ask until the first 200. Only the product says READY, and it does so before or soon after."""
        says_ready = self.kind.name.startswith("cortex")
        while self.first_answer_s is None or (says_ready and self.ready_s is None):
            elapsed_s = time.monotonic() - began_s
            if self.ready_s is None and _told_ready(notified):
                self.ready_s = elapsed_s
            if self.first_answer_s is None and self.ask() == 200:
                self.first_answer_s = time.monotonic() - began_s
            if self.process and self.process.poll() is not None:
                raise UnavailableError(
                    f"it ended with {self.process.returncode}: {self._last_words()}"
                )
            if elapsed_s > self.kind.start_s:
                raise UnavailableError(
                    f"no answer in {self.kind.start_s:g} s: {self._last_words()}"
                )
            time.sleep(0.002)

    def ask(self) -> int:
        """The status of one small question; 0 when there is no answer."""
        question = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
        try:
            return post(self.port, "/v1/chat/completions", question, self.headers, 5.0)
        except OSError:
            return 0

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it said nothing"

    def end(self) -> None:
        """End it and all it started, by pid."""
        if self.process is None:
            return
        pids = machine.tree(self.process.pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids:
                _signal(pid, number)
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                continue
            break
        for pid in pids[1:]:
            _signal(pid, signal.SIGKILL)
        self.process = None


def _told_ready(notified: socket.socket) -> bool:
    try:
        return b"READY=1" in notified.recv(4096)
    except BlockingIOError:
        return False


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
