"""The reader of nodes' answers: only `BadAnswerError`, and the same content however it is cut."""

from cortex.node.http1 import BadAnswerError, Decoder, decoder_for, read_head
from tests.fuzz.cutting import pieces

SEEDS = [
    b"\x03HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhellorest",
    b"\x01HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nrest",
    b"\x00HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\n\r\nbody",
    b"\x07HTTP/1.1 204 \r\nX-A: \xff\r\n\r\n",
    b"\x02HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n000a\r\n0123456789\r\nF\r\n0123456789abcde\r\n0\r\n\r\n",
    b"\x02HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
]


def one(data: bytes) -> None:
    raw, _, body = data[1:].partition(b"\r\n\r\n")
    try:
        head = read_head(raw)
        whole, cut = decoder_for(head, "POST"), decoder_for(head, "POST")
    except BadAnswerError:
        return
    assert 100 <= head.status <= 599
    for name, value in head.headers.items():
        assert name.isascii(), name
        assert not {"\r", "\n", "\x00"} & set(value), value
    assert fed(whole, [body]) == fed(cut, pieces(body, data[0]))


def fed(decoder: Decoder, parts: list[bytes]) -> tuple[bytes, bool, bytes] | None:
    """Content, whether it is whole, and what is behind it; None = broken."""
    content = b""
    rest = b""
    try:
        for part in parts:
            if decoder.ended:
                rest += part
            else:
                content += decoder.feed(part)
                rest = decoder.rest
    except BadAnswerError:
        return None
    return content, decoder.eof(), rest
