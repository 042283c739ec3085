"""All that a configuration needs and that may fail, made before any of it is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cortex.config.certificates import Pair, read_pair
from cortex.config.keys import secret_in
from cortex.config.schema import Config, Node
from cortex.core.errors import ConfigError
from cortex.core.ids import NodeName
from cortex.gateway.auth import Keyring
from cortex.node.client import NodeClient
from cortex.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A configuration that can be taken over in one go."""

    config: Config
    keyring: Keyring
    agent_token: str | None
    """What agents present; None = they are not welcome."""
    pair: Pair | None
    """Certificate and key; None = no TLS."""
    clients: Mapping[NodeName, NodeClient]
    """One for each node; those that need not change are the running ones."""


def prepare(config: Config, running: Mapping[NodeName, NodeClient]) -> Prepared:
    """Read and build everything that the configuration refers to; nothing is connected or changed.

    Raises:
        ConfigError: A file could not be used.
    """
    try:
        return Prepared(
            config=config,
            keyring=Keyring(config.auth.keys, closed=config.auth.file is not None),
            agent_token=_secret(config.agent.token_file),
            pair=read_pair(config.tls),
            clients={
                NodeName(node.name): _client(node, config, running) for node in config.nodes
            },
        )
    except ValueError as exc:
        # Each file was good when the configuration was checked: one of them changed meanwhile.
        raise ConfigError([f"a file with a secret: {exc}"]) from exc


def tracing_of(config: Config) -> Tracing | None:
    """What makes spans; None = no collector is named."""
    wanted = config.tracing
    return None if wanted.endpoint is None else Tracing(wanted.endpoint, wanted.sample_ratio)


def _client(node: Node, config: Config, running: Mapping[NodeName, NodeClient]) -> NodeClient:
    """The running client where all it depends on is as it was, else a new one."""
    name, key = NodeName(node.name), _secret(node.api_key_file)
    connect_s = config.limits.connect_timeout_s
    old = running.get(name)
    if old is not None and old.settings == (name, node.endpoint, connect_s, key):
        return old
    return NodeClient(name, node.endpoint, connect_timeout_s=connect_s, api_key=key)


def _secret(path: Path | None) -> str | None:
    return None if path is None else secret_in(path)
