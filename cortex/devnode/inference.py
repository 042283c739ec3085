"""The inference routes of OpenAI's shape: chat, completions, embeddings, images, speech."""

import asyncio
import base64
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

from cortex.devnode import bodies, errors
from cortex.devnode.engine import Ask, Collected, Json
from cortex.devnode.errors import (
    AskRefusedError,
    EngineFailedError,
    EngineGoneError,
    RefusalError,
)
from cortex.devnode.oddities import odd
from cortex.devnode.replies import (
    ChatFrames,
    Frames,
    Head,
    TextFrames,
    answer_json,
    chat_whole,
    now_s,
    text_whole,
)
from cortex.devnode.residency import Seat
from cortex.devnode.streams import Stream

if TYPE_CHECKING:
    from cortex.devnode.node import Node


class Inference:
    """Handlers; `generate` is shared with the Anthropic and Responses routes."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        body = bodies.chat(
            await bodies.read(request), plain_template=self._node.knobs.plain_template
        )
        ask = Ask(kind="chat", model="", body=body, max_tokens=bodies.max_tokens(body))
        async with self.admitted():
            return await self._answer(request, ask, ChatFrames, chat_whole)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        body = bodies.completion(await bodies.read(request))
        ask = Ask(kind="text", model="", body=body, max_tokens=bodies.max_tokens(body))
        async with self.admitted():
            return await self._answer(request, ask, TextFrames, text_whole)

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Count one inference request, and do what the knobs say before any work."""
        stats, knobs = self._node.stats, self._node.knobs
        stats.started += 1
        outcome = "cancelled"
        try:
            if knobs.answer_delay_s > 0:
                await asyncio.sleep(knobs.answer_delay_s)
            if knobs.stall:
                await asyncio.Event().wait()
            yield
            outcome = "finished"
        except (RefusalError, errors.PlainRefusalError):
            outcome = "finished"
            raise
        finally:
            setattr(stats, outcome, getattr(stats, outcome) + 1)

    async def _answer(
        self,
        request: web.Request,
        ask: Ask,
        frames: Callable[[Head], Frames],
        whole: Callable[[Head, Collected], Json],
    ) -> web.StreamResponse:
        if ask.body.get("stream"):
            stream = Stream(self._node, request)
            return await self.stream(stream, ask, frames)
        head, answer, error = await self.whole(ask)
        if error is None:
            return answer_json(whole(head, answer))
        if isinstance(error, EngineFailedError):
            return errors.partial(500, str(error), whole(head, answer))
        raise error

    def head(self, seat: Seat, request_id: str, ask: Ask) -> Head:
        """The repeated part of an answer from `seat`."""
        return Head(
            id=request_id,
            model=seat.model,
            created=now_s(),
            created_in_ms=self._node.profile.created_in_ms,
            request=ask.body,
            requested=bodies.model_of(ask.body),
        )

    async def stream(
        self,
        stream: Stream,
        ask: Ask,
        frames: Callable[[Head], Frames],
        *,
        beat: bytes = b":\n\n",
        collect: bool = False,
    ) -> web.StreamResponse:
        """Serve one stream; work stops with the client. Refusals before headers are raised."""
        node = self._node
        seat = await node.seat_for(bodies.model_of(ask.body))
        node.stats.in_flight[seat.model] += 1
        outcome = "streams_stopped"
        try:
            async with seat.hold() as request_id:
                pieces = node.engine.pieces(_for(ask, seat))
                form = odd(frames(self.head(seat, request_id, ask)), node.knobs.oddity)
                await stream.run(seat, form, pieces, beat, collect=collect)
            outcome = ""
        except EngineGoneError as gone:
            outcome = "cut"
            node.stats.cut_unheard += stream.unheard
            stream.failed = str(gone)
            if not node.profile.cut_streams_end:
                await stream.hang()
        finally:
            node.stats.in_flight[seat.model] -= 1
            if outcome:
                setattr(node.stats, outcome, getattr(node.stats, outcome) + 1)
        return stream.response

    async def whole(self, ask: Ask) -> tuple[Head, Collected, RefusalError | None]:
        """Generate to the end, even if the client leaves meanwhile."""
        seat = await self._node.seat_for(bodies.model_of(ask.body))
        listening = asyncio.Event()
        listening.set()
        try:
            return await self._node.see_through(self.collect(seat, ask, listening))
        except asyncio.CancelledError:
            listening.clear()
            self._node.stats.whole_continued += 1
            raise

    async def collect(
        self, seat: Seat, ask: Ask, listening: asyncio.Event | None = None
    ) -> tuple[Head, Collected, RefusalError | None]:
        """The answer so far, and what ended it early; never raises a refusal.

        `listening` is set for as long as somebody waits for the answer.
        """
        node, answer = self._node, Collected()
        head = self.head(seat, "", ask)
        node.stats.in_flight[seat.model] += 1
        try:
            async with seat.hold() as request_id:
                head = self.head(seat, request_id, ask)
                async with aclosing(node.engine.pieces(_for(ask, seat))) as pieces, seat.slots:
                    async for piece in pieces:
                        answer.add(piece)
                        node.stats.generated += 1
        except EngineGoneError as gone:
            node.stats.cut += 1
            node.stats.cut_unheard += listening is not None and not listening.is_set()
            return head, answer, gone
        except RefusalError as error:
            return head, answer, error
        finally:
            node.stats.in_flight[seat.model] -= 1
        return head, answer, None

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/embeddings: one engine request per input."""
        body = await bodies.read(request)
        inputs = bodies.embedding_inputs(body)
        async with self.admitted():
            seat = await self._node.seat_for(bodies.model_of(body))
            vectors, tokens = await self._node.see_through(self._embed(seat, inputs))
        as_text = body.get("encoding_format") == "base64"
        rows: list[Json] = [
            {
                "object": "embedding",
                "embedding": _base64(vector) if as_text else vector,
                "index": index,
            }
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        model = bodies.model_of(body)
        return answer_json({"object": "list", "data": rows, "model": model, "usage": usage})

    async def _embed(self, seat: Seat, inputs: list[str]) -> tuple[list[list[float]], int]:
        self._node.stats.in_flight[seat.model] += 1
        try:
            async with seat.hold(), seat.slots:
                return await self._node.engine.embed(seat.model, inputs)
        finally:
            self._node.stats.in_flight[seat.model] -= 1

    async def images(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/images/generations: a picture of one pixel per image."""
        body = await bodies.read(request, prompt=str)
        form = body.get("response_format", "Url")
        if form not in ("Url", "B64Json"):
            raise errors.PlainRefusalError(422, bodies.wrong(f"unknown variant `{form}`"))
        async with self.admitted():
            head, _answer, error = await self.whole(
                _seen(body, str(body["prompt"]), category="image")
            )
        if error is not None:
            raise error
        picture = base64.b64encode(_pixel()).decode()
        rows: list[dict[str, Any]] = [
            {"url": f"image-{head.id}-{n}.png", "b64_json": None}
            if form == "Url"
            else {"url": None, "b64_json": picture}
            for n in range(body.get("n") or 1)
        ]
        return answer_json({"created": now_s(), "data": rows})

    async def speech(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/audio/speech: a tenth of a second of silence, 24 kHz mono 16 bit."""
        body = await bodies.read(request, input=str, model=str, response_format=str)
        form = body["response_format"]
        if form not in ("wav", "pcm"):
            raise AskRefusedError("Only support wav/pcm response format.")
        async with self.admitted():
            _head, _answer, error = await self.whole(
                _seen(body, body["input"], category="speech")
            )
        if error is not None:
            raise error
        samples = bytes(4800)
        riff = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + len(samples), b"WAVEfmt ", 16, 1, 1,
                           24_000, 48_000, 2, 16, b"data", len(samples))  # fmt: skip
        sound = riff + samples if form == "wav" else samples
        return web.Response(body=sound, content_type=f"audio/{form}")


def _for(ask: Ask, seat: Seat) -> Ask:
    return replace(ask, model=seat.model)


def _seen(body: Json, prompt: str, *, category: Literal["image", "speech"]) -> Ask:
    shown = {"model": bodies.model_of(body), "prompt": prompt}
    return Ask(kind="text", model="", body=shown, max_tokens=1, category=category)


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _pixel() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixel = zlib.compress(b"\x00\x80")
    parts = chunk(b"IHDR", head), chunk(b"IDAT", pixel), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
