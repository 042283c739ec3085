"""The clients' own libraries, imported when a test first uses one: each takes seconds, in every process of the suite."""

import importlib
from typing import Any


class _Later:
    """A library that is read at the first look at one of its public names.

    Not `importlib.util.LazyLoader`: pytest asks everything that it finds in a module for `__test__`, and that would do.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


anthropic: Any = _Later("anthropic")
openai: Any = _Later("openai")
