"""The configuration file: a `Config`, or `ConfigError` with a line for every mistake."""

import os
from pathlib import Path

from cortex.config.load import load
from cortex.core.errors import ConfigError

SEEDS = [
    b'[gateway]\nlisten = "127.0.0.1:1"\n[[nodes]]\nname = "a"\nendpoint = "http://h:1"\n',
    b'[limits]\nmax_body_mb = 1.5\n[models."m"]\nnodes = ["a"]\n[aliases]\nx = "m"\n[[nodes]]\nname="a"\nendpoint="x"\n',
    b'[[auth.keys]]\nname = "k"\nkey = "secret"\nrole = "admin"\n[eviction]\npolicy = "lru"\n',
    b"CORTEX_GATEWAY__LISTEN=127.0.0.1:2\n\x00\n",
    b"CORTEX_GATEWAY]__LISTEN=127.0.0.1:2\n\x00\n",
    b"none = 1\nfloat = 2\n[limits]\nnone = 1\n",
]
_FILE = (
    Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp")
    / f"cortex-fuzz-{os.getpid()}.toml"
)


def one(data: bytes) -> None:
    """What stands before a NUL is the environment, a variable a line."""
    before, nul, after = data.partition(b"\x00")
    variables = before.decode("utf-8", "surrogateescape").split("\n") if nul else []
    environ = dict(line.split("=", 1) for line in variables if "=" in line)
    _FILE.write_bytes(after if nul else data)
    try:
        config = load(_FILE, environ)
    except ConfigError as exc:
        assert exc.lines
        assert all(exc.lines)
    else:
        assert config.nodes
    finally:
        _FILE.unlink()
