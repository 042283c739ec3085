"""The clients' own libraries, imported when a test first uses one: each takes seconds, in every process of the suite."""

import importlib
from typing import Any


class _Later:
    """A library that is read at the first look at one of its public names.

    Not by `importlib.util.LazyLoader`: pytest looks for `__test__` in all that it finds, which would be the first look.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


anthropic: Any = _Later("anthropic")
openai: Any = _Later("openai")
