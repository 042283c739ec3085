"""One thing that was looked at, and what came of it."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """It works, and will disappoint."""
    ERROR = "error"
    """Something does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and what to do about it."""

    level: Level
    subject: str
    """What was looked at: `config`, `keys`, a node's name…"""
    said: str
    advice: str = ""


def ok(subject: str, said: str) -> Finding:
    return Finding(Level.OK, subject, said)


def warn(subject: str, said: str, advice: str = "") -> Finding:
    return Finding(Level.WARN, subject, said, advice)


def error(subject: str, said: str, advice: str = "") -> Finding:
    return Finding(Level.ERROR, subject, said, advice)
