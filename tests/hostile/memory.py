"""What a process takes, by the kernel's own count."""

from pathlib import Path

MIB = 1024 * 1024


def rss_bytes(pid: int) -> int:
    return _field(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most since `reset_peak`."""
    return _field(pid, "VmHWM")


def size_bytes(pid: int) -> int:
    """Of its address space, which `RLIMIT_AS` bounds."""
    return _field(pid, "VmSize")


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def cpu_s(pid: int) -> float:
    """User and system time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _field(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel tells no {name}")
