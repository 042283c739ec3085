"""Reads accelerators through NVML, which may be absent, half broken or hung; never raises."""

import asyncio
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from cortex.agentapi import GpuReading

MIB = 1024 * 1024
MOST_REASON_CHARACTERS = 300
AMBIGUOUS = (
    "CUDA_VISIBLE_DEVICES numbers GPUs of different kinds by speed: set"
    " CUDA_DEVICE_ORDER=PCI_BUS_ID for the node and the agent, or name UUIDs"
)


class Nvml(Protocol):
    """What is used of the module `pynvml`. Its calls raise exceptions of its own."""

    NVML_TEMPERATURE_GPU: int

    def nvmlInit(self) -> None: ...  # noqa: N802 - NVML's names
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Any: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: Any, /) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetName(self, handle: Any, /) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any, /) -> Any: ...  # noqa: N802
    def nvmlDeviceGetUtilizationRates(self, handle: Any, /) -> Any: ...  # noqa: N802
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int, /) -> int: ...  # noqa: N802


@dataclass(frozen=True, slots=True)
class Readings:
    """What could be read, and why the rest, or all, could not."""

    gpus: tuple[GpuReading, ...] = ()
    reason: str = ""


def import_nvml() -> Nvml:
    """The binding of nvidia-ml-py, which the extra `agent` installs."""
    binding: Nvml = importlib.import_module("pynvml")
    return binding


class GpuReader:
    """Blocking; one call at a time. The driver stays open between readings.

    Opening it for every reading would wake sleeping GPUs. After a failure it is closed, so that
    the next reading finds a driver that was replaced or came back.
    """

    def __init__(
        self,
        binding: Callable[[], Nvml] = import_nvml,
        only: frozenset[str] | None = None,
        *,
        as_cuda_counts: bool = False,
    ) -> None:
        """Read what NVML lists.

        Args:
            binding: Where NVML's functions come from.
            only: Indices and UUIDs; None = all.
            as_cuda_counts: The indices are CUDA's, which puts the fastest first; NVML goes by slot.
        """
        self._binding = binding
        self._only = only
        self._as_cuda_counts = as_cuda_counts
        self._nvml: Nvml | None = None

    def read(self) -> Readings:
        """Every GPU of the node that answers."""
        try:
            nvml = self._open()
            count = nvml.nvmlDeviceGetCount()
        except ImportError:
            return Readings(reason="nvidia-ml-py is not installed (cortexd's extra `agent`)")
        except Exception as exc:  # noqa: BLE001 - a C binding; nothing it raises may end the agent
            self.close()
            return Readings(reason=_worded("NVIDIA driver", exc))
        if count == 0:
            return Readings(reason="NVIDIA driver: it lists no GPU")
        if self._is_ambiguous(nvml, count):
            return Readings(reason=AMBIGUOUS)
        gpus, reasons = self._each(nvml, count)
        if reasons:
            self.close()
        elif not gpus:
            named = ", ".join(sorted(self._only or ()))
            return Readings(reason=f"NVIDIA driver: none of its {count} GPUs is {named}")
        return Readings(tuple(gpus), "; ".join(reasons)[:MOST_REASON_CHARACTERS])

    def _each(self, nvml: Nvml, count: int) -> tuple[list[GpuReading], list[str]]:
        gpus, reasons = [], []
        for index in range(count):
            try:
                if self._wanted(nvml, index):
                    gpus.append(_reading(nvml, index))
            except Exception as exc:  # noqa: BLE001 - as above
                reasons.append(_worded(f"GPU {index}", exc))
        return gpus, reasons

    def _is_ambiguous(self, nvml: Nvml, count: int) -> bool:
        """Some of several GPUs that are not alike are meant, by numbers that may be others' here."""
        indices = {name for name in self._only or () if name.isdigit()}
        some = 0 < len(indices) < count
        return self._as_cuda_counts and some and len(_kinds(nvml, count)) > 1

    def _wanted(self, nvml: Nvml, index: int) -> bool:
        """A UUID may be shortened, as CUDA allows."""
        if self._only is None or str(index) in self._only:
            return True
        names = [name for name in self._only if not name.isdigit()]
        if not names:
            return False
        uuid = nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index))
        text = uuid.decode(errors="replace") if isinstance(uuid, bytes) else str(uuid)
        return any(text.startswith(name) for name in names)

    def close(self) -> None:
        """Let go of the driver; the next reading opens it again."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            try:
                nvml.nvmlShutdown()
            except Exception:  # noqa: BLE001 - it is being given up
                return

    def _open(self) -> Nvml:
        if self._nvml is None:
            nvml = self._binding()
            nvml.nvmlInit()
            self._nvml = nvml
        return self._nvml


class GpuWatch:
    """Reads off the loop; a driver that hangs costs one thread and no report."""

    def __init__(self, reader: GpuReader) -> None:
        self._reader = reader
        self._under_way: asyncio.Future[Readings] | None = None
        self._begun_s = 0.0

    async def read(self, deadline_s: float) -> Readings:
        """A fresh reading, or why there is none within `deadline_s`."""
        loop = asyncio.get_running_loop()
        reading = self._under_way
        if reading is None or reading.done():
            # What came too late is old by now; it is dropped.
            self._begun_s = loop.time()
            reading = self._under_way = loop.run_in_executor(None, self._reader.read)
        else:
            # Ask nothing more of a driver that owes an answer, and hold no report up for it.
            deadline_s = 0.0
        done, _ = await asyncio.wait([reading], timeout=deadline_s)
        if not done:
            silent_s = loop.time() - self._begun_s
            return Readings(reason=f"NVIDIA driver: no answer for {silent_s:.1f} s")
        return reading.result()


def _reading(nvml: Nvml, index: int) -> GpuReading:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    total, used = int(memory.total), int(memory.used)
    if not 0 <= used <= total:
        raise ValueError(f"{used} of {total} bytes used")
    return GpuReading(
        index=index,
        name=_name(nvml, handle),
        total_mib=total // MIB,
        # Rounded up: memory that is free in part is not free.
        used_mib=min(-(-used // MIB), total // MIB),
        utilization_pct=_optional(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        temperature_c=_optional(
            lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
        ),
    )


def _name(nvml: Nvml, handle: object) -> str:
    """Old bindings answer with bytes."""
    try:
        name = nvml.nvmlDeviceGetName(handle)
    except Exception:  # noqa: BLE001 - a GPU without a name still has memory
        return ""
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _kinds(nvml: Nvml, count: int) -> set[str]:
    """The names of all GPUs; one that does not answer is a kind of its own."""
    kinds = set()
    for index in range(count):
        try:
            kinds.add(_name(nvml, nvml.nvmlDeviceGetHandleByIndex(index)))
        except Exception:  # noqa: BLE001 - as above
            kinds.add(f"GPU {index}")
    return kinds


def _optional(read: Callable[[], Any]) -> int | None:
    """A figure that some GPUs do not have."""
    try:
        return int(read())
    except Exception:  # noqa: BLE001 - unknown is an answer
        return None


def _worded(what: str, exc: Exception) -> str:
    text = " ".join(str(exc).split()) or type(exc).__name__
    return f"{what}: {text}"[:MOST_REASON_CHARACTERS]
