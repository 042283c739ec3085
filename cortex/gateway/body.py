"""Reads a request body without ever holding up the loop, keeping the original bytes."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from cortex.config.schema import Limits
from cortex.core.envelope import Envelope, Scanner, find_span, parse_whole
from cortex.core.errors import RequestError
from cortex.core.jsontext import dumps, loads_exactly
from cortex.gateway.call import Source
from cortex.gateway.room import Room, full

MIB = 1024 * 1024
SCANNED_BYTES = 16 * 1024
"""Of a body in one turn of the loop."""
WHOLE_BYTES = 256 * 1024
"""Up to here a body is parsed in one go (about a millisecond); beyond, scanned as it arrives."""


class Body:
    """A request body as it came, in as many pieces as it came in."""

    __slots__ = ("chunks", "envelope", "size")

    def __init__(self, chunks: list[bytes], envelope: Envelope) -> None:
        self.chunks = chunks
        self.envelope = envelope
        self.size = len(chunks[0]) if len(chunks) == 1 else sum(map(len, chunks))

    def payload(self) -> bytes | AsyncIterator[bytes]:
        return self.chunks[0] if len(self.chunks) == 1 else self._iterate()

    async def _iterate(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk

    def release(self) -> None:
        """Let go of the bytes: nobody will be sent them again."""
        self.chunks = []

    def fields(self) -> dict[str, Any]:
        """The whole body, parsed.

        Raises:
            RequestError: It is no JSON object after all: a large one was only scanned.
        """
        try:
            fields = loads_exactly(b"".join(self.chunks))
        except (ValueError, RecursionError) as exc:
            raise RequestError("the body is not valid JSON", code="invalid_json") from exc
        if not isinstance(fields, dict):
            raise RequestError("the body must be a JSON object", code="invalid_json")
        return fields

    def with_model(self, model: str) -> "Body":
        """The same bytes with another `model` value."""
        envelope, new = self.envelope, json.dumps(model).encode()
        span = envelope.model_span or find_span(self.chunks[0], "model")
        stream_span = envelope.stream_span
        if stream_span is not None and stream_span > span:
            further = len(new) - (span[1] - span[0])
            stream_span = (stream_span[0] + further, stream_span[1] + further)
        if envelope.model_span is not None:
            span_now = (span[0], span[0] + len(new))
            envelope = envelope._replace(model_span=span_now, stream_span=stream_span)
        return Body(_splice(self.chunks, span, new), envelope)

    def as_stream(self) -> "Body":
        """The same bytes, but asking for a stream with its token counts."""
        wanted = b'true,"stream_options":{"include_usage":true}'
        if self.envelope.names_stream:
            span = self.envelope.stream_span or find_span(b"".join(self.chunks), "stream")
            return Body(_splice(self.chunks, span, wanted), self.envelope)
        # Blanks may be in pieces of their own before it.
        at = next(at for at, chunk in enumerate(self.chunks) if b"{" in chunk)
        before, _, behind = self.chunks[at].partition(b"{")
        begin = before + b'{"stream":' + wanted + b"," + behind
        return Body([*self.chunks[:at], begin, *self.chunks[at + 1 :]], self.envelope)


def written(fields: dict[str, Any]) -> bytes:
    """A translated body.

    Raises:
        RequestError: It can be read but not written again: that takes more of the stack.
    """
    try:
        return dumps(fields)
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply", code="invalid_json") from exc


def small_body(source: Source, limits: Limits, room: Room) -> Body | None:
    """A body that has come already, in one piece; None = `read_body` it. Raises as that does."""
    size = source.declared
    if size is None or size > WHOLE_BYTES or size > limits.max_body_mb * MIB:
        return None
    whole = source.whole()
    if whole is None:
        return None
    room.take(source, len(whole), int(limits.max_bodies_mb * MIB))
    return Body([whole], parse_whole(whole))


async def read_body(source: Source, limits: Limits, room: Room) -> Body:
    """Read the body and its envelope.

    Raises:
        RequestError: Too large, too slow, broken off, or not the JSON it should be.
        CapacityError: All requests together hold too much.
    """
    limit_bytes = int(limits.max_body_mb * MIB)
    declared = source.declared
    if declared is not None and declared > limit_bytes:
        raise _too_large(limit_bytes)
    intake = _Intake(source, limit_bytes, room, int(limits.max_bodies_mb * MIB))
    try:
        if source.complete:
            await intake.fill()
        else:
            async with asyncio.timeout(limits.idle_timeout_s):
                await intake.fill()
    except MemoryError as exc:
        raise full() from exc
    except TimeoutError as exc:
        raise RequestError("the body did not arrive in time", code="request_timeout") from exc
    return intake.finish()


class _Intake:
    """A body on its way in: scanned from the moment it is too large to be parsed whole."""

    def __init__(self, source: Source, limit_bytes: int, room: Room, room_bytes: int) -> None:
        self._source = source
        self._limit_bytes = limit_bytes
        self._room = room
        self._room_bytes = room_bytes
        self._chunks: list[bytes] = []
        self._size = 0
        self._scanner: Scanner | None = None

    async def fill(self) -> None:
        while chunk := await self._source.read():
            self._take(chunk)
            if self._scanner is not None:
                await self._scan(chunk, self._scanner)
            elif self._size > WHOLE_BYTES:
                self._scanner = Scanner()
                for early in self._chunks:
                    await self._scan(early, self._scanner)

    def _take(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > self._limit_bytes:
            raise _too_large(self._limit_bytes)
        self._room.take(self._source, len(chunk), self._room_bytes)
        self._chunks.append(chunk)

    async def _scan(self, chunk: bytes, scanner: Scanner) -> None:
        """Read on in it, and let others have their turn meanwhile: it may be nothing but brackets."""
        for at in range(0, len(chunk), SCANNED_BYTES):
            scanner.feed(chunk[at : at + SCANNED_BYTES])
            await asyncio.sleep(0)

    def finish(self) -> Body:
        if self._scanner is not None:
            return Body(self._chunks, self._scanner.finish())
        whole = b"".join(self._chunks)
        return Body([whole], parse_whole(whole))


def _splice(chunks: list[bytes], span: tuple[int, int], new: bytes) -> list[bytes]:
    """Replace the bytes of `span`, touching no chunk outside it."""
    start, end = span
    spliced: list[bytes] = []
    offset = 0
    for chunk in chunks:
        after = offset + len(chunk)
        if after <= start or offset >= end:
            spliced.append(chunk)
        else:
            before = chunk[: start - offset] if start >= offset else b""
            middle = new if start >= offset else b""
            rest = chunk[end - offset :] if end <= after else b""
            spliced.append(before + middle + rest)
        offset = after
    return [chunk for chunk in spliced if chunk]


def _too_large(limit_bytes: int) -> RequestError:
    limit_mib = limit_bytes / MIB
    return RequestError(f"the body is larger than {limit_mib:g} MiB", code="request_too_large")
