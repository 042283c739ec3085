"""`cortex agent`: the sidecar of a node in the foreground."""

import argparse
import asyncio
import os
from typing import TYPE_CHECKING

from cortex.cli.failures import CliError, ConfigFileError, KeyRefusedError, UnreachableError
from cortex.core.errors import ConfigError

if TYPE_CHECKING:
    from cortex.agent.settings import Settings
    from cortex.agent.uplink import NoReply


def run(args: argparse.Namespace) -> int:
    """Run until a signal ends it, or post one report with `--once`."""
    from cortex.agent import agent, settings

    options = {name: getattr(args, name) for name in settings.NAMES}
    try:
        wanted = settings.read(options, os.environ)
        return _once(wanted) if args.once else agent.run(wanted)
    except ConfigError as exc:
        raise ConfigFileError(str(exc)) from exc


def _once(wanted: "Settings") -> int:
    """The report is printed whether or not the gateway took it."""
    from cortex.agent import agent, uplink

    with asyncio.Runner(loop_factory=agent.new_loop) as runner:
        report, answer = runner.run(agent.once(wanted))
    print(report.model_dump_json(indent=2))
    if isinstance(answer, uplink.NoReply):
        raise _failure(answer, f"{wanted.gateway}: {answer.reason}")
    return 0


def _failure(answer: "NoReply", text: str) -> CliError:
    if answer.refused:
        return KeyRefusedError(text)
    return CliError(text) if answer.answered else UnreachableError(text)
