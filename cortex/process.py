"""What this process is given by its system: an event loop, descriptors, threads."""

import asyncio
import contextlib
import logging
import os
import resource
from collections.abc import Callable

from cortex.config.schema import Config
from cortex.policies import files_wanted

log = logging.getLogger("cortex.process")

LOOKUP_THREADS = "32"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop, where the extra `speed` is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    # Names are looked up in threads of libuv's, four unless told otherwise: as many lookups of a
    # name server that does not answer would hold up those of every other node.
    os.environ.setdefault("UV_THREADPOOL_SIZE", LOOKUP_THREADS)
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def raise_file_limit() -> None:
    """Every stream is two sockets; take what the hard limit gives."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def warn_of_few_files(config: Config) -> None:
    """Say so where this process may open fewer files than its configuration can need."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files_wanted(config)
    if soft < wanted:
        log.warning(
            "the limit of open files is low: LimitNOFILE= of the service, ulimit -n",
            extra={"fields": {"limit": soft, "wanted": wanted}},
        )
