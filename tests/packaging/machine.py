"""A machine to install packages on: this one's file system under an overlay, booted with systemd in a container.

Nothing that happens inside reaches the outside: writes go to a tmpfs, the network is the container's own loopback.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.command import ROOT

TOOLS = ("systemd-nspawn", "nsenter", "mount", "ip")
BOOT_S = 60.0
CLEAN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
PACKAGES = "/packages"
"""Where the folder of packages is inside."""


def why_not() -> str:
    """The reason why no machine can be booted here; "" when one can."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"{', '.join(missing)} not installed"
    if os.geteuid() != 0:
        return "a container is booted by root"
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(
            ["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, text=True
        )
        if tried.returncode != 0:
            return f"may not mount here: {tried.stderr.strip()}"
        subprocess.run(["umount", folder], check=True)
    return ""


class Machine:
    """A context manager: boots, runs commands, powers off."""

    def __init__(self, packages: Path) -> None:
        self._packages = packages
        self._folder = Path(tempfile.mkdtemp(prefix="cortex-machine-", dir="/var/tmp"))
        self.root = self._folder / "root"
        self._container: subprocess.Popen[bytes] | None = None
        self._init = 0

    def __enter__(self) -> Self:
        try:
            self._mount()
            self._boot()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._container is not None:
            if self._init:
                self.run("systemctl", "poweroff", check=False)
            else:
                self._container.terminate()
            try:
                self._container.wait(30)
            except subprocess.TimeoutExpired:
                self._container.kill()
                self._container.wait()
        for mounted in (self.root, self._folder):
            subprocess.run(["umount", "--recursive", mounted], capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _mount(self) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self._folder], check=True)
        for name in ("upper", "work", "root"):
            (self._folder / name).mkdir()
        layers = f"lowerdir=/,upperdir={self._folder}/upper,workdir={self._folder}/work"
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", layers, self.root], check=True
        )
        shutil.copytree(self._packages, self.root / PACKAGES.lstrip("/"))
        (self.root / "etc/machine-id").write_text("")
        # Fedora's policy: a service is enabled by its administrator, not by being installed.
        presets = self.root / "etc/systemd/system-preset"
        presets.mkdir(parents=True, exist_ok=True)
        (presets / "00-nothing.preset").write_text("disable *\n")

    def _boot(self) -> None:
        self._container = subprocess.Popen(
            [
                *("systemd-nspawn", "--quiet", "--boot", "--directory", self.root),
                *("--register=no", "--keep-unit", "--private-network", "--console=pipe"),
                # The tests and their interpreter, also where they are in a folder that is hidden.
                *(f"--bind-ro={folder}" for folder in {str(ROOT), sys.prefix}),
                "systemd.unit=multi-user.target",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
        end_s = time.monotonic() + BOOT_S
        while not self._init:
            assert time.monotonic() < end_s, "the container has no init"
            assert self._container.poll() is None, "the container ended"
            self._init = _init_of(self._container.pid)
            time.sleep(0.05)
        while self.run("systemctl", "is-system-running", check=False).strip() not in {
            "running",
            "degraded",
        }:
            assert time.monotonic() < end_s, "the container does not come up"
            time.sleep(0.1)
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *argv: str, check: bool = True, timeout_s: float = 60.0) -> str:
        """What the command printed, both ways; fails when it failed and `check` is set."""
        inside = [
            "nsenter",
            "-t",
            str(self._init),
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-C",
            "-r",
            "-w",
        ]
        done = subprocess.run(
            [*inside, "--", "env", "-i", *(f"{k}={v}" for k, v in CLEAN.items()), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )
        said = done.stdout.decode(errors="replace")
        print(f"# {' '.join(argv)}\n{said}", end="")
        assert not check or done.returncode == 0, f"{argv} ended with {done.returncode}: {said}"
        return said

    def code(self, *argv: str) -> int:
        """The exit code of the command."""
        return int(self.run("sh", "-c", '"$@"; echo "=$?"', "sh", *argv).rpartition("=")[2])

    def until(self, holds: str, *argv: str, timeout_s: float = 30.0) -> str:
        """Run the command until it prints `holds` somewhere; returns what it printed."""
        end_s = time.monotonic() + timeout_s
        while holds not in (said := self.run(*argv, check=False)):
            assert time.monotonic() < end_s, f"{argv} did not come to say {holds!r}"
            time.sleep(0.1)
        return said

    def file(self, path: str) -> Path:
        """A file of the machine, from outside."""
        return self.root / path.lstrip("/")


def _init_of(container: int) -> int:
    """The container's process 1; 0 while there is none."""
    children = Path(f"/proc/{container}/task/{container}/children").read_text().split()
    for child in children:
        try:
            status = Path(f"/proc/{child}/status").read_text()
        except FileNotFoundError:
            continue
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if facts["Name"] == "systemd" and facts["NSpid"].split()[-1] == "1":
            return int(child)
    return 0
