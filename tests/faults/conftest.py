"""One gateway that lives through most of the faults, on a disk of its own where that can be had."""

from collections.abc import Iterator

import pytest

from tests.e2e.processes import Processes
from tests.faults.disk import Disk
from tests.faults.wallclock import WallClock
from tests.faults.world import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("faults")
    processes = Processes(folder)
    disk = Disk(folder / "disk.img", folder / "disk")
    try:
        yield World(processes, disk, WallClock(folder))
    finally:
        processes.end()
        disk.end()
