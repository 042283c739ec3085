"""JSON lines on stderr: one object a record, `extra={"fields": {...}}` merged in; no bytes of a request."""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime

_HARMLESS = (AttributeError, ImportError, NameError, OSError, TypeError)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = "".join(_told(record.exc_info[1])).rstrip()
        return json.dumps(line, ensure_ascii=False, default=str)


def _told(error: BaseException, seen: frozenset[int] = frozenset()) -> Iterator[str]:
    """Where an exception came from and what kind it is, causes first.

    Its words are left out unless they are about code or the system: a `KeyError` or a parser's
    complaint repeats what it was given, which may be a prompt or a header with a key.
    """
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    seen |= {id(error)}
    if before is not None and id(before) not in seen:
        yield from _told(before, seen)
        yield "\nwhich led to:\n\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    words = f": {error}" if isinstance(error, _HARMLESS) else ""
    module = type(error).__module__
    origin = "" if module == "builtins" else f"{module}."
    yield f"{origin}{type(error).__qualname__}{words}\n"
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _told(inner, seen)


def configure(level: str = "INFO") -> None:
    """Send every log record of the process to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
