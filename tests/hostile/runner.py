"""Plays cases of the corpus over raw sockets and tells what came of them."""

import asyncio
import json
import re
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field

from tests.hostile.corpus.case import CHAT, A, B, Case, S, get, post
from tests.node.rawnode import STREAM_HEAD, Got, chunk, whole

ANSWER_S = 20.0
QUIET_S = 0.35
"""Nothing said for so long is what `waits` means."""
AT_ONCE = 24
NODE_SEES = {
    "host", "content-length", "content-type", "accept", "accept-encoding", "x-request-id",
    "openai-beta", "anthropic-version", "anthropic-beta",
}  # fmt: skip
"""Header names that may reach a node; none is the client's word on connections or credentials."""
_MARK = re.compile(rb"<[0-9]{6}-[ABS]>")


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


@dataclass
class Witness:
    """A node that answers with the mark it was sent, and remembers everything."""

    seen: list[bytes] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    async def answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        marks = _MARK.findall(got.body)
        self.seen += marks
        for name in got.headers:
            if name.lower() not in NODE_SEES or len(got.headers.getall(name)) > 1:
                self.odd.append(f"header {name}: {got.headers[name]!r}")
        self._look_at(got.body)
        said = (marks[0] if marks else b"nothing").decode()
        if b'"stream":true' in got.body.replace(b" ", b""):
            event = {
                "choices": [{"index": 0, "delta": {"content": said}, "finish_reason": "stop"}]
            }
            parts = [STREAM_HEAD, chunk(b"data: " + json.dumps(event).encode() + b"\n\n")]
            for part in [*parts, chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"]:
                writer.write(part)
        else:
            message = {"role": "assistant", "content": said}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = {
                "id": "c",
                "model": "m1",
                "choices": [choice],
                "usage": {"prompt_tokens": 1},
            }
            writer.write(whole(json.dumps(body).encode()))
        await writer.drain()

    def _look_at(self, body: bytes) -> None:
        """Every reader of the body must find the model that the gateway chose: here always m1."""
        models: list[object] = []

        def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
            models[:] = [value for key, value in found if key == "model"]
            return dict(found)

        try:
            json.loads(body.decode(), object_pairs_hook=pairs, parse_constant=_refuse)
        except (ValueError, RecursionError) as exc:
            self.odd.append(f"a body that is no JSON: {exc}")
        else:
            if models != ["m1"]:
                self.odd.append(f"models {models!r}")


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is no JSON")


class Connection:
    """One raw connection; `read` gives answers one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes | tuple[bytes, ...], pause_s: float = 0.0) -> None:
        with suppress(ConnectionError):
            for piece in (data,) if isinstance(data, bytes) else data:
                self.writer.write(piece)
                await self.writer.drain()
                await asyncio.sleep(pause_s)

    async def read(self, *, head: bool = False) -> Answered | None:
        """The next answer; None when the connection has ended."""
        try:
            raw = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = raw[:-4].split(b"\r\n")
        assert first.startswith(b"HTTP/"), f"no answer but {first[:80]!r}"
        headers = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            assert colon, f"a split header: {raw!r}"
            headers[name.lower()] = value.strip()
        status = int(first.split()[1])
        if head or status in {100, 204, 304}:
            return Answered(status, headers, b"")
        return Answered(status, headers, await self._body(headers))

    async def _body(self, headers: dict[bytes, bytes]) -> bytes:
        try:
            if headers.get(b"transfer-encoding") == b"chunked":
                body = b""
                while size := int((await self.reader.readuntil(b"\r\n"))[:-2], 16):
                    body += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readexactly(2)
                return body
            if b"content-length" in headers:
                return await self.reader.readexactly(int(headers[b"content-length"]))
            return await self.reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""

    def drop(self) -> None:
        """Reset, so that nothing lingers on either side."""
        own = self.writer.get_extra_info("socket")
        with suppress(OSError):
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def connect(port: int) -> Connection:
    return Connection(*await asyncio.open_connection("127.0.0.1", port, limit=2**22))


def marked(data: bytes, serial: int) -> bytes:
    for mark in (A, B, S):
        data = data.replace(mark, b"<%06d-%c>" % (serial, mark[-3]))
    return data


def is_inference(case: Case) -> bool:
    """Whether it is to come second on a connection too, behind a good request."""
    first = case.send if isinstance(case.send, bytes) else b"".join(case.send)
    return first.startswith((b"POST " + CHAT, b"POST /v1/messages"))


async def play(
    port: int, case: Case, serial: int, *, second: bool, answer_s: float = ANSWER_S
) -> str | None:
    """Run one case; what was wrong, or None. What the node saw is checked by `node_faults`."""
    connection = await connect(port)
    try:
        async with asyncio.timeout(answer_s):
            if second:
                await connection.send(
                    marked(post(body=b'{"model":"m1","messages":[]}'), serial)
                )
                good = await connection.read()
                if good is None or good.status != 200:
                    return f"the good request before it was answered {good}"
            return await _judge(connection, case, serial)
    except TimeoutError:
        return f"nothing for {answer_s:g} s where {case.expect} was expected"
    except AssertionError as exc:
        return str(exc)
    finally:
        connection.drop()


async def _judge(connection: Connection, case: Case, serial: int) -> str | None:
    pieces = (case.send,) if isinstance(case.send, bytes) else case.send
    data = marked(b"\x00\xffCUT\xff\x00".join(pieces), serial).split(b"\x00\xffCUT\xff\x00")
    sending = asyncio.create_task(connection.send(tuple(data), case.pause_s))  # noqa: TID251 (ended below)
    try:
        outcomes, answers = await _outcomes(connection, case)
    finally:
        sending.cancel()
    told = " ".join(outcomes)
    for alternative in case.expect.split("|"):
        wanted = alternative.rstrip("!")
        if _fits(told, wanted):
            if alternative.endswith("!") and outcomes[-1] != "closed":
                return await _wants_end(connection)
            return _own(answers, serial) or await _still_in_step(connection, outcomes, serial)
    return f"{told} instead of {case.expect}: {answers[-1].body[:150] if answers else b''!r}"


def _fits(told: str, wanted: str) -> bool:
    pattern = wanted.replace("4xx", "4[0-9][0-9]")
    return re.fullmatch(pattern, told) is not None


async def _outcomes(connection: Connection, case: Case) -> tuple[list[str], list[Answered]]:
    """As many answers as the longest alternative has, or until the connection ends."""
    most = max(len(one.rstrip("!").split()) for one in case.expect.split("|"))
    least = min(len(one.rstrip("!").split()) for one in case.expect.split("|"))
    outcomes: list[str] = []
    answers: list[Answered] = []
    first = case.send if isinstance(case.send, bytes) else b"".join(case.send)
    while len(outcomes) < most:
        may_wait = "waits" in case.expect and not outcomes
        enough = any(
            _fits(" ".join(outcomes), one.rstrip("!")) for one in case.expect.split("|")
        )
        quiet_s = QUIET_S if may_wait or enough else None
        try:
            async with asyncio.timeout(quiet_s):
                answer = await connection.read(head=first.startswith(b"HEAD ") and not outcomes)
        except TimeoutError:
            if may_wait:
                outcomes.append("waits")
                continue
            break
        if answer is None:
            if len(outcomes) < least or not outcomes:
                outcomes.append("closed")
            break
        answers.append(answer)
        outcomes.append(str(answer.status))
        if answer.status == 400 and answer.headers.get(b"connection") == b"close":
            break
    return outcomes, answers


def _own(answers: list[Answered], serial: int) -> str | None:
    """No answer may hold another request's mark, an unsafe header, or permission for other sites."""
    for answer in answers:
        for mark in _MARK.findall(answer.body):
            if int(mark[1:7]) != serial:
                return f"somebody else's answer: {mark!r}"
        if any(name.startswith(b"access-control-") for name in answer.headers):
            return "permission for other sites"
        if b"Traceback" in answer.body or b'File "' in answer.body:
            return f"a traceback: {answer.body[:200]!r}"
    marks = [mark for answer in answers for mark in _MARK.findall(answer.body)]
    return None if marks == sorted(set(marks)) else f"answers out of order: {marks}"


async def _wants_end(connection: Connection) -> str | None:
    extra = await connection.read()
    return None if extra is None else f"{extra.status} behind what should be the end"


async def _still_in_step(
    connection: Connection, outcomes: list[str], serial: int
) -> str | None:
    """Where the connection is still open after whole answers, the next one is that of the next request."""
    if outcomes[-1] in {"closed", "waits"} or len(outcomes) == 0:
        return None
    await connection.send(get(headers=b"x-request-id: probe-%d\r\n" % serial))
    with suppress(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            answer = await connection.read()
            if answer is not None and answer.status == 200:
                found = answer.headers.get(b"x-request-id")
                if found != b"probe-%d" % serial:
                    return f"out of step: {found!r}"
    return None


def node_faults(case: Case, serial: int, witness: Witness) -> str | None:
    """Whether the node saw what it should, each once."""
    own = sorted(mark[8:9].decode() for mark in witness.seen if int(mark[1:7]) == serial)
    if case.reaches is None:
        fits = len(own) == len(set(own)) and "S" not in own
        return None if fits else f"the node saw {own}"
    return None if own == sorted(case.reaches) else f"the node saw {own}, not {case.reaches}"
