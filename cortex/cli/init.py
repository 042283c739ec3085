"""`cortex init`: a first configuration, from what the nodes say of themselves."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from cortex.cli.draft import Found, draft, hardware, names_for, warnings
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import CliError, UnreachableError, UsageError
from cortex.cli.progress import progress
from cortex.cli.surveying import survey_all
from cortex.cli.tables import Column, Row, Screen
from cortex.cli.text import ABSENT, counted, safe
from cortex.config.addresses import UNIX, endpoint_of
from cortex.config.load import SYSTEM_FILE
from cortex.core.ids import NodeName
from cortex.core.listing import NodeInfo
from cortex.core.survey import Trouble
from cortex.node.client import NodeClient

DEFAULT_PORT = 1234
"""Where mistral.rs listens unless told otherwise."""
CONNECT_S = 3.0
MODE = 0o644
"""No secret is in it; `cortex serve` takes no file that others may write."""
COLUMNS = (
    Column("node", elastic=True),
    Column("mistral.rs"),
    Column("memory and accelerators", elastic=True),
    Column("models"),
)


def run(args: argparse.Namespace) -> int:
    """Ask, write, and say what comes next."""
    endpoints = _endpoints(args.urls)
    output = None if args.to_stdout else Path(args.output)
    if output is not None and os.path.lexists(output):
        raise CliError(_taken(output))
    nodes = _found(endpoints)
    text = draft(nodes)
    if output is not None:
        _write(output, text)
    if args.to_stdout:
        sys.stdout.write(text)
        sys.stdout.flush()
    if args.json:
        print(json.dumps({"file": str(output), "nodes": list(map(_facts, nodes))}, indent=2))
    else:
        _tell(nodes, output)
    return Exit.OK


def _endpoints(urls: Sequence[str]) -> list[str]:
    """What the arguments mean.

    Raises:
        UsageError: One is no URL, or comes twice.
    """
    endpoints: list[str] = []
    for url in urls:
        try:
            endpoint = endpoint_of(_completed(url.strip()))
        except ValueError as error:
            raise UsageError(f"init: {url!r}: expected {error}") from error
        if endpoint in endpoints:
            raise UsageError(f"init: {endpoint} was given twice")
        endpoints.append(endpoint)
    return endpoints


def _completed(url: str) -> str:
    """`gpu-1` and `gpu-1:8080` as URLs."""
    if "://" in url or url.startswith(UNIX):
        return url
    try:
        has_port = urlsplit(f"http://{url}").port is not None
    except ValueError:
        has_port = True
    host, slash, path = url.partition("/")
    return f"http://{host}" + ("" if has_port else f":{DEFAULT_PORT}") + slash + path


def _found(endpoints: Sequence[str]) -> list[Found]:
    """Ask all of them.

    Raises:
        CliError: None is of use: what they said.
    """
    names = names_for(endpoints)
    clients = [
        NodeClient(NodeName(name), endpoint, connect_timeout_s=CONNECT_S)
        for name, endpoint in zip(names, endpoints, strict=True)
    ]
    with progress(f"asking {counted(len(clients), 'node')}"):
        surveys = survey_all(clients)
    nodes = [
        Found(name=name, endpoint=endpoint, survey=survey)
        for name, endpoint, survey in zip(names, endpoints, surveys, strict=True)
    ]
    wrong = [
        node for node in nodes if node.survey.trouble in {Trouble.STRANGE, Trouble.GATEWAY}
    ]
    if wrong:
        # Most likely a slip of the pen: nothing that would ever work is written down.
        raise CliError(
            "\n".join(f"{node.endpoint} is no node: {_said(node)}" for node in wrong)
        )
    if all(node.survey.trouble is Trouble.UNREACHABLE for node in nodes):
        lines = [f"{node.endpoint}: {_said(node)}" for node in nodes]
        hint = f"mistral.rs listens on port {DEFAULT_PORT} unless told otherwise"
        raise UnreachableError("\n".join([*lines, hint]))
    return nodes


def _said(node: Found) -> str:
    return safe(node.survey.said)


def _write(output: Path, text: str) -> None:
    """Never over a file that is there, not even one that came meanwhile.

    Raises:
        CliError: It cannot be written, and why.
    """
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    except FileExistsError as error:
        raise CliError(_taken(output)) from error
    except OSError as error:
        raise CliError(f"{output}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        output.unlink(missing_ok=True)
        raise CliError(f"{output}: {error.strerror}") from error


def _taken(output: Path) -> str:
    return (
        f"{output} is there already and stays as it is: --output FILE writes elsewhere,"
        " --print shows what would be written"
    )


def _tell(nodes: Sequence[Found], output: Path | None) -> None:
    screen = Screen(sys.stderr if output is None else None)
    screen.show(screen.table(COLUMNS, list(map(_row, nodes))))
    for node in nodes:
        if node.survey.trouble is not None:
            print(f"{node.name}: {_said(node)}; written down all the same", file=screen.stream)
            continue
        for warning in warnings(node.survey):
            print(f"{node.name}: {warning}", file=screen.stream)
    if output is not None:
        print(f"\nwrote {output}; next: {_next(output)}", file=screen.stream)


def _row(node: Found) -> Row:
    survey = node.survey
    info = survey.info or NodeInfo(version=None)
    models = survey.listing.models
    return [
        node.name,
        safe(info.version or ABSENT),
        ", ".join(hardware(info)) or ABSENT,
        f"{len(models)}, {len(survey.listing.loaded)} loaded" if models else ABSENT,
    ]


def _next(output: Path) -> str:
    """The command that makes use of the file."""
    if output.absolute() == SYSTEM_FILE:
        return "systemctl enable --now cortex, then cortex doctor"
    if output == Path("cortex.toml"):
        return "cortex doctor, then cortex serve"
    named = f"--config {shlex.quote(str(output))}"
    return f"cortex doctor {named}, then cortex serve {named}"


def _facts(node: Found) -> dict[str, object]:
    survey = node.survey
    info = survey.info or NodeInfo(version=None)
    return {
        "name": node.name,
        "endpoint": node.endpoint,
        "trouble": survey.trouble and f"{survey.trouble}: {survey.said}",
        "version": info.version,
        "vram_total_mib": info.vram_total_mib,
        "free_mib": info.free_mib,
        "accelerators": list(info.accelerators),
        "models": {model: status.value for model, status in survey.listing.models.items()},
        "warnings": [] if survey.trouble else list(warnings(survey)),
    }
