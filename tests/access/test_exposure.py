"""A gateway that anybody can use says so: in the log, in /health and in `cortex status`."""

import logging
import os
import signal
from pathlib import Path

import pytest

from cortex.gateway.exposure import public_among
from tests.e2e.processes import Processes, eventually
from tests.gateway.conftest import scripted
from tests.running import Running, running, until

OPEN = "no API keys are configured and {} can be reached from other machines"
KEY = '[[auth.keys]]\nname = "me"\nkey = "k"\nrole = "admin"\n'


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        r.getMessage()
        for r in caplog.records
        if r.levelno == logging.WARNING and r.name == "cortex.daemon"
    ]


@pytest.mark.parametrize(
    ("addresses", "public"),
    [
        ([("127.0.0.1", 8000)], None),
        ([("127.9.9.9", 8000), ("::1", 8000, 0, 0)], None),
        ([("::ffff:127.0.0.1", 8000, 0, 0)], None),
        (["/run/cortex.sock", b"\0abstract"], None),
        ([], None),
        ([("0.0.0.0", 8000)], "0.0.0.0:8000"),
        ([("127.0.0.1", 1), ("10.0.0.7", 2)], "10.0.0.7:2"),
        ([("::", 8000, 0, 0)], "[::]:8000"),
        ([("fe80::1%eth0", 8000, 0, 2)], "[fe80::1%eth0]:8000"),
    ],
)
def test_what_counts_as_public(addresses: list[object], public: str | None) -> None:
    assert public_among(addresses) == public


async def test_an_open_gateway_on_a_public_address_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        assert (await gateway.get("/health")).json["warnings"] == []
        assert warned(caplog) == []
        gateway.services.public_address = "0.0.0.0:8000"  # as a start on it finds out
        health = (await gateway.get("/health")).json
        assert health["status"] == "ok"
        assert health["reasons"] == []
        [warning] = health["warnings"]
        assert warning.startswith(OPEN.format("0.0.0.0:8000"))
        assert (await gateway.status())["health"]["warnings"] == [warning]


async def test_with_a_key_it_is_not_and_without_it_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node], toml=KEY) as gateway:
        gateway.services.public_address = "0.0.0.0:8000"
        assert (await gateway.get("/health")).json["warnings"] == []
        gateway.source.write_text(gateway.source.read_text().replace(KEY, ""))
        await reloaded(gateway)
        assert len((await gateway.get("/health")).json["warnings"]) == 1
        assert [line for line in warned(caplog) if line.startswith(OPEN[:30])]


async def reloaded(gateway: Running) -> None:
    before = gateway.services.config
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: gateway.services.config is not before, "a reload")


def test_a_start_on_every_address_says_so_everywhere(processes: Processes) -> None:
    source, port = processes.write(processes.node("a"))
    source.write_text(source.read_text().replace(f'"127.0.0.1:{port}"', f'"0.0.0.0:{port}"'))
    gateway = processes.serve_file(source, port)
    warning = OPEN.format(f"0.0.0.0:{port}")

    def logged() -> bool:
        warnings = [line["message"] for line in gateway.log if line["level"] == "warning"]
        return any(line.startswith(warning) for line in warnings)

    # It answers a moment before it says so.
    eventually(logged, "the warning in the log")
    status = processes.cortex("status", "--endpoint", gateway.url)
    assert status.process.returncode == 0
    assert f"warning: {warning}" in " ".join(status.stdout.split())
