import asyncio
import os
import sys
import time
from pathlib import Path

from cortex.agent.restart import Outcome, run
from tests.running import until


async def sh(script: str, *args: str, deadline_s: float = 10.0) -> Outcome:
    return await run(["sh", "-c", script, "sh", *args], os.environ, deadline_s=deadline_s)


async def test_a_command_that_works():
    assert await sh("exit 0") == Outcome(ok=True, detail="done")


async def test_the_end_of_stderr_is_kept():
    outcome = await sh(
        'i=0; while [ $i -lt 20000 ]; do echo "line $i" >&2; i=$((i+1)); done; exit 3'
    )
    assert not outcome.ok
    assert outcome.detail.startswith("exit code 3: ")
    assert outcome.detail.endswith("line 19998 line 19999")
    assert len(outcome.detail) < 900


async def test_what_cannot_be_printed_is_not_passed_on():
    outcome = await sh(r"printf 'a\033[31mb\377\n\nc' >&2; exit 1")
    assert outcome.detail == "exit code 1: a?[31mb\N{REPLACEMENT CHARACTER} c"


async def test_a_signal_is_named():
    assert (await sh("kill -9 $$")).detail == "signal 9"


async def test_a_command_that_is_not_there():
    outcome = await run(["/no/such/command"], os.environ, deadline_s=1)
    assert outcome == Outcome(
        ok=False, detail="cannot run /no/such/command: No such file or directory"
    )


async def test_no_shell_reads_the_words(tmp_path: Path):
    program = "import sys; sys.stderr.write('|'.join(sys.argv[1:])); sys.exit(1)"
    outcome = await run(
        [sys.executable, "-c", program, "$HOME", "; ls"], os.environ, deadline_s=10
    )
    assert outcome.detail == "exit code 1: $HOME|; ls"


async def test_the_deadline_ends_the_command_and_its_children(tmp_path: Path):
    pids = tmp_path / "pids"
    outcome = await sh(
        'sleep 60 & echo $! $$ >"$1"; echo stuck >&2; wait', str(pids), deadline_s=0.3
    )
    assert outcome == Outcome(ok=False, detail="no end within 0.3 s: stuck")
    await until(lambda: not any(map(alive, pids.read_text().split())), "the end of all")


async def test_a_command_deaf_to_sigterm_is_killed():
    outcome = await sh("trap '' TERM; while :; do sleep 0.05; done", deadline_s=0.1)
    assert outcome.detail == "no end within 0.1 s"


async def test_a_service_left_behind_does_not_hold_the_answer_up(tmp_path: Path):
    """It inherits stderr, so the pipe does not end with the command."""
    begun_s = time.monotonic()
    outcome = await sh('sleep 30 & echo $! >"$1"', str(tmp_path / "pid"))
    assert outcome.ok
    assert time.monotonic() - begun_s < 5
    os.kill(int((tmp_path / "pid").read_text()), 9)


async def test_the_service_manager_of_the_agent_is_not_the_commands():
    environ = {**os.environ, "NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "KEPT": "yes"}
    script = "echo ${NOTIFY_SOCKET-none} ${WATCHDOG_USEC-none} $KEPT >&2; exit 1"
    outcome = await run(["sh", "-c", script], environ, deadline_s=10)
    assert outcome.detail == "exit code 1: none none yes"


async def test_no_file_is_left_open():
    await sh("true")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        await sh("true")
        await run(["/no/such/command"], os.environ, deadline_s=1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_the_loop_turns_while_a_command_runs():
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        turning = group.create_task(turn())
        await sh("sleep 0.3")
        turning.cancel()
    assert turns > 5


def alive(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
