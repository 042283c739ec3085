"""Which commit this program was made from."""

from functools import cache
from pathlib import Path

STAMPED = "$Format:%H$"
"""`git archive` writes the commit here (.gitattributes), and setup.py does so in what it builds."""


@cache
def revision() -> str | None:
    """Twelve digits of the commit, with `-dirty` when the checkout has changes; None if unknown."""
    if not STAMPED.startswith("$"):
        commit, dash, dirty = STAMPED.partition("-")
        return commit[:12] + dash + dirty
    root = Path(__file__).parents[2]
    return _asked(root) if (root / ".git").exists() else None


def _asked(root: Path) -> str | None:
    import subprocess

    describe = ["describe", "--always", "--exclude=*", "--abbrev=12", "--dirty"]
    try:
        done = subprocess.run(  # noqa: S603 - no word of it comes from outside
            ["git", "-C", str(root), *describe],  # noqa: S607 - a checkout's own git
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or not ours to ask
    return done.stdout.strip() or None
