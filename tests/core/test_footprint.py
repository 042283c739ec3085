"""What a model takes, learned from what was free before and after."""

import pytest

from cortex.core.footprint import (
    floor_mib,
    is_out_of_memory,
    is_returned,
    learned_mib,
    residue_mib,
    taken_mib,
)
from cortex.core.pace import Pace
from cortex.core.versions import why_unload_destroys


@pytest.mark.parametrize(
    ("message", "starved"),
    [
        ('DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")', True),
        ("Num GPU blocks is 0", True),
        ("cudaErrorMemoryAllocation", True),
        ("memory allocation of 5 bytes failed", True),
        ("no such file: out.safetensors", False),
        ("CUDA_ERROR_INVALID_CONTEXT", False),
    ],
)
def test_lack_of_memory_is_told_from_other_failures(message: str, starved: bool) -> None:
    assert is_out_of_memory(message) is starved


def test_a_load_takes_what_is_missing_afterwards() -> None:
    assert taken_mib(1000, 400) == 600
    assert taken_mib(1000, 1000) is None
    assert taken_mib(400, 1000) is None
    assert taken_mib(None, 400) is None


def test_an_estimate_grows_at_once_and_shrinks_slowly() -> None:
    assert learned_mib(None, 600, floor=False) == 600
    assert learned_mib(600, 900, floor=False) == 900
    assert learned_mib(600, 500, floor=False) == 570
    assert learned_mib(600, None, floor=False) == 600
    # What was only known to be too little is replaced by what was measured.
    assert learned_mib(9000, 500, floor=True) == 500


def test_running_out_teaches_a_floor_that_still_fits_the_device() -> None:
    assert floor_mib(None, 4000, 8000) == 4001
    assert floor_mib(5000, 4000, 8000) == 5000
    assert floor_mib(None, 8000, 8000) == 8000
    assert floor_mib(300, None, 8000) == 300


def test_three_quarters_back_is_back() -> None:
    assert is_returned(1000, 100, 850)
    assert not is_returned(1000, 100, 840)
    assert is_returned(None, 100, 850) is None
    assert residue_mib(1000, 100, 850) == 250
    # A little more came back: somebody else gave back too, and had taken it before.
    assert residue_mib(1000, 100, 1200) == -100
    assert residue_mib(1000, 100, 1132) == 0
    # Much more: it had grown.
    assert residue_mib(1000, 100, 1700) == 0
    assert residue_mib(1000, 100, 1068) == 0
    assert residue_mib(1000, 100, 1067) == 33


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ("0.9.1", True),
        ("v0.9.2-head", True),
        ("1.0.0", True),
        ("0.9.0", False),
        ("0.8.23", False),
        ("0.8.1", False),
        (None, False),
        ("unknown", False),
    ],
)
def test_which_nodes_may_be_told_to_unload(version: str | None, safe: bool) -> None:
    assert (why_unload_destroys(version) is None) is safe


def test_a_pace_counts_only_while_there_is_a_queue() -> None:
    pace = Pace().served(10.0)
    assert pace.wait_s(5) is None
    pace = pace.served(12.0)
    assert pace.wait_s(5) == 10.0
    assert pace.served(13.0).wait_s(1) == pytest.approx(1.8)
    # An idle hour says nothing of the speed.
    assert pace.emptied().served(4000.0).wait_s(5) == 10.0
