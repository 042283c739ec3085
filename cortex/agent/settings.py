"""What the agent was told on its command line and in its environment; every mistake is one line."""

import difflib
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cortex.agent.weights import usual_folders
from cortex.core.errors import ConfigError
from cortex.core.ids import NodeName

PREFIX = "CORTEX_AGENT_"
NAMES = (
    "gateway",
    "node",
    "local",
    "unit",
    "restart_command",
    "token_file",
    "gpus",
    "weights",
    "interval",
    "state_dir",
)
DEFAULT_LOCAL = "http://127.0.0.1:1234"
"""Where mistral.rs listens unless told otherwise."""
SHORTEST_S, LONGEST_S = 0.1, 60.0
STATE_FOLDER = "cortex-agent"
MAX_NODE_NAME = 128
_GPU = re.compile(r"\d{1,3}|(?:GPU|MIG)-[0-9a-fA-F-]{1,60}")
_UNIT = re.compile(r"[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Checked settings."""

    gateway: str
    """Base URL, without a slash at its end."""
    node: NodeName
    """As the gateway's configuration names it."""
    local: str = DEFAULT_LOCAL
    restart: tuple[str, ...] = ()
    """Run without a shell; empty = this agent restarts nothing."""
    token_file: Path | None = None
    gpus: frozenset[str] | None = None
    """Indices or UUIDs of the GPUs that the node uses; None = all of this machine."""
    gpus_as_cuda_counts: bool = False
    """The indices are CUDA's, which go by speed, not `nvidia-smi`'s, which go by slot."""
    interval_s: float | None = None
    """None = as the gateway asks."""
    weights: tuple[Path, ...] = ()
    """Folders with the files of models."""
    state_dir: Path


class _Reader:
    """Takes one setting after the other and collects the complaints."""

    def __init__(self, options: Mapping[str, str | None], environ: Mapping[str, str]) -> None:
        self._options = options
        self._environ = environ
        self.mistakes: list[str] = []

    def text(self, name: str) -> tuple[str, str]:
        """(value, who said so); the command line goes before the environment, "" is absent."""
        if given := self._options.get(name):
            return given, f"--{name.replace('_', '-')}"
        variable = PREFIX + name.upper()
        return self._environ.get(variable, "").strip(), f"${variable}"

    def needed(self, name: str, what: str) -> str:
        value, _ = self.text(name)
        if not value:
            option, variable = f"--{name.replace('_', '-')}", f"${PREFIX}{name.upper()}"
            self.mistakes.append(f"{option} or {variable}: expected {what}, found nothing")
        return value

    def checked(
        self, name: str, expected: str, holds: Callable[[str], bool], *, default: str = ""
    ) -> str:
        value, origin = self.text(name)
        if not value:
            return default
        if not holds(value):
            self.mistakes.append(f'{origin}: expected {expected}, found "{value}"')
        return value

    def unknown(self) -> None:
        """Complain of variables that look like ours; `CORTEX_AGENT__…` is the gateway's."""
        known = [PREFIX + name.upper() for name in NAMES]
        for variable in sorted(self._environ):
            ours = variable.startswith(PREFIX) and not variable.startswith(f"{PREFIX}_")
            if ours and variable not in known:
                near = difflib.get_close_matches(variable, known, n=1)
                hint = f", did you mean ${near[0]}?" if near else ""
                self.mistakes.append(f"${variable}: there is no such setting{hint}")


def read(options: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Settings from `options` by name and from `CORTEX_AGENT_<NAME>`.

    Raises:
        ConfigError: One line for each mistake.
    """
    given = _Reader(options, environ)
    given.unknown()
    gateway = given.needed("gateway", "the gateway's URL")
    given.checked("gateway", "a URL such as http://gateway:8000", _is_url)
    node = given.needed("node", "this node's name in the gateway's configuration")
    given.checked("node", f"a printable name of at most {MAX_NODE_NAME} characters", _is_name)
    local = given.checked(
        "local", f"a URL such as {DEFAULT_LOCAL}", _is_url, default=DEFAULT_LOCAL
    )
    interval = given.checked(
        "interval", f"seconds from {SHORTEST_S:g} to {LONGEST_S:g}", _is_interval
    )
    gpus = given.checked("gpus", "indices or UUIDs such as 0,1", _is_gpus)
    visible = "" if gpus else environ.get("CUDA_VISIBLE_DEVICES", "")
    token_file = given.checked("token_file", "a file with one line, the token", _is_token_file)
    state_dir, _ = given.text("state_dir")
    restart = _restart(given)
    if given.mistakes:
        raise ConfigError(given.mistakes)
    return Settings(
        gateway=gateway.rstrip("/"),
        node=NodeName(node),
        local=local.rstrip("/"),
        restart=restart,
        token_file=Path(token_file) if token_file else None,
        gpus=_gpus(gpus or visible),
        gpus_as_cuda_counts=bool(visible) and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID",
        interval_s=float(interval) if interval else None,
        weights=_folders(given.text("weights")[0]) or usual_folders(environ),
        state_dir=Path(state_dir).expanduser() if state_dir else _state_dir(environ),
    )


def read_token(file: Path) -> str | None:
    """The token in `file`; None when it cannot be read or is not one word of ASCII."""
    try:
        token = file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return token if token and token.isprintable() and " " not in token else None


def _restart(given: _Reader) -> tuple[str, ...]:
    """The command itself, where one is given, else systemctl for the unit."""
    given.checked("unit", "the name of a systemd unit", _is_unit)
    unit, _ = given.text("unit")
    command, _ = given.text("restart_command")
    if command:
        given.checked("restart_command", "words quoted as for a shell", _is_command)
        return tuple(shlex.split(command)) if _is_command(command) else ()
    # Without a terminal nobody can answer polkit's question: fail at once instead.
    return ("systemctl", "--no-ask-password", "restart", unit) if unit else ()


def _state_dir(environ: Mapping[str, str]) -> Path:
    """Under systemd's state directory, else under the user's."""
    if directory := environ.get("STATE_DIRECTORY"):
        return Path(directory.split(":")[0])
    state_home = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state_home) / STATE_FOLDER


def _folders(text: str) -> tuple[Path, ...]:
    return tuple(Path(word).expanduser() for word in text.split(":") if word)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        return False
    plain = text.isascii() and text.isprintable() and not set(text) & set(" @?#")
    return bool(usable) and plain


def _is_name(text: str) -> bool:
    return len(text) <= MAX_NODE_NAME and text.isprintable()


def _is_interval(text: str) -> bool:
    try:
        return math.isfinite(value := float(text)) and SHORTEST_S <= value <= LONGEST_S
    except ValueError:
        return False


def _gpus(text: str) -> frozenset[str] | None:
    """What is named; None where nothing is, or nothing that could be read."""
    named = [word.strip() for word in text.split(",")]
    return frozenset(named) if text and _is_gpus(text) else None


def _is_gpus(text: str) -> bool:
    return all(_GPU.fullmatch(word.strip()) for word in text.split(","))


def _is_unit(text: str) -> bool:
    return len(text) <= 255 and _UNIT.fullmatch(text) is not None


def _is_command(text: str) -> bool:
    try:
        return bool(shlex.split(text))
    except ValueError:
        return False


def _is_token_file(text: str) -> bool:
    return read_token(Path(text)) is not None
