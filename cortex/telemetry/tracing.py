"""Traces of requests by OpenTelemetry, where its SDK is installed (the extra `otel`) and a collector is named.

A request is a span with one for its admission, one for each load it waited for and one for each node that was asked.
Names and attributes are those of OpenTelemetry's semantic conventions for generative AI, as far as they have any. Words
of a prompt or an answer are in none of them.
"""

import threading
import time
from typing import TYPE_CHECKING, Any

from cortex import __version__
from cortex.core.records import Outcome, RequestRecord

if TYPE_CHECKING:
    from types import ModuleType

    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

SHUTDOWN_S = 3.0
"""What the last spans get to leave."""
EXPORT_S = 5.0
"""Deadline of one batch; the collector is asked again with the next."""
_OPERATIONS = {
    "chat": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "images": "generate_content",
    "speech": "generate_content",
}
"""`gen_ai.operation.name` by our route."""
PROVIDER = "mistral_rs"
"""`gen_ai.provider.name`: the conventions know none for it."""


class Tracing:
    """Makes spans of requests and has them exported, on a thread of the SDK's own."""

    def __init__(
        self,
        endpoint: str,
        sample_ratio: float = 1.0,
        *,
        exporter: "SpanExporter | None" = None,
    ) -> None:
        """Begin; nothing is sent before there is a span.

        Args:
            endpoint: Of an OTLP collector over HTTP, as `http://collector:4318`.
            sample_ratio: Share of the traces begun here that are kept; a client's own decision counts more.
            exporter: Instead of that to `endpoint`.

        Raises:
            ImportError: The SDK is not installed, which a configuration that was read rules out.
        """
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation import tracecontext

        resource = Resource.create({"service.name": "cortex", "service.version": __version__})
        self._provider = TracerProvider(
            resource=resource,
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            shutdown_on_exit=False,
        )
        out = exporter or OTLPSpanExporter(
            endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_S
        )
        self._provider.add_span_processor(BatchSpanProcessor(out))
        self._tracer = self._provider.get_tracer("cortex", __version__)
        self._propagator = tracecontext.TraceContextTextMapPropagator()
        self._trace = trace

    def request(self, route: str, traceparent: str | None) -> "Traced":
        """Begin the span of a request.

        Args:
            route: As in the request log.
            traceparent: What the client sent (W3C Trace Context); what is none begins a trace anew.
        """
        carried = {} if traceparent is None else {"traceparent": traceparent}
        parent = self._propagator.extract(carried)
        root = self._tracer.start_span(route, parent, kind=self._trace.SpanKind.SERVER)
        return Traced(self._tracer, root, route, self._trace)

    def close(self) -> None:
        """Send what is left, within `SHUTDOWN_S`; call it off the event loop."""
        # The SDK's own deadlines add up to more.
        ending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(SHUTDOWN_S)


class Traced:
    """The spans of one request."""

    __slots__ = ("_asking", "_context", "_root", "_route", "_trace", "_tracer")

    def __init__(self, tracer: "Tracer", root: "Span", route: str, trace: "ModuleType") -> None:
        self._tracer = tracer
        self._root = root
        self._route = route
        #: `opentelemetry.trace`, which may not be there when this module is imported.
        self._trace = trace
        self._context = trace.set_span_in_context(root)
        self._asking: Span | None = None

    def admitted(self, queue_s: float, load_wait_s: float) -> None:
        """It has a lease now, after it waited so long for a slot, and before or between for loads."""
        now_ns = time.time_ns()
        waits = {"admit": queue_s, "load": load_wait_s}
        begin_ns = now_ns - round(sum(waits.values()) * 1e9)
        for name, wait_s in waits.items():
            end_ns = begin_ns + round(wait_s * 1e9)
            if wait_s or name == "admit":
                span = self._tracer.start_span(name, self._context, start_time=begin_ns)
                span.end(end_ns)
            begin_ns = end_ns

    def asking(self, node: str, model: str | None) -> str:
        """Begin the span of the next node; returns the `traceparent` that it is sent."""
        self._end_asking()
        self._asking = span = self._tracer.start_span(
            f"relay {node}",
            self._context,
            kind=self._trace.SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": _OPERATIONS[self._route],
                "gen_ai.provider.name": PROVIDER,
                "gen_ai.request.model": model or "",
                "cortex.node": node,
            },
        )
        of = span.get_span_context()
        return f"00-{of.trace_id:032x}-{of.span_id:016x}-{int(of.trace_flags):02x}"

    def done(self, record: RequestRecord) -> None:
        """End every span; what the request came to is an attribute of its own."""
        failed = record.outcome is Outcome.ERROR
        if failed and self._asking is not None:
            self._asking.set_attribute("error.type", record.error_code or "error")
            self._asking.set_status(self._trace.StatusCode.ERROR)
        self._end_asking()
        root = self._root
        root.update_name(f"{_OPERATIONS[self._route]} {record.model or 'unknown'}")
        root.set_attributes(_attributes(self._route, record))
        if failed:
            root.set_status(self._trace.StatusCode.ERROR, record.error_message)
        root.end()

    def _end_asking(self) -> None:
        if self._asking is not None:
            self._asking.end()
            self._asking = None


def _attributes(route: str, record: RequestRecord) -> dict[str, Any]:
    said = {
        "gen_ai.operation.name": _OPERATIONS[route],
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": record.model,
        "gen_ai.response.id": record.response_id,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "http.response.status_code": record.status or None,
        "error.type": record.error_code,
        "cortex.request_id": record.request_id,
        "cortex.route": route,
        "cortex.node": record.node,
        "cortex.client": record.client,
        "cortex.outcome": record.outcome.value,
        "cortex.attempts": record.attempts,
        "cortex.cold_start": record.cold_start,
        "cortex.queue_s": record.queue_ms / 1000,
        "cortex.load_wait_s": record.load_wait_ms / 1000,
        "cortex.time_to_first_token_s": None
        if record.ttft_ms is None
        else record.ttft_ms / 1000,
    }
    return {name: value for name, value in said.items() if value is not None}
