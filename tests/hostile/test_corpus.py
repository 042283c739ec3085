"""Hundreds of hostile inputs over raw sockets; what each must come to is said in the corpus."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cortex.core import jsontext
from tests.hostile.corpus import GROUPS
from tests.hostile.corpus.case import Case
from tests.hostile.corpus.connections import HEADS_STALL
from tests.hostile.corpus.heads import KEYED
from tests.hostile.runner import ANSWER_S, AT_ONCE, Witness, is_inference, node_faults, play
from tests.node.rawnode import RawNode
from tests.running import Running, running

TOML = '[limits]\nmax_body_mb = 2\n[aliases]\nalias = "m1"\n'
IMPATIENT = TOML.replace("[limits]\n", "[limits]\nidle_timeout_s = 2.5\n")
"""For cases that are answered by that timeout; the others may take what a busy machine takes."""


@asynccontextmanager
async def gateway_before(
    witness: Witness, folder: Path, toml: str = TOML
) -> AsyncIterator[Running]:
    async with (
        RawNode(["m1"], answer=witness.answer) as node,
        running(folder, [node], toml=toml) as gateway,
    ):
        yield gateway


async def faults_of(
    gateway: Running,
    witness: Witness,
    cases: Sequence[Case],
    *,
    twice: bool = True,
    answer_s: float = ANSWER_S,
) -> list[str]:
    """Play all cases at once, those for inference as the second of a connection too."""
    port = int(gateway.url.rpartition(":")[2])
    runs = [
        (case, second)
        for case in cases
        for second in ((False, True) if twice and is_inference(case) else (False,))
    ]
    found: dict[int, str | None] = {}
    room = asyncio.Semaphore(AT_ONCE)

    async def run(serial: int, case: Case, *, second: bool) -> None:
        async with room:
            found[serial] = await play(port, case, serial, second=second, answer_s=answer_s)

    async with asyncio.TaskGroup() as group:
        for serial, (case, second) in enumerate(runs):
            group.create_task(run(serial, case, second=second))
    return [
        f"{case.name}{', second' if second else ''} ({case.why}): {fault}"
        for serial, (case, second) in enumerate(runs)
        if (fault := found[serial] or node_faults(case, serial, witness))
    ] + witness.odd


def test_the_corpus_is_large():
    """At least 300 different inputs, each with a name and a reason of its own."""
    cases = [case for group in GROUPS.values() for case in group]
    assert len({case.name for case in cases}) == len(cases) >= 300
    assert all(case.why for case in cases)


@pytest.mark.parametrize("group", GROUPS)
async def test_hostile_inputs(group: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Each gets the answer it should, nothing slips through to the node, and the next client is served."""
    caplog.set_level(logging.WARNING)
    witness = Witness()
    stalls = any("408" in case.expect for case in GROUPS[group])
    async with gateway_before(witness, tmp_path, IMPATIENT if stalls else TOML) as gateway:
        faults = await faults_of(gateway, witness, GROUPS[group])
        assert faults == []
        assert (await gateway.chat("m1")).status == 200
    bugs = [r for r in caplog.records if r.exc_info or r.name == "cortex.gateway"]
    assert [record.getMessage() for record in bugs] == []


async def test_hostile_inputs_with_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """No way round a key, and none that ends in a bug."""
    caplog.set_level(logging.WARNING)
    witness = Witness()
    toml = TOML + '[[auth.keys]]\nname = "k"\nkey = "the-key"\n'
    async with gateway_before(witness, tmp_path, toml) as gateway:
        assert await faults_of(gateway, witness, KEYED, twice=False) == []
    assert [r.getMessage() for r in caplog.records if r.exc_info] == []


@pytest.mark.parametrize("group", ["invalid", "models", "values"])
async def test_hostile_bodies_without_the_fast_parser(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Python's own JSON takes more than there is; what stands in for it does not."""
    monkeypatch.setattr(jsontext, "orjson", None)
    witness = Witness()
    async with gateway_before(witness, tmp_path) as gateway:
        assert await faults_of(gateway, witness, GROUPS[group], twice=False) == []


async def test_heads_that_stall(tmp_path: Path):
    """A head that is not complete in time ends its connection."""
    witness = Witness()
    toml = TOML.replace("[limits]\n", "[limits]\nhead_timeout_s = 1.0\n")
    async with gateway_before(witness, tmp_path, toml) as gateway:
        # An idle connection is kept for longer than a test takes.
        cases = [case for case in HEADS_STALL if case.name != "head-nothing"]
        assert await faults_of(gateway, witness, cases) == []
        assert (await gateway.chat("m1")).status == 200


async def test_the_runner_notices(tmp_path: Path):
    """A wrong expectation, whatever is wrong with it, is a fault."""
    good = GROUPS["lengths"][0]
    wrong = [
        Case("status", good.send, "400", "it is 200"),
        Case("end", good.send, "200!", "it stays open"),
        Case("more", good.send, "200 200", "there is one answer"),
        Case("node", good.send, "200", "it reaches the node", ""),
        Case("waits", good.send, "waits", "it is answered"),
    ]
    witness = Witness()
    async with gateway_before(witness, tmp_path) as gateway:
        faults = await faults_of(gateway, witness, wrong, answer_s=1.5)
    assert len(faults) == 2 * len(wrong)
