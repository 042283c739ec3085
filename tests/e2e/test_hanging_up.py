"""A client that goes away is nobody's error: the log must not say that it was one."""

import json
import socket
import struct

import pytest

from tests.e2e.processes import Processes, eventually, request

TIMES = 12


def hang_up(port: int, path: str) -> None:
    """Read the first bytes of a stream that never ends, and reset the connection."""
    messages = [{"role": "user", "content": "hi"}]
    body = json.dumps({"model": "a", "stream": True, "max_tokens": 9, "messages": messages})
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall((head + body).encode())
        assert client.recv(200).startswith(b"HTTP/1.1 200")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_hanging_up_in_the_middle_of_a_write_is_no_error(
    processes: Processes, path: str
) -> None:
    gateway = processes.serve(processes.node("a", endless=True))
    for _ in range(TIMES):
        hang_up(gateway.port, path)
    history = f"{gateway.url}/cortex/v1/history"
    eventually(lambda: len(request(history).json["rows"]) == TIMES, "their rows")
    outcomes = {row["outcome"] for row in request(history).json["rows"]}
    assert outcomes == {"client_gone"}
    assert [line for line in gateway.log if line["level"] == "error"] == []
