"""The systemd unit of the gateway."""

import subprocess
from collections.abc import Iterator, Mapping

from cortex.cli.checks.finding import Finding, error, ok, warn

UNIT = "cortex.service"
PATIENCE_S = 5.0
_PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "Result",
    "NRestarts",
    "NeedDaemonReload",
    "LimitNOFILE",
    "StateDirectory",
)


def unit() -> Mapping[str, str]:
    """What systemd says of the unit; empty where no systemd runs this machine."""
    argv = ["systemctl", "show", UNIT, f"--property={','.join(_PROPERTIES)}"]
    try:
        asked = subprocess.run(  # noqa: S603 - a fixed command
            argv, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = (line.partition("=") for line in asked.stdout.splitlines())
    return {name: value for name, _, value in pairs}


def service(said: Mapping[str, str], *, answers: bool) -> Iterator[Finding]:
    """Whether it runs, and will after the next boot.

    Args:
        said: By systemd; empty = there is none.
        answers: A gateway answers where the configuration listens.
    """
    if not said:
        yield ok("systemd", "does not run this machine")
        return
    if said.get("LoadState") == "not-found":
        yield ok("systemd", f"no {UNIT} here; the packages have one")
        return
    yield from _running(said, answers=answers)
    if said.get("NeedDaemonReload") == "yes":
        yield warn(
            "systemd", f"{UNIT} was changed since it was read", "systemctl daemon-reload"
        )
    restarts = said.get("NRestarts", "0")
    if restarts not in {"", "0"}:
        yield warn(
            "systemd",
            f"{UNIT} ended by itself and was started again; restarts so far: {restarts}",
            f"journalctl -u {UNIT} says why",
        )


def _running(said: Mapping[str, str], *, answers: bool) -> Iterator[Finding]:
    active, result = said.get("ActiveState", ""), said.get("Result", "")
    at_boot = said.get("UnitFileState", "") not in {"disabled", ""}
    if active == "failed" or said.get("SubState") == "auto-restart":
        yield error(
            "systemd",
            f"{UNIT} failed: {result}",
            f"journalctl -u {UNIT} -n 20 has its last words",
        )
    elif active in {"active", "reloading", "activating"}:
        if at_boot:
            yield ok("systemd", f"{UNIT} is {active}")
        else:
            yield warn(
                "systemd",
                f"{UNIT} is {active}, and will not be after a boot",
                f"systemctl enable {UNIT}",
            )
    elif answers:
        yield warn(
            "systemd", f"{UNIT} is {active}: the gateway that answers was started by hand"
        )
    else:
        yield warn("systemd", f"{UNIT} is {active}", f"systemctl enable --now {UNIT}")


def state_directory(said: Mapping[str, str]) -> str | None:
    """Where the service keeps its state; None = it is not known."""
    name = said.get("StateDirectory", "")
    return f"/var/lib/{name}" if name and said.get("LoadState") == "loaded" else None


def open_files(said: Mapping[str, str]) -> int | None:
    """How many the service may open; None = it is not known."""
    text = said.get("LimitNOFILE", "")
    return int(text) if text.isdigit() and said.get("LoadState") == "loaded" else None
