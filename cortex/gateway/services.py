"""What the handlers share. The daemon fills it; a reload swaps `config` and `keyring`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web

from cortex.config.schema import Config
from cortex.core.ids import NodeName
from cortex.core.records import RequestRecord
from cortex.fleet.fleet import Fleet
from cortex.gateway import cors
from cortex.gateway.auth import Caller, Keyring
from cortex.gateway.call import Call
from cortex.gateway.line import Line
from cortex.gateway.ports import Inference, Ledger
from cortex.gateway.provenance import require_own_page
from cortex.gateway.quotas import Quotas
from cortex.gateway.recent import Recent
from cortex.gateway.room import Room
from cortex.gateway.tls import Certificate
from cortex.gateway.tokens import TokenCounts
from cortex.gateway.wishes import Wishes
from cortex.gateway.workshop import Workshop
from cortex.telemetry.metrics import Metrics
from cortex.telemetry.requests import RequestLines
from cortex.telemetry.tracing import Tracing


@dataclass(slots=True, kw_only=True)
class Services:
    config: Config
    keyring: Keyring
    fleet: Fleet
    nodes: Mapping[NodeName, Inference]
    ledger: Ledger
    metrics: Metrics
    recent: Recent
    lines: RequestLines
    tokens: TokenCounts
    quotas: Quotas
    anthropic_nodes: frozenset[NodeName]
    """Nodes that speak Anthropic's dialect only."""
    agent_token: str | None
    started_at_ms: int
    started_s: float
    draining: bool = False
    tracing: Tracing | None = None
    """None = requests are not traced."""
    certificate: Certificate | None = None
    """None = the public address speaks no TLS."""
    public_address: str | None = None
    """An address that other machines can reach; None = there is none."""
    room: Room = field(default_factory=Room)
    wishes: Wishes = field(default_factory=Wishes)
    workshop: Workshop = field(default_factory=Workshop)

    def shares_with(self, origin: str) -> bool:
        """Whether the pages of this origin may read what the inference routes answer."""
        origins = self.config.gateway.cors_origins
        return cors.allowed(origin, origins, keyed=not self.keyring.open)

    def refuse_foreign_page(self, headers: Mapping[str, str]) -> None:
        """Refuse what the page of an origin that is not shared with has a browser send; keys suffice.

        Raises:
            RequestError: 403.
        """
        origin = headers.get("Origin")
        if self.keyring.open and not (origin is not None and self.shares_with(origin)):
            require_own_page(headers, self.config.gateway.hosts)

    def line(self, call: Call, route: str) -> Line:
        """The account of a request to be answered."""
        line = Line(call.request_id, route, self.fleet.clock, self.recent.running, self.account)
        if self.tracing is not None:
            line.trace = self.tracing.request(route, call.headers.get("traceparent"))
        return line

    def account(self, record: RequestRecord) -> None:
        """Take a finished request into metrics, recent figures, the request log and the journal."""
        self.metrics.request_done(record)
        self.recent.request_done(record)
        if record.client in self.keyring.names:
            self.quotas.request_done(record)
        self.ledger.request_done(record)
        self.lines.request_done(record)


SERVICES = web.AppKey("services", Services)
CALLER = "cortex.caller"
REQUEST_ID = "cortex.request_id"


def caller_of(request: web.Request) -> Caller:
    caller = request[CALLER]
    assert isinstance(caller, Caller)
    return caller
