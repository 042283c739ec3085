"""sd_notify(3) and sd_listen_fds(3) in the standard library; silent where systemd did not start us."""

import os
import socket
import time
from collections.abc import MutableMapping

_FIRST_FD = 3


def notify(*lines: str) -> None:
    """Tell the service manager, if there is one; never waits, so one that does not read misses it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path[0] == "@" else path
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_UNIX, kind) as channel:
        try:
            channel.connect(address)
            channel.send("\n".join(lines).encode())
        except OSError:
            return  # a manager that went away is no reason to stop serving


def reloading() -> None:
    usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify("RELOADING=1", f"MONOTONIC_USEC={usec}")


def patience(seconds: float) -> str:
    """A line that keeps the manager from cutting the present state short, whatever its unit says."""
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"


def watchdog_interval_s() -> float | None:
    """Half of what systemd allows; None when this process is not watched."""
    usec, pid = os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID")
    if not usec or (pid and int(pid) != os.getpid()):
        return None
    return int(usec) / 2_000_000


def listen_sockets(environ: MutableMapping[str, str] = os.environ) -> dict[str, socket.socket]:
    """The listening sockets that systemd opened for this process, by `FileDescriptorName=`.

    The variables are taken out of `environ`, so that no child believes it was meant.
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    given = {}
    for index in range(int(count)):
        passed = socket.socket(fileno=_FIRST_FD + index)
        passed.set_inheritable(False)
        given[names[index] if index < len(names) else ""] = passed
    return given
