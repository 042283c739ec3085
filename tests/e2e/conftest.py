from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Processes


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts processes, and kills what is left of them however the test ends."""
    started = Processes(tmp_path)
    try:
        yield started
    finally:
        started.end()
