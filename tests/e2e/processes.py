"""The command and its nodes as processes of their own, spoken to over real sockets and signals."""

import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.command import CORTEX, ROOT, SOURCE
from tests.running import free_ports

START_S = 20.0
UNTRUSTING = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
"""Nobody out there is asked: aiohttp reads the machine's certificates at its import, a sixth of a start."""
END_S = 20.0


def eventually(holds: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Wait until `holds`; fails naming `what` at the deadline."""
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    url: str,
    body: Any = None,
    timeout_s: float = 20.0,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One request, whatever its status; a POST when there is a body."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, headers), timeout=timeout_s
        ) as response:
            return Reply(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, dict(error.headers), error.read())


def chat_body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]} | more


class Stream:
    """A streamed chat that is read when the test says so."""

    def __init__(self, port: int, model: str, **more: Any) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        body = json.dumps(chat_body(model, stream=True, **more))
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", body, headers)
        self._response = self._connection.getresponse()
        self._unread = b""
        self.events: list[str] = []
        self.cut = False
        """The connection ended before HTTP said that the answer was complete."""
        self.status = self._response.status

    def read(self) -> str | None:
        """The next event; None at the end, however it came."""
        while True:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                if line.startswith(b"data: "):
                    self.events.append(line[6:].decode())
                    return self.events[-1]
                continue
            try:
                data = self._response.read1()
            except (http.client.IncompleteRead, ConnectionError):
                self.cut = True
                return None
            if not data:
                return None
            self._unread += data

    def rest(self) -> list[str]:
        """Every event, read to the end."""
        while self.read() is not None:
            pass
        return self.events

    def close(self) -> None:
        self._response.close()
        self._connection.close()


@dataclass
class Child:
    """One process; its output goes to files, so that nothing ever blocks on a pipe."""

    process: "subprocess.Popen[bytes]"
    out: Path
    err: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdout(self) -> str:
        return self.out.read_text()

    @property
    def stderr(self) -> str:
        return self.err.read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log lines, each an object; not one that is just being written."""
        whole = self.stderr.rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, unless it has ended already."""
        self.process.kill()
        self.process.wait(END_S)

    def end(self, timeout_s: float = END_S) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(timeout_s)


@dataclass
class Gateway(Child):
    """A running `cortex serve`."""

    port: int
    source: Path
    streams: list[Stream] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        """Whether it is; fails where it has ended."""
        assert self.process.poll() is None, self.stderr
        try:
            return request(self.url + "/ready").status == 200
        except OSError:
            return False

    def chat(self, model: str, **more: Any) -> Reply:
        return request(self.url + "/v1/chat/completions", chat_body(model, **more))

    def stream(self, model: str, **more: Any) -> Stream:
        self.streams.append(Stream(self.port, model, **more))
        return self.streams[-1]

    def events(self, kind: str) -> list[Any]:
        """Oldest first."""
        rows = request(f"{self.url}/cortex/v1/events?kind={kind}&limit=1000").json["rows"]
        return list(rows[::-1])

    def models(self) -> list[Any]:
        """Every (node, model) of the status."""
        nodes = request(self.url + "/cortex/v1/status").json["nodes"]
        return [model for node in nodes for model in node["models"]]


@dataclass
class Processes:
    """All that one test starts, so that all of it ends with the test."""

    folder: Path
    children: list[Child] = field(default_factory=list)
    gateways: list[Gateway] = field(default_factory=list)
    prefix: tuple[str, ...] = ()
    """What the next processes are started through: `ip netns exec …` and the like."""

    def spawn(self, *argv: str, environ: Mapping[str, str] | None = None) -> Child:
        """`python argv…`, with this source at hand."""
        found = UNTRUSTING | {"PYTHONPATH": str(ROOT)}
        return self._start((sys.executable, *argv), found | dict(environ or {}))

    def command(self, *argv: str, environ: Mapping[str, str] | None = None) -> Child:
        """`cortex argv…`."""
        return self._start((*CORTEX, *argv), UNTRUSTING | SOURCE | dict(environ or {}))

    def program(self, *argv: str, environ: Mapping[str, str] | None = None) -> Child:
        """Somebody else's."""
        return self._start(argv, dict(environ or {}))

    def _start(self, argv: tuple[str, ...], environ: Mapping[str, str]) -> Child:
        out = self.folder / f"{len(self.children)}.out"
        err = self.folder / f"{len(self.children)}.err"
        clean = {name: v for name, v in os.environ.items() if not name.startswith("CORTEX_")}
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                [*self.prefix, *argv],
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
                cwd=self.folder,
                env=clean | environ,
            )
        child = Child(process, out, err)
        self.children.append(child)
        return child

    def cortex(self, *argv: str) -> Child:
        """A command that ends by itself."""
        child = self.command(*argv)
        child.end()
        return child

    def node(self, *models: str, unloaded: tuple[str, ...] = (), **knobs: Any) -> str:
        """The URL of a scripted node, once it listens."""
        argv = [part for model in models for part in ("--model", model)]
        argv += [part for model in unloaded for part in ("--unloaded", model)]
        argv += ["--knobs", json.dumps({"info_delay_s": 0.0} | knobs)]
        return self.listening("scripted", *argv)

    def listening(
        self, *argv: str, environ: Mapping[str, str] | None = None, within_s: float = START_S
    ) -> str:
        """The URL of `python -m cortex.devnode argv…`, once it listens."""
        child = self.spawn("-m", "cortex.devnode", *argv, environ=environ)

        def said() -> list[str]:
            lines = child.stdout.splitlines()
            return [line.split()[1] for line in lines if line.startswith("listening ")]

        eventually(lambda: bool(said()) or child.process.poll() is not None, "a node", within_s)
        assert said(), child.stderr
        return said()[0]

    def write(
        self, *nodes: str, toml: str = "", node_toml: str = "", port: int | None = None
    ) -> tuple[Path, int]:
        """A `cortex.toml` for the nodes at these URLs, named n0, n1…; returns its port too."""
        ours, metrics = free_ports(2)
        port = port or ours
        tables = {
            "state": f'path = "{self.folder / "cortex.db"}"',
            "polling": "interval_s = 0.2\ntimeout_s = 2.0",
        }
        text = (
            f'[gateway]\nlisten = "127.0.0.1:{port}"\nmetrics_listen = "127.0.0.1:{metrics}"\n'
        )
        text += "".join(f"[{k}]\n{v}\n" for k, v in tables.items() if f"[{k}]" not in toml)
        text += toml + "\n"
        for index, url in enumerate(nodes):
            text += f'[[nodes]]\nname = "n{index}"\nendpoint = "{url}"\n'
            text += f"{node_toml}\n" if node_toml else ""
        source = self.folder / "cortex.toml"
        source.write_text(text)
        return source, port

    def serve(
        self, *nodes: str, toml: str = "", node_toml: str = "", **environ: str
    ) -> Gateway:
        """`cortex serve` over the nodes at these URLs, once it is ready."""
        return self.serve_file(*self.write(*nodes, toml=toml, node_toml=node_toml), **environ)

    def serve_file(self, source: Path, port: int, **environ: str) -> Gateway:
        """`cortex serve --config source`, once it is ready."""
        child = self.command("serve", "--config", str(source), environ=environ)
        gateway = Gateway(child.process, child.out, child.err, port, source)
        self.gateways.append(gateway)

        eventually(gateway.is_ready, "a gateway", START_S)
        return gateway

    def end(self) -> None:
        """Close every stream and kill whatever still runs, by pid."""
        for stream in [stream for gateway in self.gateways for stream in gateway.streams]:
            stream.close()
        for child in reversed(self.children):
            child.kill()
