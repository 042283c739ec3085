"""What the gateway needs of this machine: its addresses, its state file, room on the disk."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from cortex.cli.checks.finding import Finding, error, ok, warn
from cortex.cli.text import file_size
from cortex.core.errors import StoreError
from cortex.core.records import Recollection
from cortex.store.offline import DatabaseFile

LITTLE_BYTES = 1 << 30
"""Free space below which a log that grows by some megabytes a day is worth a word."""
TOO_LITTLE_BYTES = 64 << 20
AS_ROOT = "sudo cortex doctor"


def address(subject: str, listen: str, *, ours: bool) -> Iterator[Finding]:
    """Whether it can be listened on.

    Args:
        subject: What listens there.
        listen: Host and port.
        ours: The gateway runs, so that it is taken by right.
    """
    if ours:
        return
    host, _, port = listen.rpartition(":")
    try:
        _try(host.strip("[]"), int(port))
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            yield error(
                subject,
                f"another program listens on {listen}",
                f"`ss -ltnp sport = :{port}` says which",
            )
        elif exc.errno == errno.EACCES:
            yield warn(
                subject,
                f"{listen}: a port below 1024 is not for everybody to open",
                "cortex.socket has systemd open it",
            )
        else:
            yield error(subject, f"{listen} cannot be listened on: {exc.strerror or exc}")
    else:
        yield ok(subject, f"{listen} is free")


def _try(host: str, port: int) -> None:
    flags = socket.AI_PASSIVE
    for family, kind, proto, _, place in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=flags
    ):
        with socket.socket(family, kind, proto) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
            # Two that are bound may both have SO_REUSEADDR; only one may listen.
            trial.listen(1)


def state(path: Path) -> tuple[list[Finding], Recollection]:
    """The database file, and what it remembers of the fleet."""
    nothing = Recollection()
    if not os.path.lexists(path):
        return [*_to_be_made(path)], nothing
    try:
        with DatabaseFile(path) as file:
            remembered = file.recall()
    except StoreError as exc:
        advice = "cortex sets a corrupt file aside when it starts, and begins a new one"
        return [error("state", exc.message, advice)], nothing
    return [*_owned(path)], remembered


def _to_be_made(path: Path) -> Iterator[Finding]:
    folder = _nearest(path)
    if not folder.is_dir():
        yield error("state", f"{path}: {folder} is no directory")
    elif not os.access(folder, os.X_OK):
        yield warn("state", f"this user may not look into {folder}", AS_ROOT)
    elif os.access(folder, os.W_OK | os.X_OK):
        yield ok("state", f"{path} will be made at the first start")
    else:
        yield warn(
            "state",
            f"{path} is not there, and this user may not make it",
            "as a service, cortex makes it as its own user",
        )


def _nearest(path: Path) -> Path:
    """The directory that the file is in, or the nearest above it that is there."""
    # Path.exists() raises where a directory may not be looked into.
    return next(parent for parent in path.absolute().parents if os.path.exists(parent))  # noqa: PTH110


def _owned(path: Path) -> Iterator[Finding]:
    """Whether all of it is one user's: a start as root leaves files that the service cannot write."""
    size = file_size(path.stat().st_size)
    owner = path.stat().st_uid
    parts = [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")]
    odd = [part for part in parts if part.exists() and part.stat().st_uid != owner]
    if path.parent.stat().st_uid != owner:
        odd.insert(0, path)
    if odd:
        names = " ".join(map(str, odd))
        yield warn(
            "state",
            f"{names}: not of the user whose directory it is in, as after a start by root",
            f"chown --reference={path.parent} {names}",
        )
    else:
        yield ok("state", f"{path}, {size}")


def disk(path: Path) -> Iterator[Finding]:
    """Room where the database grows."""
    folder = _nearest(path)
    try:
        free = shutil.disk_usage(folder).free
    except OSError as exc:
        yield warn("disk", f"{folder}: {exc.strerror}")
        return
    said = f"{file_size(free)} free at {folder}"
    advice = "state.request_retention_days bounds the request log"
    if free < TOO_LITTLE_BYTES:
        yield error(
            "disk", f"{said}: requests will soon be served without being logged", advice
        )
    elif free < LITTLE_BYTES:
        yield warn("disk", said, advice)
    else:
        yield ok("disk", said)


def files(limit: int, wanted: int) -> Iterator[Finding]:
    """Open files that the gateway may have, and those that its configuration can need."""
    if limit < wanted:
        yield warn(
            "files",
            f"{limit} may be open at once; so many requests as are allowed need {wanted}",
            "LimitNOFILE= of the unit, or ulimit -n",
        )
