"""What `plan` answers: one of four outcomes, each with its reasons and the alternatives it rejected."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, assert_never, overload

from cortex.core.ids import ModelId, NodeName, RequestId


class Verdict(StrEnum):
    """Why a node was chosen or passed over."""

    CHOSEN = "chosen"
    BUSIER = "busier"
    """Could serve; another has fewer in flight for its capacity."""
    FULL = "full"
    """At its in-flight limit."""
    NOT_UP = "not_up"
    DRAINING = "draining"
    RESTARTING = "restarting"
    """Being restarted to get its memory back in one piece; it comes back."""
    BREAKER_OPEN = "breaker_open"
    ALREADY_TRIED = "already_tried"
    NOT_ALLOWED = "not_allowed"
    """`[models."ID"] nodes` leaves it out, or the request belongs to another node."""
    LOADING = "loading"
    WEDGED = "wedged"
    LIFECYCLE_OFF = "lifecycle_off"
    MOVING = "moving"
    """Busy with another load or unload."""
    IN_USE = "in_use"
    """Would fit once what others use there has ended, or has been there long enough."""
    NO_ROOM = "no_room"
    """What would have to go is pinned, ranks higher, or cannot be unloaded."""
    TOO_SMALL = "too_small"
    """Would not fit even alone."""
    LESS_ROOM = "less_room"
    """Could load it; another has more room, a shorter load, or loses less by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Considered:
    """One node that was looked at, with the numbers behind the verdict."""

    node: NodeName
    verdict: Verdict
    in_flight: int = 0
    limit: int | None = None
    need_mib: int | None = None
    available_mib: int | None = None
    total_mib: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        parts = [f"{self.node}: {self.verdict.replace('_', ' ')}"]
        match self.verdict:
            case Verdict.NO_ROOM | Verdict.TOO_SMALL | Verdict.LESS_ROOM | Verdict.IN_USE:
                parts.append(self._memory())
            case Verdict.CHOSEN if self.limit is None:
                parts.append(self._memory())
            case Verdict.CHOSEN | Verdict.BUSIER | Verdict.FULL:
                parts.append(f"{self.in_flight} in flight of {self.limit}")
            case (
                Verdict.NOT_UP
                | Verdict.DRAINING
                | Verdict.BREAKER_OPEN
                | Verdict.ALREADY_TRIED
                | Verdict.NOT_ALLOWED
                | Verdict.LOADING
                | Verdict.WEDGED
                | Verdict.LIFECYCLE_OFF
                | Verdict.MOVING
                | Verdict.RESTARTING
            ):
                pass
            case _:
                assert_never(self.verdict)
        if self.detail:
            parts.append(self.detail)
        return ", ".join(parts)

    def _memory(self) -> str:
        return (
            f"needs {_mib(self.need_mib)}, free {_mib(self.available_mib)},"
            f" total {_mib(self.total_mib)}"
        )


class Account(Sequence[Considered]):
    """Every node that was looked at, put into words once somebody reads them.

    A fleet may list a model a thousand times, and hardly any answer is ever explained. What the
    words are made of is frozen, so they are the same whenever they are made.
    """

    __slots__ = ("_tell", "_told")

    def __init__(self, tell: Callable[[], tuple[Considered, ...]]) -> None:
        self._tell = tell
        self._told: tuple[Considered, ...] | None = None

    def _words(self) -> tuple[Considered, ...]:
        if self._told is None:
            self._told = self._tell()
        return self._told

    def __len__(self) -> int:
        return len(self._words())

    @overload
    def __getitem__(self, index: int) -> Considered: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Considered]: ...
    def __getitem__(self, index: int | slice) -> Considered | Sequence[Considered]:
        return self._words()[index]

    def __iter__(self) -> Iterator[Considered]:
        return iter(self._words())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._words() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._words())

    def __repr__(self) -> str:
        return repr(self._words())


def _mib(value: int | None) -> str:
    return "unknown" if value is None else f"{value} MiB"


class Want(NamedTuple):
    """What a request asks of the planner."""

    model: ModelId
    preferred: NodeName | None = None
    """The node that served this conversation last; its KV cache is warm."""
    only: NodeName | None = None
    """The one node that may answer (it holds the state of a `resp_…`)."""
    excluded: frozenset[NodeName] = frozenset()
    """Nodes that failed this very request before its first byte."""
    since_s: float | None = None
    """When it began to wait (monotonic); None = just now."""
    load_waited_s: float = 0.0
    """How long it has waited for loads before this try."""
    deadline_s: float | None = None
    """When it gives up (monotonic); None = never."""
    seniors: frozenset[ModelId] = frozenset()
    """Models that older requests wait for, or that were just loaded for others: those are left to them."""
    insists: bool = False
    """An operator wants it: others lose their place though loads of it keep failing."""
    request_id: RequestId | None = None
    """Of the request that asks; None = none does."""


class Cause(NamedTuple):
    """Who has a load begin."""

    by: str = "cortex"
    """`request`, `operator`, `pin`; `cortex` for a copy that it needs itself."""
    request_id: RequestId | None = None
    waited_s: float = 0.0
    """How long whoever asks has waited already."""


UNASKED = Cause()


class Alternative(NamedTuple):
    """One way of making room for a model."""

    node: NodeName
    evict: tuple[ModelId, ...]
    cost_s: float | None
    """The loads that follow from it, by their learned times: of the model there, and of what goes, should
    it be wanted again. None = not known of each."""
    need_mib: int | None
    available_mib: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """`node` holds the model and has a free slot."""

    node: NodeName
    model: ModelId
    reason: str
    considered: Sequence[Considered] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Load the model on `node`, after draining and unloading `evict`."""

    node: NodeName
    model: ModelId
    reason: str
    need_mib: int | None = None
    evict: tuple[ModelId, ...] = ()
    another: bool = False
    """It is in memory elsewhere, and every copy is full: whoever asks waits for a slot, not for this."""
    guess: str = ""
    """What `need_mib` is guessed by; "" = it is known, or nothing is."""
    cost_s: float | None = None
    """As of an `Alternative`."""
    cause: Cause = UNASKED
    alternatives: Callable[[], tuple[Alternative, ...]] = field(
        default=tuple, compare=False, repr=False
    )
    """Makes the list of the next best ways, best first: few who decide have a use for it."""
    considered: Sequence[Considered] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing can be done now, but something under way will change that."""

    model: ModelId
    reason: str
    load_eta_s: float | None = None
    """Learned load time where a load is waited for; None = unknown, or not a load."""
    loading: bool = False
    recheck_s: float | None = None
    """When the answer may be another even if nothing changes (monotonic); None = it will not."""
    considered: Sequence[Considered] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Waiting would not help, or could not be bounded. `code` is documented in operations.md."""

    model: ModelId
    code: str
    reason: str
    retry_after_s: float | None = None
    considered: Sequence[Considered] = ()


Decision = Serve | Load | Wait | Reject
