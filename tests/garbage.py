"""What is left to the collector of cycles, which looks rarely."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def left_behind() -> Iterator[list[str]]:
    """The types of the gateway's objects that only a collection frees; filled in at the end."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = ((type(it).__module__, type(it).__qualname__) for it in gc.garbage)
        found += sorted(
            name
            for module, name in kinds
            if module.startswith("cortex.") and not module.startswith("cortex.devnode.")
        )
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
