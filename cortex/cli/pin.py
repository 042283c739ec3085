"""`cortex pin` and `cortex unpin`."""

import argparse

from cortex.adminapi import ModelStatusBody, PinBody
from cortex.cli.bodies import as_json, understood
from cortex.cli.client import Client
from cortex.cli.endpoint import resolve
from cortex.cli.exit_codes import Exit
from cortex.cli.fleet_view import pin_lines
from cortex.cli.text import safe


def run(args: argparse.Namespace) -> int:
    """Ask for the pin and say where the model stands."""
    client = Client(resolve(args))
    wanted = PinBody(model=args.model, node=args.node)
    answer = client.post(f"/cortex/v1/models/{args.verb}", wanted.model_dump(exclude_none=True))
    body = understood(ModelStatusBody, answer, client)
    if args.json:
        print(as_json(answer))
        return Exit.OK
    where = f" on {safe(args.node)}" if args.node else ""
    print(f"{args.verb}ned {safe(args.model)}{where}")
    for line in pin_lines(body.models):
        print(line)
    if args.verb == "unpin" and any(
        copy.pinned and args.node in (None, copy.node) for copy in body.models
    ):
        print(
            "  another pin holds it: the configuration's, or one for another choice of --node"
        )
    return Exit.OK
