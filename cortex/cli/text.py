"""Text for people: units, ages, and names from elsewhere made harmless."""

import unicodedata
from collections.abc import Sequence
from datetime import datetime

ABSENT = "–"
LONGEST = 500

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Control, format (bidirectional overrides, zero width), surrogates, line and paragraph separators."""

_KEPT = frozenset("\n\t\u200c\u200d")


def safe(text: object, *, longest: int = LONGEST) -> str:
    r"""`text` as one line that cannot move a cursor, change a colour or reverse the reading direction.

    What has no glyph of its own is shown as `\x1b` or `\u202e`; what is too long is cut.
    """
    plain = "".join(
        _escaped(char) if unicodedata.category(char) in _HIDDEN else char
        for char in str(text)[: longest + 1]
    )
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def shown(text: str) -> str:
    """Text of several lines that can do no more to a terminal than `safe` allows.

    What joins letters or the parts of an emoji stays; so do tabs.
    """
    return "".join(
        _escaped(char) if unicodedata.category(char) in _HIDDEN and char not in _KEPT else char
        for char in text
    )


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def name(text: str | None) -> str:
    return safe(text) if text else ABSENT


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def some(names: Sequence[str], most: int) -> str:
    """The first `most` of these names, and how many there are beyond."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(safe, names[:most])) + more


def count(value: int | None) -> str:
    return ABSENT if value is None else str(value)


def gib(mib: float) -> str:
    """MiB as GiB with one decimal, without the unit."""
    return f"{mib / 1024:.1f}"


def size(mib: int | None) -> str:
    if mib is None:
        return ABSENT
    return f"{gib(mib)} GiB" if mib >= 1024 else f"{mib} MiB"


def file_size(size_bytes: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{size_bytes} B"


def span(seconds: float | None) -> str:
    """A duration in at most two units: `340ms`, `12.4s`, `3m12s`, `5h02m`, `9d04h`."""
    if seconds is None:
        return ABSENT
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for unit, scale, smaller, step in (
        ("d", 86_400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= scale:
            return f"{whole // scale}{unit}{whole % scale // step:02d}{smaller}"
    return f"{whole}s"


def span_ms(milliseconds: float | None) -> str:
    return ABSENT if milliseconds is None else span(milliseconds / 1000)


def ago(at_ms: int | None, *, now_ms: int) -> str:
    """How long ago in one unit: `now`, `40s ago`, `3m ago`, `5h ago`, `9d ago`."""
    if not at_ms:
        return ABSENT
    seconds = (now_ms - at_ms) // 1000
    if seconds < 1:
        return "now"
    for unit, scale in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= scale:
            return f"{seconds // scale}{unit} ago"
    return f"{seconds}s ago"


def rate(tokens_per_s: float | None) -> str:
    if tokens_per_s is None:
        return ABSENT
    return f"{tokens_per_s:.0f}" if tokens_per_s >= 100 else f"{tokens_per_s:.1f}"


def clock(at_ms: int) -> str:
    """Local date and time to the second, or the bare number when it is no instant of this calendar."""
    return _format(at_ms, "%Y-%m-%d %H:%M:%S")


def short_clock(at_ms: int) -> str:
    """`clock` without the year."""
    return _format(at_ms, "%m-%d %H:%M:%S")


def _format(at_ms: int, form: str) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime(form)
    except (OverflowError, ValueError, OSError):
        return str(at_ms)
