"""Work that a large body makes long, done beside the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cortex.core.errors import CapacityError
from cortex.gateway.body import WHOLE_BYTES

PATIENCE_S = 30.0
RETRY_S = 5.0

_T = TypeVar("_T")


class Workshop:
    """One thread of its own: more would only take turns with it, and others wait in the shared pool.

    The loop has the interpreter back every few milliseconds meanwhile, save while a body is parsed:
    about 2 ms a MiB.
    """

    def __init__(self) -> None:
        # Begun by the first piece of work.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large bodies")

    async def do(self, size: int, work: Callable[..., _T], *args: object) -> _T:
        """What `work` makes of a body of `size` bytes; a small one is not worth the way.

        Raises:
            CapacityError: The thread is busy with too many others.
        """
        if size <= WHOLE_BYTES:
            return work(*args)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await loop.run_in_executor(self._thread, work, *args)
        except TimeoutError as exc:
            raise CapacityError(
                "too many large requests at once", retry_after_s=RETRY_S
            ) from exc
