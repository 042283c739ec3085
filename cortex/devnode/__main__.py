"""`python -m cortex.devnode scripted|real …`: one node as a process of its own.

Nothing catches SIGTERM: like mistral.rs, the process just dies and its connections with it.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

from cortex.devnode.node import Node
from cortex.devnode.profile import PROFILES
from cortex.devnode.scripted import ScriptedNode


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m cortex.devnode", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True)
    scripted = verbs.add_parser("scripted", help="a node that makes its answers up")
    scripted.add_argument(
        "--model", action="append", required=True, metavar="ID[:SIZE_MIB]", dest="models"
    )
    scripted.add_argument("--profile", choices=sorted(PROFILES), default="head")
    scripted.add_argument("--knobs", type=json.loads, default={}, metavar="JSON")
    real = verbs.add_parser("real", help="a node over mistral.rs's own engine, on the CPU")
    real.add_argument(
        "--model", action="append", required=True, metavar="ID=GGUF", dest="models"
    )
    for verb in (scripted, real):
        verb.add_argument("--host", default="127.0.0.1", help="the address to listen on")
        verb.add_argument("--port", type=int, default=0, help="0 takes a free one")
        verb.add_argument("--unloaded", action="append", default=[], metavar="ID")
        verb.add_argument("--alias", action="append", default=[], metavar="NAME=ID")
    return top


def sized(text: str) -> tuple[str, int]:
    """(id, MiB) of `ID[:SIZE_MIB]`; an id may itself contain colons."""
    model, colon, size = text.rpartition(":")
    return (model, int(size)) if colon and size.isdigit() else (text, 1024)


def build(args: argparse.Namespace) -> Node:
    """The node that the command line describes."""
    aliases = dict(alias.split("=", 1) for alias in args.alias)
    if args.verb == "real":
        from cortex.devnode.real import RealNode

        models = dict(model.split("=", 1) for model in args.models)
        return RealNode(
            models, unloaded=args.unloaded, aliases=aliases, port=args.port, say=say
        )
    return ScriptedNode(
        dict(map(sized, args.models)),
        unloaded=args.unloaded,
        aliases=aliases,
        profile=args.profile,
        port=args.port,
        **args.knobs,
    )


def say(line: str) -> None:
    """One line for whoever waits for the node."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def serve(node: Node, host: str) -> None:
    """Run until killed."""
    node.host = host
    node.exit_on_crash = True
    await node.start()
    say(f"listening {node.url}")
    await asyncio.Event().wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    try:
        args = parser().parse_args(argv)
        asyncio.run(serve(build(args), args.host))
    except KeyboardInterrupt:
        return 130
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
