"""What the kernel knows: who used how much CPU and memory, and how noisy the machine is."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core does what; None where there is only one and nothing is pinned."""

    gateway: int | None
    node: int | None
    load: int | None

    def describe(self) -> str:
        if self.gateway is None:
            return "one core: nothing is pinned, figures are of little worth"
        return f"gateway on core {self.gateway}, node on {self.node}, load on {self.load}"


def share_out() -> Cores:
    """A core for the gateway alone, and one each for node and load where there are three."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return Cores(None, None, None)
    return Cores(cores[0], cores[1], cores[min(2, len(cores) - 1)])


def pin(core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            fields = _stat(folder)
            if fields:
                children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _stat(folder: Path) -> list[str]:
    """The fields of a `stat` after the command's name, which may hold anything."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def thread_cpu_s(pid: int) -> dict[int, float]:
    """CPU time of each thread of one process, to the nanosecond where the kernel counts so."""
    used = {}
    for task in _tasks(pid):
        try:
            used[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
        except (OSError, IndexError):
            if fields := _stat(task):
                used[int(task.name)] = (int(fields[11]) + int(fields[12])) * TICK_S
    return used


def _tasks(pid: int) -> Iterable[Path]:
    try:
        return list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return []


def cpu_s(pids: Iterable[int]) -> float:
    """CPU time of processes and their descendants."""
    return sum(sum(thread_cpu_s(each).values()) for pid in pids for each in tree(pid))


def memory_kib(pid: int, field: str = "VmRSS") -> int:
    """`VmRSS` now, or `VmHWM`, the most since `forget_peak`, of a process and its descendants."""
    total = 0
    for each in tree(pid):
        try:
            for line in (PROC / str(each) / "status").read_text().splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1])
        except OSError:
            continue
    return total


def forget_peak(pid: int) -> None:
    for each in tree(pid):
        try:
            (PROC / str(each) / "clear_refs").write_text("5")
        except OSError:
            continue


def busy_s() -> float:
    """CPU time the whole machine spent since boot, what a hypervisor took included."""
    first = (PROC / "stat").read_text().partition("\n")[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, first)
    return (user + nice + system + irq + softirq + steal) * TICK_S


def wait_quiet(own: Iterable[int], *, busy_below: float, patience_s: float) -> None:
    """Wait until others use less than this many cores, at most `patience_s`."""
    end_s = time.monotonic() + patience_s
    own = list(own)
    while True:
        noise = Noise(own)
        time.sleep(0.2)
        if noise.cores() < busy_below or time.monotonic() > end_s:
            return


class Noise:
    """How many cores' worth of CPU went to processes that are not ours, since it was made."""

    def __init__(self, own: Iterable[int]) -> None:
        self._own = list(own)
        self._since_s = time.monotonic()
        self._busy_s, self._own_s = busy_s(), cpu_s(self._own)

    def cores(self, ended_s: float = 0.0) -> float:
        """`ended_s` is the CPU time of processes of ours that have come and gone meanwhile."""
        spent_s = busy_s() - self._busy_s
        ours_s = cpu_s(self._own) - self._own_s + ended_s
        return max(0.0, (spent_s - ours_s) / (time.monotonic() - self._since_s))
