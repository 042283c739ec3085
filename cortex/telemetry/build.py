"""Which program this is, as a metric: what a graph is compared with after an upgrade."""

import platform

from prometheus_client import CollectorRegistry, Info

from cortex import __version__
from cortex.telemetry.revision import revision


def show_build(registry: CollectorRegistry) -> None:
    """`cortex_build_info`, which is always 1; a revision that nobody knows is an empty label."""
    Info("cortex_build", "What this gateway was made of.", registry=registry).info(
        {
            "version": __version__,
            "revision": revision() or "",
            "python": platform.python_version(),
        }
    )
