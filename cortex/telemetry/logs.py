"""The process's log on stderr: JSON lines for programs, or text for people; no bytes of a request.

`extra={"fields": {...}}` says what a message is about. Where stderr is the journal's, each line begins with its
priority (sd-daemon(3)), which the journal takes off again: `journalctl -p warning` finds it.
"""

import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum

from cortex.core.errors import ConfigError
from cortex.core.jsontext import dumps_anything
from cortex.telemetry.journal import error_mark, is_journal

LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR"]
OURS = "cortex"
_HARMLESS = (AttributeError, ImportError, NameError, OSError, TypeError)
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
"""Of syslog(3), by the lowest level that has it."""
_DEBUG_PRIORITY = 7
_ODD = re.compile(r'[ "=]|\A\Z')
"""What a word of a line of text has not: it would be taken for several, or for none."""


class Format(StrEnum):
    """Of `CORTEX_LOG_FORMAT`."""

    JSON = "json"
    TEXT = "text"


class JsonFormatter(logging.Formatter):
    """One object a record, its fields beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": _at(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if told := _traceback(record):
            line["traceback"] = told
        return dumps_anything(line)


class TextFormatter(logging.Formatter):
    """Time, level and message, then the fields that say something; a traceback in lines of its own.

    Args:
        timed: Whether to write the time, in this machine's zone; the journal has its own.
    """

    def __init__(self, *, timed: bool = True) -> None:
        super().__init__()
        self._timed = timed

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        words = [
            _at(record).astimezone().strftime("%H:%M:%S.%f")[:-3] if self._timed else "",
            f"{record.levelname.lower():7}",
            _printable(record.getMessage()),
            *(f"{key}={_value(value)}" for key, value in fields.items() if value is not None),
        ]
        lines = [" ".join(word for word in words if word)]
        lines += (f"  {_printable(line)}" for line in _traceback(record).splitlines())
        return "\n".join(lines)


class Prioritized(logging.Formatter):
    """What another formatter writes, each line with its priority before it."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self.inner = inner

    def format(self, record: logging.LogRecord) -> str:
        mark = f"<{priority(record.levelno)}>"
        return "\n".join(mark + line for line in self.inner.format(record).split("\n"))


def priority(level: int) -> int:
    """Syslog's, of one of `logging`'s levels."""
    return next((found for least, found in _PRIORITIES if level >= least), _DEBUG_PRIORITY)


def complain(lines: Iterable[str]) -> None:
    """Tell people on stderr why this process ends; in the journal they are errors."""
    mark = error_mark()
    for line in lines:
        print(f"{mark}{OURS}: {line}", file=sys.stderr)  # noqa: T201


def configure(environ: Mapping[str, str]) -> None:
    """Send every log record of the process to stderr, as `CORTEX_LOG_LEVEL` and `_FORMAT` want it.

    Libraries are never heard below INFO: what they have to say there is about every byte.

    Raises:
        ConfigError: One of them is not known.
    """
    level = _chosen(environ, "CORTEX_LOG_LEVEL", "INFO", LEVELS, str.upper)
    usual = Format.TEXT if sys.stderr.isatty() else Format.JSON
    form = _chosen(environ, "CORTEX_LOG_FORMAT", usual, list(Format), str.lower)
    journal = is_journal(sys.stderr, environ)
    inner = JsonFormatter() if form == Format.JSON else TextFormatter(timed=not journal)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Prioritized(inner) if journal else inner)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Nothing of it is written, and to find it out takes longer than to write the line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - documented: "Optimization" of its HOWTO
    root.setLevel(max(logging.getLevelNamesMapping()[level], logging.INFO))
    logging.getLogger(OURS).setLevel(level)


def _chosen(
    environ: Mapping[str, str],
    name: str,
    usual: str,
    allowed: list[str],
    spelled: Callable[[str], str],
) -> str:
    given = environ.get(name, "").strip()
    value = spelled(given) if given else usual
    if value not in allowed:
        raise ConfigError(
            [
                f"environment {name}: expected {', '.join(allowed[:-1])} or {allowed[-1]}, found {given[:40]!r}"
            ]
        )
    return value


def _at(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _value(value: object) -> str:
    """Text quoted where it would not be one word."""
    if isinstance(value, str) and value.isprintable() and not _ODD.search(value):
        return value
    return _printable(json.dumps(value, ensure_ascii=False, default=str))


def _printable(text: str) -> str:
    """As one line that does nothing to a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return "".join(_told(record.exc_info[1])).rstrip()


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
