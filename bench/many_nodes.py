"""A thousand nodes in one process, one address each: `python -m bench.many_nodes NODES MODELS`.

All of 127.0.0.0/8 is this machine, so one socket on every address stands for all of them; the address
that was called tells which node is meant. Prints its port once it listens.
"""

import asyncio
import json
import sys

CREATED_S = 1_787_000_000
MEMORY_BYTES = 96 * 2**30


def address(number: int) -> str:
    """Of the node with this number."""
    return f"127.1.{number >> 8}.{number & 255}"


def models_of(number: int, models: int) -> list[str]:
    """What a node lists: the first on every node, the others on three each."""
    return [
        "everywhere",
        *(f"model-{(number * (models - 1) + i) // 3:05}" for i in range(1, models)),
    ]


def _answer(body: object) -> bytes:
    text = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return head.encode() + text


def listing(number: int, models: int) -> bytes:
    entries = [
        {
            "id": model,
            "object": "model",
            "created": CREATED_S,
            "owned_by": "local",
            "status": "loaded" if place < 4 else "unloaded",
        }
        for place, model in enumerate(models_of(number, models))
    ]
    return _answer({"object": "list", "data": entries})


INFO = _answer(
    {
        "devices": [
            {
                "kind": "cuda",
                "total_memory_bytes": MEMORY_BYTES,
                "available_memory_bytes": MEMORY_BYTES // 4,
            }
        ],
        "build": {"version": "0.9.1", "git_revision": "bench"},
    }
)


class Node(asyncio.Protocol):
    """One connection of one node; answers whole requests without a body."""

    def __init__(self, listings: list[bytes]) -> None:
        self._listings = listings

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        _, _, high, low = map(int, transport.get_extra_info("sockname")[0].split("."))
        self._listing = self._listings[high << 8 | low]

    def data_received(self, data: bytes) -> None:
        wanted = INFO if data.startswith(b"GET /v1/system/info") else self._listing
        self._transport.write(wanted)


async def serve(nodes: int, models: int) -> None:
    listings = [listing(number, models) for number in range(nodes)]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Node(listings), "0.0.0.0", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
