"""Keys, certificate and time-outs of a configuration that is free of mistakes. Pure but for the modes of files."""

import hashlib
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from cortex.cli.checks.finding import Finding, error, ok, warn
from cortex.cli.text import span
from cortex.config.keys import digest_of
from cortex.config.schema import Config, Key
from cortex.core.snapshot import DEFAULT_PRIORITY
from cortex.gateway.exposure import EXPIRY_WARNING_S
from cortex.gateway.provenance import is_this_machine

KEY_VARIABLE = "CORTEX_API_KEY"
NODES_TAKE_MB = 50
"""Largest body that mistral.rs reads, in MiB (contract §5)."""
NEW_KEY = "`cortex keys add NAME --role admin` makes one"


def keys(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Who may ask, and whether these commands may."""
    wanted = config.auth.keys
    if not wanted and config.auth.file is not None:
        yield warn("keys", f"none in {config.auth.file}: nobody gets in", NEW_KEY)
        return
    if not wanted:
        host = config.gateway.listen.rpartition(":")[0].strip("[]")
        if is_this_machine(host):
            yield ok("keys", f"none; only this machine reaches {config.gateway.listen}")
        else:
            yield warn(
                "keys",
                f"none: whoever reaches {config.gateway.listen} may use every model",
                NEW_KEY,
            )
        return
    admins = [key for key in wanted if key.role == "admin"]
    if not admins:
        yield warn("keys", f"none of {len(wanted)} may change the fleet or see it", NEW_KEY)
    else:
        yield ok("keys", f"{len(wanted)}, {len(admins)} of them for admins")
    yield from _own_key(wanted, environ.get(KEY_VARIABLE, "").strip())


def _own_key(keys: tuple[Key, ...], own: str) -> Iterator[Finding]:
    """The key of the commands."""
    if not own:
        yield warn(
            "keys",
            f"${KEY_VARIABLE} is not set: the commands that ask the gateway are refused",
            f"export {KEY_VARIABLE} with the key of an admin",
        )
        return
    digest = hashlib.sha256(own.encode()).digest()
    owner = next((key for key in keys if digest_of(key) == digest), None)
    if owner is None:
        yield warn("keys", f"${KEY_VARIABLE} is none of the configured keys")
    elif owner.role != "admin":
        yield warn("keys", f"${KEY_VARIABLE} is {owner.name}'s, who is no admin")


def certificate(expires_at_s: float | None, now_s: float) -> Iterator[Finding]:
    """When TLS ends; None = there is none."""
    if expires_at_s is None:
        return
    left_s = expires_at_s - now_s
    renewed = "renew it, then systemctl reload cortex"
    if left_s <= 0:
        yield error("tls", f"the certificate expired {span(-left_s)} ago", renewed)
    elif left_s < EXPIRY_WARNING_S:
        yield warn("tls", f"the certificate expires in {span(left_s)}", renewed)
    else:
        yield ok("tls", f"the certificate is good for {span(left_s)}")


def secrets(config: Config, source: Path) -> Iterator[Finding]:
    """Files that hold a key and that everybody may read."""
    files = [key.key_file for key in config.auth.keys]
    files += [node.api_key_file for node in config.nodes]
    files += [config.agent.token_file, config.tls.key]
    if any(key.key is not None for key in config.auth.keys):
        files.append(source)
    for file in dict.fromkeys(files):
        if file is not None and _for_everybody(file):
            yield warn(
                "secrets", f"everybody on this machine may read {file}", f"chmod o-r {file}"
            )


def _for_everybody(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def priorities(config: Config) -> Iterator[Finding]:
    """What the rule `priority` does with those that are given."""
    given = {model.priority for model in config.models.values()} - {DEFAULT_PRIORITY}
    if config.eviction.strategy == "priority" and given:
        yield warn(
            "priorities",
            'under strategy = "priority" a model never makes room for one of lower priority: requests'
            " for that one wait or are refused as long as the others fill the memory",
            'strategy = "forecast" takes priorities as weights, and refuses nothing for them',
        )


def timeouts(config: Config, load_s: Mapping[str, float]) -> Iterator[Finding]:
    """Those that contradict each other, or what loads were seen to take.

    Args:
        config: Without mistakes.
        load_s: How long the slowest copy of each model took to load.
    """
    found = [*_against_each_other(config), *_against_loads(config, load_s)]
    yield from found
    if not found:
        yield ok("time-outs", "none contradicts another")


def _against_each_other(config: Config) -> Iterator[Finding]:
    limits, polling = config.limits, config.polling
    if polling.timeout_s > polling.interval_s:
        yield warn(
            "time-outs",
            f"polling.timeout_s ({span(polling.timeout_s)}) is above polling.interval_s"
            f" ({span(polling.interval_s)}): a slow node is asked less often than that",
        )
    if limits.idle_timeout_s > limits.answer_timeout_s:
        yield warn(
            "time-outs",
            f"limits.idle_timeout_s ({span(limits.idle_timeout_s)}) never ends a whole answer:"
            f" limits.answer_timeout_s ({span(limits.answer_timeout_s)}) comes first",
        )
    if limits.max_body_mb > NODES_TAKE_MB:
        yield warn(
            "limits",
            f"limits.max_body_mb ({limits.max_body_mb:g}) is above the {NODES_TAKE_MB} MiB that"
            " mistral.rs takes",
        )


def _against_loads(config: Config, load_s: Mapping[str, float]) -> Iterator[Finding]:
    longest_s = config.limits.load_timeout_s
    for model, took_s in sorted(load_s.items()):
        if took_s >= longest_s:
            yield error(
                "time-outs",
                f"{model} took {span(took_s)} to load, and limits.load_timeout_s gives up after"
                f" {span(longest_s)}",
                f"load_timeout_s = {2 * took_s:.0f}",
            )
        elif took_s * 1.5 > longest_s:
            yield warn(
                "time-outs",
                f"{model} took {span(took_s)} to load: limits.load_timeout_s ({span(longest_s)})"
                " leaves little room",
                f"load_timeout_s = {2 * took_s:.0f}",
            )
        idle_s = _idle_unload_s(config, model)
        if idle_s is not None and idle_s < took_s:
            yield warn(
                "time-outs",
                f"{model} takes {span(took_s)} to load and is unloaded after {span(idle_s)}"
                " without use: idle_unload_s",
            )


def _idle_unload_s(config: Config, model: str) -> float | None:
    own = config.models.get(model)
    if own is not None and "idle_unload_s" in own.model_fields_set:
        return own.idle_unload_s
    return config.eviction.idle_unload_s
