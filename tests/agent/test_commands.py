import math
from typing import Any

import pytest

from cortex.agent.commands import (
    INTERRUPTED,
    Acks,
    Answer,
    CarryOut,
    Entry,
    Leave,
    Standing,
    judge,
)
from cortex.agentapi import AgentCommand, CommandAck


def command(**more: Any) -> AgentCommand:
    return AgentCommand(**({"id": "c1", "action": "restart", "issued_at_ms": 0} | more))


def standing(**more: Any) -> Standing:
    return Standing(**({"past": {}} | more))


def refusal(wanted: AgentCommand, at: Standing) -> str:
    verdict = judge(wanted, at)
    assert isinstance(verdict, Answer)
    assert not verdict.ack.ok
    return verdict.ack.detail


def test_a_fresh_command_is_carried_out():
    assert judge(command(), standing()) == CarryOut(command())


@pytest.mark.parametrize(
    ("wanted", "at", "reason"),
    [
        (command(age_s=60.1), standing(), "issued 60.1 s ago, at most 60 s"),
        (command(age_s=3, max_age_s=2), standing(), "issued 3.0 s ago, at most 2 s"),
        (command(age_s=50), standing(taken_s=11), "issued 61.0 s ago"),
        (command(age_s=math.nan), standing(), "issued nan s ago"),
        (command(age_s=-1), standing(), "issued -1.0 s ago"),
        (command(max_age_s=math.nan), standing(), "at most nan s"),
        (command(action="reboot"), standing(), 'unknown action "reboot"'),
        (command(), standing(can_restart=False), "no restart command is configured"),
        (command(id=""), standing(), "an id has 1 to 200 characters"),
        (command(id="x" * 201), standing(), "an id has 1 to 200 characters"),
        (command(age_s=5), standing(memory_s=4.9), "before this agent's memory begins"),
    ],
)
def test_what_is_refused_has_its_reason(wanted: AgentCommand, at: Standing, reason: str):
    assert reason in refusal(wanted, at)


def test_exactly_at_the_limit_is_young_enough():
    assert isinstance(judge(command(age_s=60), standing()), CarryOut)
    assert isinstance(judge(command(age_s=1), standing(memory_s=2)), CarryOut)


@pytest.mark.parametrize(
    ("entry", "ack"),
    [
        (Entry("c1", True, "done"), CommandAck(id="c1", ok=True, detail="done")),
        (
            Entry("c1", False, "exit code 1"),
            CommandAck(id="c1", ok=False, detail="exit code 1"),
        ),
        (Entry("c1"), CommandAck(id="c1", ok=False, detail=INTERRUPTED)),
    ],
)
@pytest.mark.parametrize("age_s", [0, 1000])
def test_what_was_begun_is_told_and_never_begun_again(
    entry: Entry, ack: CommandAck, age_s: float
):
    assert judge(command(age_s=age_s), standing(past={"c1": entry})) == Answer(ack)


def test_the_one_under_way_is_left_alone_though_it_is_in_the_memory():
    at = standing(past={"c1": Entry("c1")}, running="c1")
    assert judge(command(age_s=1000), at) == Leave()


def test_another_waits_until_the_one_under_way_has_ended():
    assert judge(command(id="c2"), standing(running="c1")) == Leave()
    assert "unknown action" in refusal(command(id="c2", action="x"), standing(running="c1"))


def test_an_ack_is_repeated_until_a_reply_has_come_after_it():
    acks = Acks()
    acks.add(first := CommandAck(id="c1", ok=True))
    sent = acks.pending()
    acks.add(second := CommandAck(id="c2", ok=False))
    assert acks.pending() == [first, second]
    acks.arrived(sent)
    assert acks.pending() == [second]


def test_an_ack_that_changed_after_it_was_sent_stays():
    acks = Acks()
    acks.add(CommandAck(id="c1", ok=False))
    sent = acks.pending()
    acks.add(changed := CommandAck(id="c1", ok=True))
    acks.arrived(sent)
    assert acks.pending() == [changed]
