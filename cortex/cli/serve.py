"""`cortex serve`: the gateway in the foreground."""

import argparse
import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def run(args: argparse.Namespace) -> int:
    """Run until a signal ends it; the daemon itself prints the mistakes of a configuration."""
    # Hardly anything made by a start is garbage: looking for it would be a sixth of the start.
    gc.disable()
    with _hangups_wait():
        with _no_certificates_yet():
            from cortex import daemon

        return daemon.run(Path(args.config) if args.config else None, os.environ)


@contextmanager
def _hangups_wait() -> Iterator[None]:
    """A reload that is asked for before anybody can carry it out waits for that; it does not kill.

    The daemon lets it through once it can.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _no_certificates_yet() -> Iterator[None]:
    """Keep aiohttp from reading the machine's certificates, twice, while it is imported.

    It is an eighth of the start, and for nothing in a fleet that speaks plain HTTP: a client of a
    node behind https reads them itself.
    """
    kept = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    os.environ.update(dict.fromkeys(kept, os.devnull))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
