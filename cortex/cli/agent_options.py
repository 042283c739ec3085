"""The options of `cortex agent`: plain text here, since each may come from the environment instead."""

import argparse

SHORT = "report from beside a node, and restart it when told"
LONG = """\
Run beside a node, in the foreground. Every few seconds the agent asks the local node whether
it answers, reads the GPUs, and reports to the gateway, which may answer with the command to
restart the node's service. A lost gateway is tried again for ever; SIGTERM ends it at once.

Every option can also be given as CORTEX_AGENT_<NAME> in the environment, for example
CORTEX_AGENT_TOKEN_FILE. A mistake in either is one line and exit code 78."""

OPTIONS = (
    ("--gateway", "URL", "gateway to report to, for example http://gateway:8000"),
    ("--node", "NAME", "name of this node in the gateway's configuration"),
    ("--local", "URL", "where the node listens (default: http://127.0.0.1:1234)"),
    ("--unit", "NAME", "systemd unit to restart when told (default: none, nothing is restarted)"),
    ("--restart-command", "ARGV", "run this instead of systemctl; quoted words, no shell"),
    ("--token-file", "FILE", "file with the token that the gateway knows agents by"),
    ("--gpus", "LIST", "GPUs of the node, as indices or UUIDs of nvidia-smi (default: CUDA_VISIBLE_DEVICES, all)"),
    ("--weights", "DIRS", "folders with models' files, with colons between (default: the node's, Hugging Face's cache)"),
    ("--interval", "SECONDS", "time between reports (default: what the gateway asks for)"),
    (
        "--state-dir",
        "DIR",
        "where commands are remembered (default: $STATE_DIRECTORY, ~/.local/state/cortex-agent)",
    ),
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of them; `settings.read` checks what they say."""
    for flag, metavar, text in OPTIONS:
        parser.add_argument(flag, metavar=metavar, help=text)
    parser.add_argument(
        "--once",
        action="store_true",
        help="post one report, print it as JSON and exit; commands in the reply are ignored",
    )
