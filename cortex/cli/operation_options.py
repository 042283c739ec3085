"""The verbs that change models and nodes, as data for the parser. Standard library only."""

import argparse
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operation:
    verb: str
    short: str
    long: str
    on_node: bool = False
    """Its positional is a node; else a model, with an optional --node."""


OPERATIONS = (
    Operation(
        "load",
        "make a model resident",
        "Load a model where it fits, evicting less valuable idle ones as a request would, and\n"
        "wait until it is there. A model that is loaded already stays as it is.",
    ),
    Operation(
        "unload",
        "unload a model",
        "Let running requests of the model finish, unload it, and wait until its memory is back.\n"
        "A pinned model must be unpinned first. The next request for it loads it again, save for\n"
        "one that is wedged: that is unloaded only with --force, and gone until its node restarts.",
    ),
    Operation(
        "explain",
        "say what a request for a model would do now",
        "Ask the gateway's own planner, without effect: which node would serve, load, wait or\n"
        "refuse, what would be evicted, and why every other node was passed over, in numbers.",
    ),
    Operation(
        "drain",
        "take a node out of service",
        "Give the node no new requests and no loads; what runs there finishes. It stays so over\n"
        "restarts of the gateway, until `cortex undrain`.",
        on_node=True,
    ),
    Operation(
        "undrain",
        "put a node back into service",
        "End what `cortex drain` began.",
        on_node=True,
    ),
    Operation(
        "defrag",
        "restart a node to get its memory back in one piece",
        "Have the agent beside the node restart it: pinned models get a copy elsewhere first, what\n"
        "runs there finishes, and its models come back afterwards. Returns at once; `cortex events\n"
        "--follow` tells of each step.",
        on_node=True,
    ),
)


def add_operation(parser: argparse.ArgumentParser, operation: Operation) -> None:
    if operation.on_node:
        parser.add_argument("node", metavar="NODE", help="name of the node")
        return
    parser.add_argument("model", metavar="MODEL", help="id or alias of the model")
    parser.add_argument("--node", metavar="NAME", help="on this node only (default: any)")
    if operation.verb == "unload":
        parser.add_argument(
            "--force",
            action="store_true",
            help="even if it is wedged and cannot come back until its node restarts",
        )
