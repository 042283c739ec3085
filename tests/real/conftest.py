from collections.abc import Iterator
from pathlib import Path

import pytest

from cortex.devnode.real import find_gguf
from tests.e2e.processes import Processes
from tests.real.server import Server


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts processes, and kills what is left of them however the test ends."""
    started = Processes(tmp_path)
    try:
        yield started
    finally:
        started.end()


@pytest.fixture
def server(processes: Processes) -> Server:
    """A server with both models resident, as every real one starts."""
    gguf = find_gguf()
    assert gguf is not None
    return Server(processes, gguf).start()
