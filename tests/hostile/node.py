"""A node that means harm: threads and bare sockets, as fast as the loopback takes them."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

KIB = 1024
MIB = 1024 * KIB

Send = Callable[[socket.socket], None]
"""Answers one request; the connection goes on unless it hangs up."""


def hang_up(peer: socket.socket) -> None:
    """Unlike `close`, whoever else holds the descriptor."""
    peer.shutdown(socket.SHUT_RDWR)


def sends(*parts: bytes) -> Send:
    def answer(peer: socket.socket) -> None:
        for part in parts:
            peer.sendall(part)

    return answer


def floods(start: bytes, piece: bytes, total_bytes: int) -> Send:
    """`start`, then `piece` again and again, then the connection is closed in the middle."""

    def answer(peer: socket.socket) -> None:
        peer.sendall(start)
        for _ in range(max(1, total_bytes // len(piece))):
            peer.sendall(piece)
        hang_up(peer)

    return answer


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def head(status: str = "200 OK", *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode()


def whole(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    return head(status, f"Content-Length: {len(body)}", *fields) + body


def stream_head(*fields: str) -> bytes:
    chunks = ("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    return head("200 OK", *chunks, *fields)


def event(**delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def listing(*ids: str, **more: object) -> bytes:
    return json.dumps({"data": [{"id": name, "created": 1000} | more for name in ids]}).encode()


class HostileNode:
    """`with HostileNode("m1") as node:`; `answer` is for inference, `routes` for other paths."""

    def __init__(self, *models: str) -> None:
        self.models = models
        self.answer: Send = sends(whole(b"{}"))
        self.routes: dict[str, Send] = {}
        self._peers: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A thread in accept() is woken by this, and not by a close.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in tuple(self._peers):
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def behave(self) -> None:
        self.answer, self.routes = sends(whole(b"{}")), {}

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        self._peers.add(peer)
        # Whoever is being flooded may hang up at any byte.
        with suppress(OSError), peer:
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    data += (more := peer.recv(65536))
                    if not more:
                        return
                start, _, data = data.partition(b"\r\n\r\n")
                left = _length(start)
                while left > len(data) and (more := peer.recv(65536)):
                    data += more
                data = data[left:]
                self._route(start.split(b" ")[1].decode())(peer)

    def _route(self, path: str) -> Send:
        if path in self.routes:
            return self.routes[path]
        if path == "/v1/models":
            return sends(whole(listing(*self.models)))
        if path == "/v1/system/info":
            return sends(whole(b'{"build": {"version": "0.9.2"}}'))
        return self.answer


def _length(start: bytes) -> int:
    for line in start.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return int(line[15:])
    return 0
