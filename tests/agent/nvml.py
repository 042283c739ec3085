"""NVML as its binding shows it: module-level functions, exceptions of its own, names in bytes."""

# ruff: noqa: N802

import threading
from types import SimpleNamespace

GIB = 1 << 30


class NVMLError(Exception):
    """The binding's own class; related to nothing else."""


class FakeNvml:
    """Two GPUs; each attribute that is set makes something fail."""

    NVML_TEMPERATURE_GPU = 0

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.driver: str | None = None
        """Why the driver cannot be opened."""
        self.listing: str | None = None
        """Why it does not list its GPUs."""
        self.broken: dict[int, str] = {}
        self.bare = False
        """No name, utilisation or temperature."""
        self.alike = False
        """All of one kind."""
        self.used = 3 * GIB + 1
        self.opened = self.closed = 0
        self.gate: threading.Event | None = None
        """Calls wait for it: a hung driver."""

    def nvmlInit(self) -> None:
        if self.driver is not None:
            raise NVMLError(self.driver)
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.closed += 1

    def nvmlDeviceGetCount(self) -> int:
        if self.gate is not None:
            self.gate.wait(10)
        if self.listing is not None:
            raise NVMLError(self.listing)
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index in self.broken:
            raise NVMLError(self.broken[index])
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> bytes | str:
        return f"GPU-{handle}abc-def" if handle else b"GPU-0abc-def"

    def nvmlDeviceGetName(self, handle: int) -> bytes | str:
        self._optional()
        return b"GPU \xff" if handle and not self.alike else "GPU A"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=24 * GIB, used=self.used, free=24 * GIB - self.used)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        self._optional()
        return SimpleNamespace(gpu=37, memory=12)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        self._optional()
        return 61

    def _optional(self) -> None:
        if self.bare:
            raise NVMLError("Not Supported")
