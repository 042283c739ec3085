"""How long the fleet waits, for what: all that the configuration does not ask about."""

from dataclasses import dataclass

from cortex.core.health import PAUSES, Pauses
from cortex.core.snapshot import FRESH_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Durations in seconds."""

    fresh_s: float = FRESH_S
    """How long a reading of a device's free memory is believed."""
    info_s: float = 10.0
    """Deadline of reading a node's memory: it may start a subprocess for it."""
    status_s: float = 10.0
    """Deadline of one status call."""
    status_interval_s: float = 0.5
    """Between two status calls while a load of unknown fate is followed."""
    unload_s: float = 30.0
    """Deadline of the unload call; the node answers before the memory is free."""
    verify_s: float = 10.0
    """Until the memory of an unloaded model is back."""
    verify_first_s: float = 0.05
    """Before the second reading of it; doubles, for a reading costs the node something…"""
    verify_longest_s: float = 0.5
    """…up to this."""
    drain_after_s: float = 5.0
    """How long a request waits at least for a model in use to fall idle before that is drained for it."""
    breaker: Pauses = PAUSES
    spared_s: float = 30.0
    """How long a model is left alone whose drain ran out of time."""
    cannot_unload_s: float = 600.0
    """How long a model is left alone whose node would not unload it."""

    loading_interval_s: float = 1.0
    """Longest pause between polls while a node loads for somebody else: only they tell of its end."""
    probe_s: float = 1.0
    """Deadline of the poll by which a node is down; it follows the one before at once."""
    overdue_s: float = 30.0
    """What a turn of a polling loop may take beyond its pause and its deadlines: writes to a busy disk."""

    house_s: float = 1.0
    """Between two looks for idle models and absent pins."""

    agent_lost_s: float = 15.0
    """Silence after which an agent counts as lost."""
    command_s: float = 60.0
    """A command that an agent did not pick up by then is not carried out any more."""

    defrag_look_s: float = 1.0
    """Between two looks for nodes that are due for a restart."""
    defrag_grace_s: float = 600.0
    """How long a node that is due may stay busy before it is drained all the same."""
    defrag_retry_s: float = 600.0
    """Before a node whose restart failed is tried again."""
    defrag_drain_s: float = 600.0
    """How long running requests of the node get."""
    defrag_copy_s: float = 120.0
    """Until another node can take a pinned model."""
    defrag_command_s: float = 180.0
    """Until the agent tells what became of the restart."""
    defrag_restart_s: float = 600.0
    """Until the node answers with a new process start: it loads every model first."""
    defrag_token_s: float = 60.0
    """Until its first token after that."""

    guard_first_s: float = 1.0
    """Before a loop that met a bug goes on; doubles with each in a row…"""
    guard_longest_s: float = 30.0
    """…up to this, which is less than the watchdog takes for a loop that stands still."""
    guard_calm_s: float = 60.0
    """A loop that ran so long met a new bug, not the last one again."""
    guard_told_s: float = 600.0
    """How long `/health` tells of a bug."""


WAITS = Waits()
