"""Which of the gateway's commands are carried out, and what it has still to be told about them. No I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cortex.agentapi import AgentCommand, CommandAck

RESTART = "restart"
MOST_ID_CHARACTERS = 200
INTERRUPTED = "the agent ended while it was carried out; its outcome is unknown"


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that was begun, ever."""

    id: str
    ok: bool | None = None
    """None = begun, and no outcome was written down."""
    detail: str = ""

    def ack(self) -> CommandAck:
        if self.ok is None:
            return CommandAck(id=self.id, ok=False, detail=INTERRUPTED)
        return CommandAck(id=self.id, ok=self.ok, detail=self.detail)


@dataclass(frozen=True, slots=True)
class CarryOut:
    """Begin it now."""

    command: AgentCommand


@dataclass(frozen=True, slots=True)
class Answer:
    """Do nothing; tell the gateway why, or how it went."""

    ack: CommandAck


@dataclass(frozen=True, slots=True)
class Leave:
    """Do nothing and say nothing: the gateway repeats it."""


Verdict = CarryOut | Answer | Leave


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the agent knows at the moment a reply has come."""

    past: Mapping[str, Entry]
    """Commands begun, by id."""
    running: str | None = None
    """Id of the command under way."""
    can_restart: bool = True
    taken_s: float = 0.0
    """From asking the gateway until now; a reply may have been held up by as much."""
    memory_s: float | None = None
    """How far back `past` is known to be complete; None = all the way."""


def judge(command: AgentCommand, standing: Standing) -> Verdict:
    """What to do about `command`.

    1. Under way: nothing, its outcome will be told.
    2. Begun before: never again; tell how it went.
    3. Too old, unusable or impossible: refuse.
    4. Issued before the agent's memory begins (an earlier one was lost): refuse, it may have been carried out.
    5. Another one is under way: not yet. It will come again with an age that is true then.
    6. Carry it out.
    """
    if command.id == standing.running:
        return Leave()
    if (entry := standing.past.get(command.id)) is not None:
        return Answer(entry.ack())
    if reason := _objection(command, standing):
        ack = CommandAck(id=command.id[:MOST_ID_CHARACTERS], ok=False, detail=reason)
        return Answer(ack)
    return CarryOut(command) if standing.running is None else Leave()


def _objection(command: AgentCommand, standing: Standing) -> str:
    age_s = command.age_s + standing.taken_s
    if not 0 < len(command.id) <= MOST_ID_CHARACTERS:
        return f"refused: an id has 1 to {MOST_ID_CHARACTERS} characters"
    if command.action != RESTART:
        return f'refused: unknown action "{command.action[:40]}"'
    # Written so that a NaN is refused too.
    if not 0 <= age_s <= command.max_age_s:
        return f"refused: issued {age_s:.1f} s ago, at most {command.max_age_s:g} s are allowed"
    if not standing.can_restart:
        return "refused: no restart command is configured (--unit or --restart-command)"
    if standing.memory_s is not None and age_s > standing.memory_s:
        return "refused: issued before this agent's memory begins"
    return ""


class Acks:
    """Outcomes that the gateway may not know yet: each is repeated until it has arrived."""

    def __init__(self) -> None:
        self._pending: dict[str, CommandAck] = {}

    def add(self, ack: CommandAck) -> None:
        self._pending[ack.id] = ack

    def pending(self) -> list[CommandAck]:
        return list(self._pending.values())

    def arrived(self, sent: Iterable[CommandAck]) -> None:
        """A reply came to a report that carried `sent`."""
        for ack in sent:
            if self._pending.get(ack.id) == ack:
                del self._pending[ack.id]
