"""The argparse tree as completion scripts need it: verbs, options and what each takes."""

import argparse
from dataclasses import dataclass
from enum import Enum

from cortex.cli.parser import OUTCOMES
from cortex.core.records import EventKind


class Source(Enum):
    """Where the values of an option come from, if it takes one."""

    NOTHING = "nothing"
    """It takes no value."""
    ANYTHING = "anything"
    """A value that nobody can guess."""
    FILES = "files"
    MODELS = "models"
    """Asked of the gateway at the moment of completion, like the nodes."""
    NODES = "nodes"


Values = Source | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Taking:
    """One option or positional."""

    flags: tuple[str, ...]
    """Empty for a positional."""
    summary: str
    values: Values
    metavar: str = ""
    optional: bool = False
    """The value may be left out."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One command; the top level is a verb without a name."""

    name: str
    summary: str
    options: tuple[Taking, ...]
    positionals: tuple[Taking, ...] = ()


def spec_of(parser: argparse.ArgumentParser) -> tuple[Verb, list[Verb]]:
    """The top level and every verb, in the parser's order."""
    verbs: list[Verb] = []
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to look into a tree
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            verbs += [
                _verb(pseudo.dest, pseudo.help or "", action.choices[pseudo.dest])
                for pseudo in action._get_subactions()  # noqa: SLF001
            ]
    return _verb("", "", parser), verbs


def _verb(name: str, summary: str, parser: argparse.ArgumentParser) -> Verb:
    takings = [
        Taking(
            tuple(action.option_strings), _summary(action), _values(action), _metavar(action)
        )
        for action in parser._actions  # noqa: SLF001
        if action.help != argparse.SUPPRESS
        and not isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
    ]
    return Verb(
        name,
        summary,
        tuple(taking for taking in takings if taking.flags),
        tuple(taking for taking in takings if not taking.flags),
    )


def _summary(action: argparse.Action) -> str:
    """The help up to its first aside, as a list of choices has room for."""
    text = (action.help or "") % {"default": action.default}
    for mark in (" (", "; ", ": ", ", "):
        text = text.partition(mark)[0]
    return text


def _metavar(action: argparse.Action) -> str:
    return action.metavar if isinstance(action.metavar, str) else action.dest


def _values(action: argparse.Action) -> Values:
    if action.nargs == 0:
        return Source.NOTHING
    if action.choices is not None:
        return tuple(map(str, action.choices))
    named: dict[str, Values] = {
        "model": Source.MODELS,
        "node": Source.NODES,
        "outcome": OUTCOMES,
        "kind": tuple(EventKind),
    }
    fallback = Source.FILES if action.metavar == "FILE" else Source.ANYTHING
    return named.get(action.dest, fallback)
