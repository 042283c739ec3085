"""Clients that never stop asking while things break, and what each of them saw."""

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, Self

from tests.e2e.processes import eventually

OK = "ok"
PATIENCE_S = 15.0
_NUMBERS = count(1)


@dataclass(frozen=True)
class Outcome:
    """One request as its client saw it."""

    request_id: str
    model: str
    stream: bool
    began_s: float
    ended_s: float
    word: str
    """`ok`; `503 code`; for a stream that had begun `cut: code`; `no answer: why`."""
    answered: bool
    """The gateway had said at least a status."""


class Load:
    """`with Load(port, "a", "b") as load:` keeps two clients a model busy: one streams."""

    def __init__(self, port: int, *models: str, tokens: int = 5) -> None:
        self._port = port
        self._tokens = tokens
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._outcomes: list[Outcome] = []
        self._threads = [
            threading.Thread(target=self._ask_for_ever, args=(model, stream), daemon=True)
            for model in models
            for stream in (False, True)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.steady()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S + 5)

    @property
    def outcomes(self) -> list[Outcome]:
        with self._lock:
            return list(self._outcomes)

    def saw(self, since_s: float, model: str | None = None) -> Counter[str]:
        """How often each word was heard by requests that ended since then."""
        return Counter(
            o.word for o in self.outcomes if o.ended_s >= since_s and model in (None, o.model)
        )

    def slowest_s(self, since_s: float, model: str) -> float:
        """The longest of the requests that went well."""
        return max(
            (o.ended_s - o.began_s for o in self.outcomes
             if o.ended_s >= since_s and o.model == model and o.word == OK),
            default=0.0,
        )  # fmt: skip

    def steady(self, quiet_s: float = 0.6, timeout_s: float = 20.0) -> None:
        """Wait until every client has been well for a while."""

        def quiet() -> bool:
            since_s = time.monotonic() - quiet_s
            recent = [o for o in self.outcomes if o.ended_s >= since_s]
            kinds = {(o.model, o.stream) for o in recent}
            return len(kinds) == len(self._threads) and {o.word for o in recent} == {OK}

        eventually(quiet, "all clients to be well", timeout_s)

    def recovered_in_s(self, mended_s: float) -> float:
        """From the mending to the last request that it came too late for."""
        self.steady()
        bad = [o.ended_s for o in self.outcomes if o.word != OK and o.ended_s > mended_s]
        return max(bad, default=mended_s) - mended_s

    def _ask_for_ever(self, model: str, stream: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            request_id = f"load-{next(_NUMBERS)}"
            began_s = time.monotonic()
            if connection is None:
                connection = http.client.HTTPConnection(
                    "127.0.0.1", self._port, timeout=PATIENCE_S
                )
            word, answered = self._ask(connection, request_id, model, stream)
            with self._lock:
                self._outcomes.append(
                    Outcome(
                        request_id, model, stream, began_s, time.monotonic(), word, answered
                    )
                )
            if word != OK:
                # Who got a whole answer, a refusal too, keeps its connection as any client does.
                if word.startswith(("no answer", "cut")):
                    connection.close()
                    connection = None
                # Retry-After would be seconds; tests have none to lose, nor a core to burn.
                self._stop.wait(0.05)
        if connection is not None:
            connection.close()

    def _ask(
        self, connection: http.client.HTTPConnection, request_id: str, model: str, stream: bool
    ) -> tuple[str, bool]:
        body = {"model": model, "max_tokens": self._tokens, "stream": stream}
        body["messages"] = [{"role": "user", "content": request_id}]
        headers = {"Content-Type": "application/json", "x-request-id": request_id}
        status = 0
        text = b""
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            status = response.status
            while piece := response.read1(65536):
                text += piece
            response.close()
        except (OSError, http.client.HTTPException) as exc:
            if not status:
                return f"no answer: {type(exc).__name__}", False
            return f"cut: {_code(text) or 'nothing said'}", True
        if status != 200:
            return f"{status} {_code(text)}", True
        whole = b"[DONE]" in text if stream else b'"choices"' in text
        return (OK if whole else f"cut: {_code(text) or 'nothing said'}"), True


def _code(text: bytes) -> str:
    """The code of the last error in an answer, whole or streamed."""
    for line in reversed(text.splitlines()):
        found: Any = None
        try:
            found = json.loads(line.removeprefix(b"data: "))
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("error"), dict):
            return str(found["error"]["code"])
    return ""
