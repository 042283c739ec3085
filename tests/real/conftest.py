import pytest

from cortex.devnode.real import find_gguf
from tests.e2e.processes import Processes
from tests.real.server import Server


@pytest.fixture
def server(processes: Processes) -> Server:
    """A server with both models resident, as every real one starts."""
    gguf = find_gguf()
    assert gguf is not None
    return Server(processes, gguf).start()
