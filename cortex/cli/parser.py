"""The command line as an argparse tree. Standard library only: man pages and completions are made from it."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from cortex import __version__
from cortex.cli import (
    agent_options,
    backup_options,
    chat_options,
    demo_options,
    doctor_options,
    history_options,
    init_options,
    keys_options,
    replay_options,
    why_options,
)
from cortex.cli.argument_types import reads
from cortex.cli.common_options import add_config, add_gateway, add_span
from cortex.cli.durations import interval_s
from cortex.cli.exit_codes import MEANINGS, Exit
from cortex.cli.operation_options import OPERATIONS, add_operation

SHELLS = ("bash", "zsh", "fish")
OUTCOMES = ("ok", "client_gone", "error")

DESCRIPTION = """\
One OpenAI and Anthropic API in front of a fleet of mistral.rs nodes.

`cortex serve` runs the gateway. Every other command asks a running gateway; the gateway is
found by --endpoint, else $CORTEX_ENDPOINT, else the `listen` address of the configuration
file, else http://127.0.0.1:8000."""

ENVIRONMENT = {
    "CORTEX_ENDPOINT": "URL of the gateway that the commands ask",
    "CORTEX_API_KEY": "key sent as a bearer token; the admin commands want one with the admin role",
    "CORTEX_CONFIG": "configuration file, unless --config names one",
    "CORTEX_SECTION__KEY": "a key of the configuration, over the file: CORTEX_GATEWAY__LISTEN",
    "SSL_CERT_FILE": "certificates that vouch for gateways and nodes at https",
    "CORTEX_LOG_LEVEL": "DEBUG, INFO, WARNING or ERROR, of the gateway and the agent",
    "CORTEX_LOG_FORMAT": "text or json; by default text on a terminal, json elsewhere",
    "NO_COLOR": "no colour on a terminal; piped output never has any",
}

FILES = {
    "./cortex.toml": "the configuration, where this file exists",
    "/etc/cortex/cortex.toml": "the configuration, else",
    "/etc/cortex/keys.toml": "the API keys that `cortex keys` keeps",
    "/var/lib/cortex/cortex.db": "the gateway's state, as a service",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line, not a page of usage."""

    def error(self, message: str) -> NoReturn:
        from cortex.telemetry.journal import error_mark

        said = f"{self.prog}: {message} (see `{self.prog} --help`)\n"
        self.exit(Exit.USAGE, error_mark() + said)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the descriptions' lines as written, and every command on one line with its help."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)
        # argparse forgets the indent of commands when it looks for the longest.
        self._action_max_length = len("    check-config")


class Version(argparse.Action):
    """Asks for the revision when it is wanted, not whenever a parser is built."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from cortex.telemetry.revision import revision

        print(f"cortex {__version__} (revision {revision() or 'unknown'})")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The whole tree; `args.verb` names the command."""
    parser = Parser(
        prog="cortex",
        description=DESCRIPTION,
        epilog=_epilog(),
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version",
        action=Version,
        help="print the version and the source revision, and exit",
    )
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="COMMAND", title="commands", parser_class=Parser
    )
    for add in (
        _init,
        _serve,
        _chat,
        _status,
        _top,
        _history,
        _why,
        _models,
        _events,
        _pin,
        _unpin,
    ):
        add(verbs)
    for operation in OPERATIONS:
        options = _verb(verbs, operation.verb, operation.short, operation.long)
        add_operation(options, operation)
        add_gateway(options)
    for add in (_replay, _backup, _doctor, _check_config, _keys, _agent, _demo, _completion):
        add(verbs)
    return parser


def _epilog() -> str:
    codes = {str(code.value): meaning for code, meaning in MEANINGS.items()}
    tables = {"exit codes": codes, "environment": ENVIRONMENT, "files": FILES}
    lines = []
    for title, entries in tables.items():
        width = max(map(len, entries))
        lines += [
            f"{title}:",
            *(f"  {key:<{width}}  {text}" for key, text in entries.items()),
            "",
        ]
    return "\n".join(lines)


Verbs = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it


def _verb(verbs: "Verbs[Parser]", name: str, short: str, long: str) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=short,
        description=long,
        formatter_class=Formatter,
        allow_abbrev=False,
    )


def _init(verbs: "Verbs[Parser]") -> None:
    init_options.add_options(_verb(verbs, "init", init_options.SHORT, init_options.LONG))


def _serve(verbs: "Verbs[Parser]") -> None:
    parser = _verb(
        verbs,
        "serve",
        "run the gateway",
        "Run the gateway in the foreground. SIGTERM drains: running answers finish, new requests\n"
        "are refused. SIGHUP reads the configuration again; one with mistakes is refused and\n"
        "logged, and the running one stays.",
    )
    add_config(parser)


def _chat(verbs: "Verbs[Parser]") -> None:
    parser = _verb(verbs, "chat", chat_options.SHORT, chat_options.LONG)
    chat_options.add_options(parser)
    add_gateway(parser, chat_options.JSON)


def _status(verbs: "Verbs[Parser]") -> None:
    parser = _verb(
        verbs,
        "status",
        "show nodes, models and health",
        "Show the health of the gateway with its reasons, every node (health, device memory,\n"
        "requests in flight, load cycles since its last restart, version) and every model (where,\n"
        "status, last use, speed, size). Exit code 1 when the health is impaired.",
    )
    add_gateway(parser)
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        const=2.0,
        type=reads(interval_s),
        help="redraw every SECONDS (default: 2) until Ctrl-C",
    )


def _top(verbs: "Verbs[Parser]") -> None:
    parser = _verb(
        verbs,
        "top",
        "watch the fleet live, with keys to sort and filter",
        "Watch nodes with their memory by model, models, requests under way, the queue and the\n"
        "latest events, twice a second; ? shows the keys, q quits. Prompts and answers are never\n"
        "shown. Without a terminal one picture is printed. With --json every state of the fleet is\n"
        "printed as one line, until Ctrl-C.",
    )
    add_gateway(parser)
    parser.add_argument("--once", action="store_true", help="print one picture and exit")


def _history(verbs: "Verbs[Parser]") -> None:
    parser = _verb(verbs, "history", history_options.SHORT, history_options.LONG)
    history_options.add_options(parser)


def _why(verbs: "Verbs[Parser]") -> None:
    why_options.add_options(_verb(verbs, "why", why_options.SHORT, why_options.LONG))


def _replay(verbs: "Verbs[Parser]") -> None:
    replay_options.add_options(
        _verb(verbs, "replay", replay_options.SHORT, replay_options.LONG)
    )


def _backup(verbs: "Verbs[Parser]") -> None:
    backup_options.add_options(
        _verb(verbs, "backup", backup_options.SHORT, backup_options.LONG)
    )


def _models(verbs: "Verbs[Parser]") -> None:
    parser = _verb(
        verbs,
        "models",
        "list the models that clients can ask for",
        "List the catalogue that clients see: every model and alias, its best status, and the\n"
        "nodes that list it. A star marks a pinned copy.",
    )
    add_gateway(parser)


def _events(verbs: "Verbs[Parser]") -> None:
    parser = _verb(
        verbs,
        "events",
        "show what happened to the fleet",
        "Show changes of the fleet, newest last: loads, unloads, evictions, pins, nodes going up\n"
        "and down, each with its reason.",
    )
    add_gateway(parser)
    parser.add_argument(
        "--kind", metavar="KIND", help="only this kind, for example load_failed"
    )
    parser.add_argument("--node", metavar="NAME", help="only this node")
    parser.add_argument("--model", metavar="ID", help="only this model")
    add_span(parser)


def _pin(verbs: "Verbs[Parser]") -> None:
    parser = _verb(
        verbs,
        "pin",
        "keep a model resident",
        "Pin a model: it is never unloaded to make room, and is loaded again when it is absent.\n"
        "The pin is kept over restarts of the gateway, until `cortex unpin`.",
    )
    _add_pin(parser)


def _unpin(verbs: "Verbs[Parser]") -> None:
    parser = _verb(
        verbs,
        "unpin",
        "let a model be unloaded again",
        "Remove a pin made by `cortex pin`. Pins of the configuration file stay.",
    )
    _add_pin(parser)


def _add_pin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="id or alias of the model")
    parser.add_argument(
        "--node", metavar="NAME", help="the copy of this node (default: wherever it is)"
    )
    add_gateway(parser)


def _doctor(verbs: "Verbs[Parser]") -> None:
    parser = _verb(verbs, "doctor", doctor_options.SHORT, doctor_options.LONG)
    add_gateway(parser, doctor_options.JSON)


def _check_config(verbs: "Verbs[Parser]") -> None:
    parser = _verb(
        verbs,
        "check-config",
        "check the configuration",
        "Read the configuration as `cortex serve` would and print every mistake, one line each.\n"
        "Nothing is started. Exit code 78 when there is a mistake.",
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="the same as --config FILE")
    add_config(parser)


def _keys(verbs: "Verbs[Parser]") -> None:
    parser = _verb(verbs, "keys", keys_options.SHORT, keys_options.LONG)
    keys_options.add_options(parser)
    add_config(parser)


def _agent(verbs: "Verbs[Parser]") -> None:
    agent_options.add_options(_verb(verbs, "agent", agent_options.SHORT, agent_options.LONG))


def _demo(verbs: "Verbs[Parser]") -> None:
    demo_options.add_options(_verb(verbs, "demo", demo_options.SHORT, demo_options.LONG))


def _completion(verbs: "Verbs[Parser]") -> None:
    parser = _verb(
        verbs,
        "completion",
        "print a shell completion script",
        "Print a completion script. bash: `source <(cortex completion bash)`; zsh: write it to a\n"
        "file _cortex in $fpath; fish: `cortex completion fish | source`.",
    )
    parser.add_argument(
        "shell", metavar="SHELL", nargs="?", choices=SHELLS, help="bash, zsh or fish"
    )
    parser.add_argument("--values", choices=("models", "nodes"), help=argparse.SUPPRESS)
