import asyncio
import threading
from collections.abc import Callable

import pytest

from cortex.agent.gpus import GpuReader, GpuWatch, Nvml, Readings, import_nvml
from tests.agent.nvml import GIB, FakeNvml


def reader_of(nvml: FakeNvml) -> GpuReader:
    return GpuReader(lambda: nvml)


def test_every_gpu_is_read():
    first, second = reader_of(FakeNvml()).read().gpus
    assert first.model_dump() == {
        "index": 0,
        "name": "GPU A",
        "total_mib": 24 * 1024,
        "used_mib": 3 * 1024 + 1,
        "utilization_pct": 37,
        "temperature_c": 61,
    }
    assert (second.index, second.name) == (1, "GPU \N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize(
    ("only", "indices"),
    [
        ({"1"}, [1]),
        ({"0", "1"}, [0, 1]),
        ({"GPU-1abc-def"}, [1]),
        ({"GPU-0a"}, [0]),
        ({"GPU-1abc-def", "0"}, [0, 1]),
    ],
)
def test_only_the_gpus_of_the_node_are_read(only: set[str], indices: list[int]):
    readings = GpuReader(FakeNvml, frozenset(only)).read()
    assert [gpu.index for gpu in readings.gpus] == indices


def test_a_gpu_that_is_not_there_is_told():
    readings = GpuReader(FakeNvml, frozenset({"7"})).read()
    assert readings == Readings(reason="NVIDIA driver: none of its 2 GPUs is 7")


@pytest.mark.parametrize(
    ("only", "alike", "indices"),
    [
        ({"1"}, False, []),
        ({"1"}, True, [1]),
        ({"0", "1"}, False, [0, 1]),
        ({"GPU-1abc"}, False, [1]),
        (None, False, [0, 1]),
    ],
)
def test_a_number_by_speed_says_nothing_of_slots(
    only: set[str] | None, alike: bool, indices: list[int]
):
    nvml = FakeNvml()
    nvml.alike = alike
    named = None if only is None else frozenset(only)
    readings = GpuReader(lambda: nvml, named, as_cuda_counts=True).read()
    assert [gpu.index for gpu in readings.gpus] == indices
    assert ("CUDA_DEVICE_ORDER=PCI_BUS_ID" in readings.reason) is (not indices)


def test_the_driver_stays_open_between_readings():
    nvml = FakeNvml()
    reader = reader_of(nvml)
    for _ in range(3):
        assert len(reader.read().gpus) == 2
    assert (nvml.opened, nvml.closed) == (1, 0)


def test_figures_that_a_gpu_lacks_are_unknown():
    nvml = FakeNvml(count=1)
    nvml.bare = True
    readings = reader_of(nvml).read()
    assert readings.reason == ""
    (gpu,) = readings.gpus
    assert (gpu.name, gpu.utilization_pct, gpu.temperature_c) == ("", None, None)
    assert gpu.total_mib == 24 * 1024


def absent() -> Nvml:
    raise ModuleNotFoundError("No module named 'pynvml'")


def no_library() -> Nvml:
    raise OSError("libnvidia-ml.so.1: cannot open shared object file")


def failing(**more: object) -> Callable[[], Nvml]:
    nvml = FakeNvml()
    for name, value in more.items():
        setattr(nvml, name, value)
    return lambda: nvml


@pytest.mark.parametrize(
    ("binding", "reason"),
    [
        (absent, "nvidia-ml-py is not installed"),
        (no_library, "NVIDIA driver: libnvidia-ml.so.1"),
        (failing(driver="Driver Not Loaded"), "NVIDIA driver: Driver Not Loaded"),
        (failing(driver=""), "NVIDIA driver: NVMLError"),
        (failing(listing="Unknown\nError"), "NVIDIA driver: Unknown Error"),
        (failing(count=0), "it lists no GPU"),
        (lambda: object(), "NVIDIA driver: 'object' object has no attribute"),
    ],
)
def test_no_gpu_is_a_reason_and_never_an_exception(binding: Callable[[], Nvml], reason: str):
    readings = GpuReader(binding).read()
    assert readings.gpus == ()
    assert reason in readings.reason


def test_one_failing_gpu_leaves_the_others():
    nvml = FakeNvml(count=3)
    nvml.broken = {1: "GPU is lost"}
    readings = reader_of(nvml).read()
    assert [gpu.index for gpu in readings.gpus] == [0, 2]
    assert readings.reason == "GPU 1: GPU is lost"
    # It may come back only to those who open the driver anew.
    assert nvml.closed == 1


def test_figures_that_cannot_be_true_are_not_reported():
    nvml = FakeNvml(count=1)
    nvml.used = 30 * GIB
    readings = reader_of(nvml).read()
    assert readings.gpus == ()
    assert "GPU 0" in readings.reason


def test_a_driver_that_comes_back_is_found():
    nvml = FakeNvml()
    reader = reader_of(nvml)
    reader.read()
    nvml.listing = "Driver Not Loaded"
    assert reader.read().gpus == ()
    nvml.listing = None
    assert len(reader.read().gpus) == 2
    assert (nvml.opened, nvml.closed) == (2, 1)


async def test_a_hung_driver_costs_one_thread_and_no_report():
    nvml = FakeNvml()
    nvml.gate = threading.Event()
    watch = GpuWatch(reader_of(nvml))
    before = threading.active_count()
    try:
        for _ in range(5):
            late = await watch.read(0.02)
            assert late.gpus == ()
            assert "no answer for" in late.reason
        async with asyncio.timeout(2):
            # What is known to be late is not waited for again.
            assert (await watch.read(60)).gpus == ()
        assert threading.active_count() <= before + 1
    finally:
        nvml.gate.set()
    readings: Readings = late
    async with asyncio.timeout(5):
        while not readings.gpus:
            readings = await watch.read(1.0)
    assert len(readings.gpus) == 2


def test_this_machine_is_read_without_an_exception():
    """With the real binding where it is installed, and without where it is not."""
    readings = GpuReader(import_nvml).read()
    assert readings.gpus or readings.reason
