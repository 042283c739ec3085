"""What the gateway's process holds, seen from outside: /proc, its status, its metrics."""

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    rss_mib: float
    sockets: int
    """But those to nodes."""
    node_sockets: int
    """The pool to the nodes keeps what it does not need for a minute."""
    files: int
    """Descriptors that are not sockets."""
    threads: int
    tasks: int
    leases: int
    in_flight: int
    queued: int
    unwritten: int
    """Rows of the request log that are not in the file yet."""
    database_mib: float
    answer_ms: float
    """`GET /health`, which does nothing: a bound of how late the loop is."""


def of_process(pid: int, node_ports: Collection[int]) -> tuple[float, Counter[str], int]:
    """RSS in MiB, descriptors by kind (`socket`, `node`, `file`), threads."""
    proc = Path("/proc") / str(pid)
    lines = (line.partition(":") for line in (proc / "status").read_text().splitlines())
    status = {name: value.strip() for name, _, value in lines}
    table = [line.split() for line in (proc / "net/tcp").read_text().splitlines()[1:]]
    to_nodes = {row[9] for row in table if int(row[2].partition(":")[2], 16) in node_ports}
    kinds: Counter[str] = Counter()
    for entry in (proc / "fd").iterdir():
        try:
            kind, _, inode = str(entry.readlink()).partition(":")
        except FileNotFoundError:
            continue
        if kind != "socket":
            kinds["file"] += 1
        else:
            kinds["node" if inode.strip("[]") in to_nodes else "socket"] += 1
    return int(status["VmRSS"].split()[0]) / 1024, kinds, int(status["Threads"])


def sums(metrics: str) -> Mapping[str, float]:
    """Every metric's values added up over its labels."""
    total: Counter[str] = Counter()
    for line in metrics.splitlines():
        if not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            total[series.partition("{")[0]] += float(value)
    return total


async def take(
    pid: int,
    url: str,
    metrics_url: str,
    database: Path,
    *,
    node_ports: Collection[int],
    began_s: float,
) -> Sample:
    """One sample. Its connection is its own and gone afterwards, so it leaves nothing behind."""
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        asked_s = time.perf_counter()
        async with http.get(url + "/health") as response:
            await response.read()
        answer_ms = (time.perf_counter() - asked_s) * 1000
        async with http.get(url + "/cortex/v1/status") as response:
            status = await response.json()
        async with http.get(metrics_url + "/metrics") as response:
            metrics = sums(await response.text())
    rss_mib, kinds, threads = of_process(pid, node_ports)
    sizes = (database, database.with_name(database.name + "-wal"))
    return Sample(
        at_s=time.monotonic() - began_s,
        rss_mib=rss_mib,
        sockets=kinds["socket"],
        node_sockets=kinds["node"],
        files=kinds["file"],
        threads=threads,
        tasks=int(metrics["cortex_asyncio_tasks"]),
        leases=int(metrics["cortex_in_flight"]),
        in_flight=status["in_flight"],
        queued=status["queued"],
        unwritten=status["store"]["queued_rows"],
        database_mib=sum(path.stat().st_size for path in sizes if path.exists()) / MIB,
        answer_ms=answer_ms,
    )
