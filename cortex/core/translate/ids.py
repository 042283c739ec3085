"""Ids of tool calls that both dialects accept: Anthropic wants `^[a-zA-Z0-9_-]+$`."""

import re

_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_-]")


class ToolIds:
    """One conversation's ids, mapped the same way wherever they occur, distinct ones apart."""

    def __init__(self) -> None:
        self._mapped: dict[str, str] = {}
        self._used: set[str] = set()

    def of(self, original: str) -> str:
        """The id to use for `original`; itself where it is fine."""
        known = self._mapped.get(original)
        if known is not None:
            return known
        base = _FORBIDDEN.sub("_", original) or "_"
        chosen, number = base, 2
        while chosen in self._used:
            chosen, number = f"{base}_{number}", number + 1
        self._mapped[original] = chosen
        self._used.add(chosen)
        return chosen
