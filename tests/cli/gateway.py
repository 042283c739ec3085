"""A gateway for the command's tests: canned answers over real HTTP, and ways to misbehave."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NOW_MS = 1_780_000_000_000

BODY = Any
Answer = tuple[int, Any]


class FakeGateway:
    """`with FakeGateway() as gateway: gateway.url`. `answers` maps a path to a body or a function."""

    def __init__(self, port: int = 0) -> None:
        self.answers: dict[str, BODY | Callable[[dict[str, str], Any], Answer]] = {}
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        """Method, path, query, body."""
        self.headers: list[dict[str, str]] = []
        self.key: str | None = None
        self.streams: list[list[bytes]] = []
        """What each connection to the event stream sends before it ends; the last one stays open."""
        self.port = port
        self._done = threading.Event()

    def __enter__(self) -> "FakeGateway":
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._done.clear()
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, path: str, query: dict[str, str], body: Any) -> Answer:
        canned = self.answers.get(path)
        if canned is None:
            return 404, error("no such route", "not_found")
        return canned(query, body) if callable(canned) else (200, canned)


def error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}


def _handler(gateway: FakeGateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve(None)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self._serve(json.loads(self.rfile.read(length)))

        def _serve(self, body: Any) -> None:
            parts = urlsplit(self.path)
            query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
            gateway.requests.append((self.command, parts.path, query, body))
            gateway.headers.append({key.lower(): value for key, value in self.headers.items()})
            if gateway.key and self.headers.get("Authorization") != f"Bearer {gateway.key}":
                self._json(401, error("this key is not known", "invalid_api_key"))
            elif parts.path in ("/cortex/v1/events/stream", "/cortex/v1/live"):
                self._stream()
            else:
                self._json(*gateway.answer(parts.path, query, body))

        def _json(self, status: int, body: Any) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for chunk in gateway.streams.pop(0) if gateway.streams else []:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.flush()
            if not gateway.streams:
                gateway._done.wait(10)
            self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True

        def log_message(self, *_args: object) -> None:
            pass

    return Handler


def model(name: str, node: str, **fields: Any) -> dict[str, Any]:
    return {"model": name, "node": node, "status": "loaded"} | fields


def status(**fields: Any) -> dict[str, Any]:
    """A fleet of three nodes: one fine, one due for a restart, one down."""
    return {
        "version": "0.1.0",
        "health": {"status": "degraded", "reasons": ["node gpu-c is down"], "version": "0.1.0"},
        "started_at_ms": NOW_MS,
        "uptime_s": 11_045.0,
        "in_flight": 3,
        "queued": 1,
        "requests_total": 1234,
        "store": {"path": "/var/lib/cortex/cortex.db", "ok": True, "size_bytes": 1_258_291},
        "nodes": [
            {
                "name": "gpu-large",
                "endpoint": "http://gpu-large:8080",
                "health": "up",
                "version": "0.9.2",
                "vram_total_mib": 49_152,
                "vram_used_mib": 20_480,
                "vram_reserved_mib": 8192,
                "in_flight": 3,
                "max_in_flight": 64,
                "cycles": 12,
                "defrag_after_cycles": 50,
                "models": [
                    model(
                        "acme/very-long-model-name-30B-A3B-Instruct",
                        "gpu-large",
                        pinned=True,
                        in_flight=3,
                        max_in_flight=32,
                        last_used_at_ms=1,
                        size_mib=18_330,
                        load_s=31.4,
                        tokens_per_s=48.25,
                    ),
                    model("acme/small", "gpu-large", status="loading"),
                ],
            },
            {
                "name": "gpu-b",
                "endpoint": "http://gpu-b:8080",
                "health": "up",
                "version": "0.9.0",
                "cycles": 50,
                "defrag_after_cycles": 50,
                "defrag_due": True,
                "may_load": False,
                "no_load_reason": "mistral.rs 0.9.0 destroys models on unload",
                "models": [
                    model(
                        "acme/small",
                        "gpu-b",
                        status="unloaded",
                        breaker_open=True,
                        breaker_reason="out of memory",
                    )
                ],
            },
            {
                "name": "gpu-c",
                "endpoint": "http://gpu-c:8080",
                "health": "down",
                "reason": "connection refused",
            },
        ],
    } | fields


def history_row(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": number,
        "request_id": f"req-{number}",
        "started_at_ms": NOW_MS + number * 1000,
        "route": "chat",
        "dialect": "openai",
        "model": "acme/small",
        "node": "gpu-b",
        "client": "zed",
        "stream": True,
        "status": 200,
        "outcome": "ok",
        "prompt_tokens": 812,
        "cached_tokens": 640,
        "completion_tokens": 120,
        "ttft_ms": 183.0,
        "duration_ms": 2650.0,
        "tokens_per_s": 48.6,
        "queue_ms": 0.4,
    } | fields


def event_row(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": number,
        "at_ms": NOW_MS + number * 1000,
        "kind": "loaded",
        "reason": "wanted by a request",
        "node": "gpu-b",
        "model": "acme/small",
    } | fields


def sse(number: int, **fields: Any) -> bytes:
    row = event_row(number, **fields)
    return f"id: {number}\nevent: {row['kind']}\ndata: {json.dumps(row)}\n\n".encode()
