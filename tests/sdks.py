"""The clients' own libraries, imported when a test first uses one: each takes seconds, in every process of the suite."""

import importlib.util
import sys
from types import ModuleType


def _later(name: str) -> ModuleType:
    """The module, which is read at the first look at one of its names."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed: the dev extra"
    assert spec.loader is not None
    loader = spec.loader = importlib.util.LazyLoader(spec.loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


anthropic = _later("anthropic")
openai = _later("openai")
