"""A devnode as a process, and a command that restarts it the way a service manager would."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.command import ROOT
from tests.running import free_port

SCRIPT = """\
import os, signal, subprocess, sys, time, urllib.request
folder, port = sys.argv[1:3]
pid = os.path.join(folder, "node.pid")
if os.path.exists(pid):
    os.kill(int(open(pid).read()), signal.SIGTERM)
log = open(os.path.join(folder, "node.log"), "ab")
argv = [sys.executable, "-m", "cortex.devnode", "scripted", "--model", "m1", "--port", port]
for _ in range(100):
    node = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    open(pid, "w").write(str(node.pid))
    while node.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            open(os.path.join(folder, "starts"), "a").write(f"{node.pid}\\n")
            os._exit(0)
        except OSError:
            time.sleep(0.02)
    # The port was still in use.
sys.exit("the node does not start")
"""


class NodeProcess:
    """`with NodeProcess(folder) as node: node.url`; running `restart_command` gives a new one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        script = folder / "restart.py"
        script.write_text(SCRIPT)
        self.restart_command = (sys.executable, str(script), str(folder), str(self._port))

    def __enter__(self) -> Self:
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(self.restart_command, env=environ, check=True)
        return self

    def __exit__(self, *_exc: object) -> None:
        os.kill(self.pid, signal.SIGKILL)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        return int((self._folder / "node.pid").read_text())

    @property
    def starts(self) -> int:
        return len((self._folder / "starts").read_text().splitlines())
