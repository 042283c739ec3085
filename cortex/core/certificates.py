"""Reads when a certificate ends, which the standard library tells only of a peer's."""

from datetime import UTC, datetime

_SEQUENCE = 0x30
_EXPLICIT_VERSION = 0xA0
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18


def not_after(der: bytes) -> datetime:
    """The end of validity of an X.509 certificate (RFC 5280, 4.1).

    Raises:
        ValueError: These bytes are no certificate.
    """
    try:
        certificate = _content(der, 0, _SEQUENCE)
        signed = _content(certificate, 0, _SEQUENCE)
        at = 0
        if signed[0] == _EXPLICIT_VERSION:
            at = _after(signed, at)
        for _ in ("serial number", "signature", "issuer"):
            at = _after(signed, at)
        validity = _content(signed, at, _SEQUENCE)
        end = _after(validity, 0)
        return _instant(validity[end], _content(validity, end, validity[end]))
    except IndexError as exc:
        raise ValueError("cut off") from exc


def _header(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins, and how long it is."""
    length = data[at + 1]
    if length < 0x80:
        return at + 2, length
    size = length & 0x7F
    start = at + 2 + size
    return start, int.from_bytes(data[at + 2 : start], "big")


def _content(data: bytes, at: int, kind: int) -> bytes:
    start, length = _header(data, at)
    content = data[start : start + length]
    if data[at] != kind or len(content) != length:
        raise ValueError("no certificate")
    return content


def _after(data: bytes, at: int) -> int:
    start, length = _header(data, at)
    return start + length


def _instant(kind: int, text: bytes) -> datetime:
    if kind == _UTC_TIME:
        # Two digits of a year mean 1950 to 2049.
        century = b"19" if text[:2] >= b"50" else b"20"
        text = century + text
    elif kind != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
