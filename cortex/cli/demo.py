"""`cortex demo`: two nodes and a gateway on this machine, gone without a trace afterwards."""

import argparse
import importlib.util
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.status import Status

from cortex.cli.answer import Answer, Kind, hear
from cortex.cli.client import Client
from cortex.cli.demo_children import Child, Children, deaf, interruptible
from cortex.cli.endpoint import checked, reachable
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import CliError
from cortex.cli.tables import Screen
from cortex.cli.text import rate, safe, span

NODES = ("one", "two")
DEFAULT_PORT = 8000
START_S = 180.0
"""A real node loads a model; on a busy machine that takes its time."""
READY_S = 60.0
ASK_S = 1.0
"""Patience with somebody else's server on our port."""
LISTENING = "listening "
QUESTION = "Say in one sentence what a gateway is."
MAX_TOKENS = 32
KNOBS = {"first_token_s": 0.15, "token_interval_s": 0.03, "load_s": 2.0, "tokens": MAX_TOKENS}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the nodes run, and why."""

    prefix: str
    """Of the models' names: `-a`, `-b` and `-cold` follow."""
    verb: str
    why: str
    gguf: Path | None = None

    def argv(self, node: str) -> list[str]:
        """The command of one node: `one` holds a model, `two` another and a third on demand."""
        names = [f"{self.prefix}-a"] if node == "one" else [f"{self.prefix}-b", self.cold]
        argv = [sys.executable, "-m", "cortex.devnode", self.verb]
        for name in names:
            argv += ["--model", f"{name}={self.gguf}" if self.gguf else f"{name}:6000"]
        if node == "two":
            argv += ["--unloaded", self.cold]
        return argv if self.gguf else [*argv, "--knobs", json.dumps(KNOBS)]

    @property
    def cold(self) -> str:
        return f"{self.prefix}-cold"


def plan(*, scripted: bool) -> Plan:
    """Real nodes where the engine and a model are there."""
    from cortex.devnode.real import find_gguf

    gguf = None if scripted else find_gguf()
    engine = os.environ.get("CORTEX_ENGINE_PYTHON") or importlib.util.find_spec("mistralrs")
    if gguf is not None and engine:
        return Plan("smollm2", "real", "mistral.rs's engine on the CPU", gguf)
    if scripted:
        return Plan("scripted", "scripted", "scripted nodes, as asked for")
    missing = "a model" if engine else "mistral.rs's engine"
    return Plan("scripted", "scripted", f"scripted nodes, as {missing} is not installed here")


def run(args: argparse.Namespace) -> int:
    """Start, prove that it answers, wait for Ctrl-C, and clean up whatever happens."""
    directory = Path(tempfile.mkdtemp(prefix="cortex-demo-"))
    environ = {key: value for key, value in os.environ.items() if not _overrides(key)}
    if sys.flags.isolated:
        # Only the launcher of a package knew where this program is; the children must, too.
        environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    children = Children(directory, environ)
    with interruptible():
        try:
            return _demo(args, directory, children)
        finally:
            deaf()
            children.end()
            shutil.rmtree(directory, ignore_errors=True)


def _overrides(variable: str) -> bool:
    """A setting of somebody's real gateway."""
    return variable.startswith("CORTEX_") and "__" in variable


def _demo(args: argparse.Namespace, directory: Path, children: Children) -> int:
    chosen = plan(scripted=args.scripted)
    screen = Screen()
    print(f"cortex demo: {chosen.why}", flush=True)
    with screen.console.status("starting") as spinner:
        endpoints = _start_nodes(chosen, children, spinner)
        listen = f"{args.listen}:{_port(args.listen, args.port)}"
        client = _start_gateway(listen, endpoints, directory, children, spinner)
    _prove(client, f"{chosen.prefix}-a")
    if args.once:
        return Exit.OK
    try:
        print(guide(client.endpoint.url, chosen), flush=True)
        while True:
            children.check()
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("\nending the demo", flush=True)
        return Exit.OK


def _start_nodes(chosen: Plan, children: Children, spinner: Status) -> dict[str, str]:
    """Start both at once; their URLs by name."""
    began_s = time.monotonic()
    nodes = {name: children.start(f"node {name}", chosen.argv(name)) for name in NODES}
    for name, child in nodes.items():
        children.wait(
            f"node {name}",
            lambda child=child: _url(child) is not None,  # type: ignore[misc]
            deadline_s=START_S,
            draw=lambda child=child: spinner.update(_progress(child)),  # type: ignore[misc]
        )
        _done(f"node {name}", _url(child) or "", began_s)
    return {name: _url(child) or "" for name, child in nodes.items()}


def _url(child: Child) -> str | None:
    last = next((line for line in child.lines() if line.startswith(LISTENING)), None)
    return None if last is None else last.removeprefix(LISTENING).strip()


def _progress(child: Child) -> str:
    said = child.lines()[-1:]
    return f"{child.name}: {safe(said[0]) if said else 'starting'}"


def _done(what: str, url: str, began_s: float) -> None:
    print(f"  {what:<9} {safe(url)}  ({span(time.monotonic() - began_s)})", flush=True)


def _port(host: str, wanted: int | None) -> int:
    """The port to listen on: the wanted one, else 8000 where that is free, else any free one."""
    if wanted:
        return wanted
    if wanted is None and _free(host, DEFAULT_PORT) is not None:
        return DEFAULT_PORT
    port = _free(host, 0)
    if port is None:
        raise CliError(f"demo: {host!r} is no address of this machine")
    return port


def _free(host: str, port: int) -> int | None:
    try:
        with socket.create_server((host.strip("[]"), port), family=_family(host)) as trial:
            taken: int = trial.getsockname()[1]
            return taken
    except OSError:
        return None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _start_gateway(
    listen: str,
    endpoints: dict[str, str],
    directory: Path,
    children: Children,
    spinner: Status,
) -> Client:
    config = directory / "cortex.toml"
    config.touch(mode=0o600)
    config.write_text(config_text(listen, endpoints, directory))
    began_s = time.monotonic()
    argv = [sys.executable, "-m", "cortex", "serve", "--config", str(config)]
    child = children.start("gateway", argv)
    endpoint = checked(reachable(listen), "")
    asking = Client(endpoint, key="", timeout_s=ASK_S)
    children.wait(
        "gateway",
        lambda: _answers(asking),
        deadline_s=READY_S,
        draw=lambda: spinner.update(f"{child.name}: starting"),
    )
    _done("gateway", endpoint.url, began_s)
    return Client(endpoint, key="", timeout_s=READY_S)


def _answers(client: Client) -> bool:
    try:
        client.get("/ready")
    except CliError:
        return False
    return True


def config_text(listen: str, endpoints: dict[str, str], directory: Path) -> str:
    """The gateway's configuration; JSON strings are TOML strings."""
    nodes = "".join(
        f"[[nodes]]\nname = {json.dumps(name)}\nendpoint = {json.dumps(url)}\n"
        for name, url in endpoints.items()
    )
    metrics = f"127.0.0.1:{_free('127.0.0.1', 0)}"
    return (
        f"[gateway]\nlisten = {json.dumps(listen)}\n"
        f"metrics_listen = {json.dumps(metrics)}\n"
        f"[state]\npath = {json.dumps(str(directory / 'cortex.db'))}\n"
        "[polling]\ninterval_s = 1\ntimeout_s = 4\n"
        f"[limits]\ndrain_timeout_s = 5\n{nodes}"
    )


def _prove(client: Client, model: str) -> None:
    """Ask one question and print the answer as it comes, with its timing.

    Raises:
        CliError: There was no answer.
    """
    print(f"\n{model}, asked: {QUESTION}\n  ", end="", flush=True)
    answer = Answer(model)

    def show(piece: str, _kind: Kind) -> None:
        print(safe(piece.replace("\n", " ")), end="", flush=True)

    asked = {"role": "user", "content": QUESTION}
    hear(client, [asked], answer, show, {"max_tokens": MAX_TOKENS})
    if not answer.pieces:
        raise CliError("demo: the answer was empty")
    pace = answer.tokens_per_s
    print(
        f"\n  first token after {span(answer.ttft_s)}"
        + (f", {rate(pace)} tokens/s" if pace else "")
        + f", {answer.pieces} pieces in {span(answer.duration_s)}\n",
        flush=True,
    )


def guide(url: str, chosen: Plan) -> str:
    """What to try, ready to be copied."""
    question = json.dumps(
        {"model": f"{chosen.prefix}-b", "messages": [{"role": "user", "content": "Hello"}]}
        | {"max_tokens": 32}
    )
    streamed = json.dumps(json.loads(question) | {"model": chosen.cold, "stream": True})
    post = f"{url}/v1/chat/completions -H 'content-type: application/json'"
    return f"""\
Base URL: {url}/v1 (OpenAI), no key needed

An answer:
  curl {post} -d '{question}'

Streamed, of a model that is loaded for it first:
  curl -N {post} -d '{streamed}'

With the openai package:
  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="none")
  print(client.chat.completions.create(model="{chosen.prefix}-a", max_tokens=32,
        messages=[{{"role": "user", "content": "Hello"}}]).choices[0].message.content)

The fleet:
  {command()} status --watch --endpoint {url}

Ctrl-C ends it all."""


def command() -> str:
    """How the reader can call this very command."""
    called = Path(sys.argv[0])
    found = shutil.which("cortex")
    if called.name != "cortex":
        return f"{sys.executable} -m cortex"
    return "cortex" if found and Path(found).samefile(called) else str(called)
