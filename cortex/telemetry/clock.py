"""The system's time, as the `Clock` that tests replace."""

import time


class SystemClock:
    # The function itself: a request reads it with every chunk.
    now_s = staticmethod(time.monotonic)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000
