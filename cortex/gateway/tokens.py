"""How many tokens a prompt will be, from how many bytes: learned per model from finished requests."""

import math
from collections.abc import Mapping
from typing import Any

from cortex.core.ids import ModelId

START = 0.25
"""Tokens per byte before anything was learned."""
WEIGHT = 0.2
"""Share of the newest sample in the moving average."""
IMAGE_TOKENS = 1500
MARGIN = 1.05
"""Too low a count keeps an agent from compacting its conversation until it is too late."""


class TokenCounts:
    """One ratio a model."""

    def __init__(self) -> None:
        self._ratios: dict[ModelId, float] = {}

    def learn(self, model: ModelId, prompt: tuple[int, int], tokens: int) -> None:
        """A request of `prompt` (text bytes, images) turned out to be `tokens`."""
        text_bytes, images = prompt
        counted = tokens - images * IMAGE_TOKENS
        if text_bytes <= 0 or counted <= 0:
            return
        sample = counted / text_bytes
        known = self._ratios.get(model)
        self._ratios[model] = (
            sample if known is None else WEIGHT * sample + (1 - WEIGHT) * known
        )

    def estimate(self, model: ModelId, prompt: tuple[int, int]) -> int:
        text_bytes, images = prompt
        ratio = self._ratios.get(model, START)
        return max(1, math.ceil(text_bytes * ratio * MARGIN) + images * IMAGE_TOKENS)


def prompt_bytes(fields: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes of text that reach the model, and the number of images."""
    total, images = 0, 0
    waiting: list[object] = [fields.get(key) for key in ("system", "messages", "tools")]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            total += len(item.encode(errors="replace"))
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            if item.get("type") in ("image", "document") and "source" in item:
                images += item["type"] == "image"
                continue
            for key, value in item.items():
                total += len(key)
                waiting.append(value)
    return total, images
