"""JSON in UTF-8, by orjson where the extra `speed` is installed.

What a client sends is read strictly, what a node sends as it comes. Both ways accept and refuse the
same: what orjson does not take goes to the standard library, whose errors are then the only ones.
"""

import json
import math
from typing import Any

try:
    import orjson
except ImportError:
    orjson = None

_compact = json.JSONEncoder(separators=(",", ":")).encode
_lenient = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=str).encode


def loads(text: bytes | str) -> Any:
    """The value, however odd: NaN and halves of surrogate pairs are taken.

    Raises:
        ValueError: Not JSON, or not UTF-8.
        RecursionError: Nested too deeply.
    """
    if orjson is not None:
        try:
            return orjson.loads(text)
        except ValueError:
            pass
    return json.loads(text.decode() if isinstance(text, bytes) else text)


def loads_strictly(text: bytes) -> Any:
    """The value of JSON as RFC 8259 has it; raises as `loads_exactly` does."""
    if orjson is not None:
        try:
            return orjson.loads(text)
        except ValueError:
            pass
    return loads_exactly(text)


def loads_exactly(text: bytes) -> Any:
    """As strictly, and with integers beyond 64 bits, which orjson would round: for what is written again.

    Raises:
        ValueError: Not UTF-8, a byte order mark, NaN, a number beyond a double, half a surrogate
            pair, or no JSON at all.
        RecursionError: Nested too deeply.
    """
    parsed = json.loads(text.decode(), parse_constant=_no_constant, parse_float=_finite)
    if b"\\ud" in text or b"\\uD" in text:
        # Half of a surrogate pair has no encoding, which the error says.
        json.dumps(parsed, ensure_ascii=False).encode()
    return parsed


def dumps(value: Any) -> bytes:
    """The value without blanks."""
    if orjson is not None:
        try:
            packed: bytes = orjson.dumps(value)
            return packed
        except TypeError:
            pass
    return _compact(value).encode()


def dumps_anything(value: Any) -> str:
    """The value without blanks, letters as they are; what JSON has no form for, as `str` has it."""
    if orjson is not None:
        # Left to `str`, as the standard library does.
        odd = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
        try:
            packed: bytes = orjson.dumps(value, str, odd)
            return packed.decode()
        except TypeError:
            pass
    return _lenient(value)


def _no_constant(word: str) -> object:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number
