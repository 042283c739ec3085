"""A real mistral.rs server, whose binary the user names in `MISTRALRS`, over two models of the demo's weights."""

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.processes import Child, Processes, Reply, eventually, request
from tests.running import free_ports

BINARY = os.environ.get("MISTRALRS", "")
START_S = 120.0
MODELS = ("a", "b")
_CONFIG = """\
command = "serve"
default_model_id = "a"
[server]
host = "127.0.0.1"
port = {port}
[runtime]
max_seqs = 1
prefix_cache_n = 2
"""
_MODEL = """\
[[models]]
kind = "text"
model_id = "{model}"
[models.format]
format = "gguf"
quantized_file = "model.gguf"
[models.quantization]
isq = "8"
[models.device]
cpu = true
"""


def version_of(binary: str) -> tuple[int, ...]:
    """What it says of itself."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=60)
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", said.stdout + said.stderr)
    assert found is not None, f"{binary} --version tells no version: {said}"
    return tuple(map(int, found.groups()))


@dataclass
class Server:
    """One server that can be killed, stopped for a while and started again, always on its port."""

    processes: Processes
    gguf: Path
    port: int = 0
    child: Child | None = None

    def __post_init__(self) -> None:
        [self.port] = free_ports(1)
        for model in MODELS:
            folder = self.processes.folder / model
            folder.mkdir()
            (folder / "model.gguf").symlink_to(self.gguf)
        config = _CONFIG.format(port=self.port)
        config += "".join(_MODEL.format(model=model) for model in MODELS)
        (self.processes.folder / "node.toml").write_text(config)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "Server":
        """Boot with both models resident, and wait until it answers."""
        argv = (BINARY, "from-config", "-f", str(self.processes.folder / "node.toml"))
        # More threads than idle cores slow the engine down by an order of magnitude.
        quiet = {"HF_HUB_OFFLINE": "1", "RAYON_NUM_THREADS": "1"}
        child = self.child = self.processes.program(*argv, environ=quiet)

        def up() -> bool:
            assert child.process.poll() is None, child.stdout[-3000:] + child.stderr[-3000:]
            try:
                return request(self.url + "/v1/models", timeout_s=2.0).status == 200
            except OSError:
                return False

        eventually(up, "the server", START_S)
        return self

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill()

    def freeze(self) -> None:
        assert self.child is not None
        self.child.send(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.child is not None
        self.child.send(signal.SIGCONT)

    def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        return request(self.url + path, dict(body), timeout_s=60.0)

    def lifecycle(self, verb: str, model: str) -> str:
        return str(self.post(f"/v1/models/{verb}", {"model_id": model}).json["status"])

    def listing(self) -> list[tuple[str, str]]:
        """(id, status) as it stands there, without the leading default; sorted."""
        rows = request(self.url + "/v1/models").json["data"]
        return sorted((r["id"], r["status"]) for r in rows if r["id"] != "default")
