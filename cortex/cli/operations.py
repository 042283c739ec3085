"""`cortex load`, `unload`, `drain`, `undrain` and `defrag`."""

import argparse
import time
from urllib.parse import quote

from cortex.adminapi import LoadBody, ModelStatusBody, NodeChange, UnloadBody
from cortex.cli.bodies import as_json, understood
from cortex.cli.client import Client
from cortex.cli.endpoint import resolve
from cortex.cli.exit_codes import Exit
from cortex.cli.fleet_view import pin_lines
from cortex.cli.progress import progress
from cortex.cli.text import safe, span

PATIENCE_S = 3600.0
"""The gateway ends the wait by its own deadlines long before."""
_DOING = {"load": "loading", "unload": "draining and unloading"}


def run(args: argparse.Namespace) -> int:
    """Ask, wait, and say how things stand."""
    client = Client(resolve(args), timeout_s=PATIENCE_S)
    if args.verb in _DOING:
        return _change_model(args, client)
    return _change_node(args, client)


def _change_model(args: argparse.Namespace, client: Client) -> int:
    unload = args.verb == "unload"
    wanted = (
        UnloadBody(model=args.model, node=args.node, force=args.force)
        if unload
        else LoadBody(model=args.model, node=args.node)
    ).model_dump(exclude_none=True)
    began_s = time.monotonic()
    with progress(f"{_DOING[args.verb]} {safe(args.model)}"):
        answer = client.post(f"/cortex/v1/models/{args.verb}", wanted)
    body = understood(ModelStatusBody, answer, client)
    if args.json:
        print(as_json(answer))
        return Exit.OK
    print(f"{args.verb}ed {safe(args.model)} in {span(time.monotonic() - began_s)}")
    for line in pin_lines(body.models):
        print(line)
    return Exit.OK


def _change_node(args: argparse.Namespace, client: Client) -> int:
    answer = client.post(f"/cortex/v1/nodes/{quote(args.node, safe='')}/{args.verb}", {})
    body = understood(NodeChange, answer, client)
    if args.json:
        print(as_json(answer))
        return Exit.OK
    if args.verb == "defrag":
        print(f"{safe(body.node)} {safe(body.detail)}; `cortex events --follow` tells of it")
        return Exit.OK
    how = "draining" if body.draining else "in service"
    running = f", {body.in_flight} in flight" if body.in_flight else ""
    print(f"{safe(body.node)} is {how}{running}")
    return Exit.OK
