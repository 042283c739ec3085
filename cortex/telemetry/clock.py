"""The system's time, as the `Clock` that tests replace."""

import time


class SystemClock:
    def now_s(self) -> float:
        return time.monotonic()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000
