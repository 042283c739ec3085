"""The options of `cortex replay`. Standard library only."""

import argparse
import re

from cortex.cli import common_options
from cortex.cli.argument_types import reads

RULES = ("lru", "priority", "forecast", "future")
SHORT = "say what the fleet would have done otherwise"
LONG = """\
Live through the recorded requests once more, on a clock that leaps: by another rule of
eviction, with other nodes, pins or sizes. It decides with the gateway's own code; clients ask
when they asked, nodes take as long for a load as they took. It reads the database file, changes
nothing, and is no gateway. The first line says how far a replay of things as they were is from
what was recorded. `future` is no rule to choose: it knows every request to come, and shows what
is left to win. Load-hours are the time that nodes spent loading; lost are requests that were
refused for want of room, or waited too long."""
JSON = "print the figures as JSON, for scripts"
_UNITS = {"": 1, "M": 1, "MIB": 1, "G": 1024, "GIB": 1024, "T": 1 << 20, "TIB": 1 << 20}


def memory_mib(text: str) -> int:
    """`24G` as MiB.

    Raises:
        ValueError: What was expected instead.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([A-Za-z]*)", text, re.ASCII)
    scale = _UNITS.get(found[2].upper()) if found else None
    if found is None or not scale or not 1 <= float(found[1]) * scale <= 1 << 30:
        raise ValueError(f"{text!r} is no memory; write 24G or 24576M")
    return round(float(found[1]) * scale)


def sized_model(text: str) -> tuple[str, int]:
    """`ID=20G` as the model and its MiB; raises as `memory_mib` does."""
    model, equals, size = text.rpartition("=")
    if not equals or not model:
        raise ValueError(f"{text!r} is no model with its size; write ID=20G")
    return model, memory_mib(size)


def add_options(parser: argparse.ArgumentParser) -> None:
    common_options.add_database(
        parser, "read this database file (default: the configured one)", nargs=None
    )
    common_options.add_config(parser)
    common_options.add_since(parser)
    parser.add_argument(
        "--strategy",
        metavar="RULE",
        choices=RULES,
        help="only by this rule: lru, priority, forecast or future (default: by each)",
    )
    parser.add_argument(
        "--add-node",
        metavar="SIZE",
        type=reads(memory_mib),
        action="append",
        default=[],
        help="with one more node of so much memory (24G), which loads as fast as the others do",
    )
    parser.add_argument(
        "--without", metavar="NODE", action="append", default=[], help="without this node"
    )
    parser.add_argument(
        "--pin", metavar="ID", action="append", default=[], help="with this model never evicted"
    )
    parser.add_argument(
        "--model",
        metavar="ID=SIZE",
        type=reads(sized_model),
        action="append",
        default=[],
        help="as if this model took so much memory (qwen-32b=20G)",
    )
    parser.add_argument(
        "--advise",
        action="store_true",
        help="try every single change (rule, node more or less, pin) and print the best first",
    )
    parser.add_argument("--json", action="store_true", help=JSON)
