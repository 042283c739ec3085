"""The loop, in the test's own process: real sockets, a real node, real commands."""

import re
import threading
from pathlib import Path

import pytest
from aiohttp import web

from cortex import __version__
from cortex.agent.agent import Limits, once
from cortex.agent.gpus import GpuReader
from cortex.agent.memory import FILE
from cortex.agent.settings import Settings
from cortex.agent.uplink import NoReply, Pace
from cortex.core.ids import NodeName
from cortex.devnode.scripted import ScriptedNode
from tests.agent.conftest import Lines, agent_of
from tests.agent.gateway import TinyGateway
from tests.agent.nodeprocess import NodeProcess
from tests.agent.nvml import FakeNvml
from tests.running import until


def counting(folder: Path, then: str = "") -> tuple[str, ...]:
    """A restart command that leaves a line each time it runs."""
    return ("sh", "-c", f'echo ran >>"{folder / "runs"}"; {then}')


def runs(folder: Path) -> int:
    file = folder / "runs"
    return len(file.read_text().splitlines()) if file.exists() else 0


def _ram_mib() -> int:
    """As the system's own list of figures has it."""
    (line,) = [
        line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line
    ]
    return int(line.split()[1]) // 1024


async def test_what_is_reported(gateway: TinyGateway, tmp_path: Path):
    async with (
        ScriptedNode(["m1"]) as node,
        agent_of(gateway, tmp_path, local=node.url, restart=("true",)),
    ):
        report = await gateway.reported()
    assert (report.node, report.agent_version) == ("n0", __version__)
    assert report.can_restart
    assert (report.node_ok, report.node_reason) == (True, "")
    assert [gpu.free_mib for gpu in report.gpus] == [21 * 1024 - 1] * 2
    assert report.gpu_reason == ""
    assert report.ram_total_mib == _ram_mib()
    assert report.acks == []


async def test_a_node_that_does_not_answer_has_its_reason(gateway: TinyGateway, tmp_path: Path):
    async with ScriptedNode(["m1"]) as node, agent_of(gateway, tmp_path, local=node.url):
        assert (await gateway.reported()).node_ok
        node.knobs.listing_delay_s = 30
        await until(lambda: not gateway.reports[-1].node_ok, "a silent node")
        assert gateway.reports[-1].node_reason == "n0: no answer within 0.5 s"
        await node.stop()
        await until(
            lambda: "refused" in gateway.reports[-1].node_reason, "a refused connection"
        )
        node.knobs.listing_delay_s = 0
        await node.start()
        await until(lambda: gateway.reports[-1].node_ok, "a node that is back")


async def test_a_hung_driver_holds_no_report_up(gateway: TinyGateway, tmp_path: Path):
    nvml = FakeNvml()
    nvml.gate = threading.Event()
    async with agent_of(gateway, tmp_path, gpus=GpuReader(lambda: nvml)):
        report = await gateway.reported(3)
        assert report.gpus == []
        assert "no answer for" in report.gpu_reason
        nvml.gate.set()
        await until(lambda: len(gateway.reports[-1].gpus) == 2, "GPUs that are back")


async def test_the_gateway_says_how_often_unless_the_agent_was_told(
    gateway: TinyGateway, tmp_path: Path
):
    gateway.interval_s = 60.0
    async with agent_of(gateway, tmp_path, interval_s=0.1):
        await gateway.reported(3)
    async with agent_of(gateway, tmp_path):
        await gateway.reported()
        tries = gateway.tries
        with pytest.raises(AssertionError, match="in vain"):
            await gateway.reported(timeout_s=0.4)
        assert gateway.tries == tries


async def test_a_restart_gives_a_new_node(gateway: TinyGateway, tmp_path: Path):
    """The command really ends the node's process, and starts another on the same port."""
    with NodeProcess(tmp_path) as node:
        async with agent_of(gateway, tmp_path, local=node.url, restart=node.restart_command):
            await until(lambda: bool(gateway.reports) and gateway.reports[-1].node_ok, "a node")
            first = node.pid
            gateway.command("c1")
            assert (await gateway.acked("c1")).detail == "done"
            assert node.pid != first
            assert (await gateway.reported()).node_ok
            await gateway.reported(2)
        assert node.starts == 2


async def test_reports_go_on_while_a_command_runs(gateway: TinyGateway, tmp_path: Path):
    going = tmp_path / "go"
    command = counting(tmp_path, f'while [ ! -e "{going}" ]; do sleep 0.02; done')
    async with agent_of(gateway, tmp_path, restart=command):
        gateway.command("c1")
        await until(lambda: runs(tmp_path) == 1, "the command to begin")
        for _ in range(3):
            assert (await gateway.reported()).acks == []
        going.touch()
        assert (await gateway.acked("c1")).ok
    assert runs(tmp_path) == 1


async def test_an_ack_is_repeated_until_a_reply_came(gateway: TinyGateway, tmp_path: Path):
    async with agent_of(gateway, tmp_path, restart=counting(tmp_path)):
        gateway.command("c1")
        gateway.drop_acks = 3
        ack = await gateway.acked("c1")
        await gateway.reported(2)
        acks = [report.acks for report in gateway.reports]
        first = acks.index([ack])
        assert acks[first:][:5] == [[ack]] * 4 + [[]]
        assert gateway.reports[-1].acks == []
    assert runs(tmp_path) == 1


async def test_a_gateway_that_forgets_acks_gets_them_again_and_no_second_run(
    gateway: TinyGateway, tmp_path: Path
):
    async with agent_of(gateway, tmp_path, restart=counting(tmp_path)):
        gateway.command("c1")
        await gateway.acked("c1")
    gateway.acks.clear()
    gateway.command("c1")
    async with agent_of(gateway, tmp_path, restart=counting(tmp_path)):
        ack = await gateway.acked("c1")
    assert (ack.ok, ack.detail) == (True, "done")
    assert runs(tmp_path) == 1


async def test_one_command_at_a_time(gateway: TinyGateway, tmp_path: Path):
    """The second waits for a later reply; were they to run together, the lock would fail."""
    lock = tmp_path / "lock"
    command = counting(tmp_path, f'mkdir "{lock}" && sleep 0.2 && rmdir "{lock}"')
    async with agent_of(gateway, tmp_path, restart=command):
        gateway.command("c1")
        gateway.command("c2")
        assert (await gateway.acked("c1")).ok
        assert (await gateway.acked("c2")).ok
    assert runs(tmp_path) == 2


async def test_what_a_failing_command_said(gateway: TinyGateway, tmp_path: Path, lines: Lines):
    async with agent_of(
        gateway, tmp_path, restart=("sh", "-c", "echo no such unit >&2; exit 5")
    ):
        gateway.command("c1")
        ack = await gateway.acked("c1")
    assert (ack.ok, ack.detail) == (False, "exit code 5: no such unit")
    assert lines.texts.count("command answered") == 1


async def test_old_and_unknown_commands_are_refused(gateway: TinyGateway, tmp_path: Path):
    async with agent_of(gateway, tmp_path, restart=counting(tmp_path)):
        gateway.command("old", age_s=61)
        gateway.command("odd", "reboot")
        assert "issued 61." in (await gateway.acked("old")).detail
        assert "unknown action" in (await gateway.acked("odd")).detail
    assert runs(tmp_path) == 0


async def test_a_command_that_grew_old_on_its_way_is_refused(
    gateway: TinyGateway, tmp_path: Path
):
    gateway.delay_s, gateway.ageless = 0.4, True
    async with agent_of(gateway, tmp_path, restart=counting(tmp_path)):
        await gateway.reported()
        gateway.command("c1", max_age_s=0.2)
        assert "at most 0.2 s" in (await gateway.acked("c1")).detail
    assert runs(tmp_path) == 0


async def test_without_a_restart_command_nothing_is_restarted(
    gateway: TinyGateway, tmp_path: Path
):
    async with agent_of(gateway, tmp_path):
        gateway.command("c1")
        ack = await gateway.acked("c1")
        assert not gateway.reports[-1].can_restart
    assert "no restart command is configured" in ack.detail


async def test_a_command_that_a_lost_memory_may_have_held_is_refused(
    gateway: TinyGateway, tmp_path: Path
):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FILE).write_text("{")
    gateway.command("c1", age_s=5)
    async with agent_of(gateway, tmp_path, restart=counting(tmp_path)):
        assert "memory begins" in (await gateway.acked("c1")).detail
    assert runs(tmp_path) == 0


async def test_what_cannot_be_written_down_is_not_carried_out(
    gateway: TinyGateway, tmp_path: Path
):
    async with agent_of(gateway, tmp_path, restart=counting(tmp_path)):
        await gateway.reported()
        (tmp_path / "state" / "commands.new").mkdir()
        gateway.command("c1")
        assert "cannot be written down" in (await gateway.acked("c1")).detail
        (tmp_path / "state" / "commands.new").rmdir()
        gateway.command("c2")
        assert (await gateway.acked("c2")).ok
    assert runs(tmp_path) == 1


async def test_a_lost_gateway_is_one_line_and_so_is_its_return(
    gateway: TinyGateway, tmp_path: Path, lines: Lines
):
    async with agent_of(gateway, tmp_path) as agent:
        await gateway.reported()
        # The gateway has the report before the agent has its answer.
        await until(lambda: lines.texts[-1] == "gateway found", "the gateway to be found")
        await gateway.stop()
        await until(lambda: agent._failures >= 4, "four tries in vain")
        await gateway.start()
        await gateway.reported(2)
        assert lines.texts == ["agent started", "gateway found", "gateway lost", "gateway back"]
        # Between two reports nobody answers; in the middle of one, the connection ends, with a reset or without.
        assert re.search("failed|reset|disconnected", lines.fields("gateway lost")["reason"])


async def test_a_wrong_token_is_said_once_and_the_right_one_found_without_a_restart(
    tmp_path: Path, lines: Lines
):
    file = tmp_path / "token"
    file.write_text("wrong\n")
    async with (
        TinyGateway(token="right") as gateway,
        agent_of(gateway, tmp_path, token_file=file),
    ):
        await until(lambda: gateway.tries >= 3, "three tries")
        assert gateway.reports == []
        assert lines.texts == ["agent started", "gateway refuses this agent"]
        reason = lines.fields("gateway refuses this agent")["reason"]
        assert reason == "HTTP 401: no such agent token"
        file.write_text("right\n")
        # The gateway has the report before the agent has its answer.
        await until(lambda: lines.texts[-1] == "gateway found", "the gateway to be found")
    assert "right" not in str(lines.records)


async def test_a_refused_agent_does_not_hammer(tmp_path: Path):
    async with (
        TinyGateway(token="right") as gateway,
        agent_of(gateway, tmp_path, limits=Limits(pace=Pace(first_s=0.01))),
    ):
        await until(lambda: gateway.tries == 1, "a try")
        with pytest.raises(AssertionError, match="in vain"):
            await until(lambda: gateway.tries > 1, "another", timeout_s=0.4)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (web.Response(status=500, text="oh"), "HTTP 500"),
        (web.Response(text="<html>"), "a reply that is none"),
        (web.Response(text='{"commands": 3}'), "a reply that is none"),
        (web.Response(body=b" " * 2_000_000), "a reply without end"),
        (
            web.Response(status=307, headers={"Location": "/cortex/v1/agents/report"}),
            "HTTP 307",
        ),
        (
            web.Response(status=404, text='{"error": {"message": "no node n0"}}'),
            "404: no node n0",
        ),
    ],
)
async def test_odd_answers_are_a_lost_gateway(
    gateway: TinyGateway, tmp_path: Path, lines: Lines, answer: web.Response, reason: str
):
    gateway.answer = answer
    async with agent_of(gateway, tmp_path):
        await gateway.reported(2)
        await until(lambda: "gateway found" in lines.texts, "recovery")
    assert reason in lines.fields("gateway lost")["reason"]


async def test_a_silent_gateway_is_given_up_at_the_deadline(
    gateway: TinyGateway, tmp_path: Path, lines: Lines
):
    gateway.delay_s = 30
    async with agent_of(gateway, tmp_path, limits=Limits(post_s=0.3)):
        await until(lambda: "gateway lost" in lines.texts, "the deadline")
    assert lines.fields("gateway lost")["reason"] == "no answer within 0.3 s"


async def test_once_ignores_commands(gateway: TinyGateway, tmp_path: Path):
    gateway.command("c1")
    settings = Settings(
        gateway=gateway.url,
        node=NodeName("n0"),
        restart=counting(tmp_path),
        state_dir=tmp_path / "state",
    )
    report, answer = await once(settings, gpus=GpuReader(FakeNvml))
    assert [report] == gateway.reports
    assert not isinstance(answer, NoReply)
    assert (runs(tmp_path), (tmp_path / "state").exists()) == (0, False)


def test_waits_grow_with_full_jitter_to_a_minute():
    pace = Pace()
    assert [pace.wait_s(n, 1.0) for n in (1, 2, 3, 6, 7, 8, 10_000)] == [
        1,
        2,
        4,
        32,
        60,
        60,
        60,
    ]
    assert pace.wait_s(5, 0.25) == 4
    assert pace.wait_s(5, 0.0) == 0
    assert (pace.slow_s(0.0), pace.slow_s(1.0)) == (30, 60)
