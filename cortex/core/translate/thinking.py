"""Thinking, effort and structured output, as mistral.rs takes them."""

from collections.abc import Mapping
from typing import Any

from cortex.core.translate.fields import object_of, wrong

_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "xhigh"}
"""Older nodes do not know `max`."""
_BUDGETS = ((8192, "xhigh"), (4096, "high"), (2048, "medium"))


def thinking_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`enable_thinking` and `reasoning_effort`.

    A node takes no budget of tokens, so a budget becomes an effort; an effort that is given wins.
    Disabled thinking goes without any effort: the two together are refused by nodes.
    """
    output = object_of(fields.get("output_config") or {}, "output_config")
    effort = _effort(output.get("effort"))
    thinking = fields.get("thinking")
    if thinking is None:
        return {"reasoning_effort": effort} if effort else {}
    thinking = object_of(thinking, "thinking")
    match thinking.get("type"):
        case "disabled":
            return {"enable_thinking": False}
        case "enabled":
            effort = effort or _of_budget(thinking.get("budget_tokens"))
        case "adaptive" | "between_tools":
            pass
        case _:
            raise wrong(
                "thinking.type", "enabled, disabled, adaptive or between_tools is wanted"
            )
    found: dict[str, Any] = {"enable_thinking": True}
    if effort:
        found["reasoning_effort"] = effort
    return found


def omits_thinking(fields: Mapping[str, Any]) -> bool:
    """Whether thoughts are to be shown as empty blocks."""
    thinking = fields.get("thinking")
    return isinstance(thinking, dict) and thinking.get("display") == "omitted"


def format_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`response_format` for a JSON schema; the top-level `output_format` is its older spelling."""
    output = object_of(fields.get("output_config") or {}, "output_config")
    wanted = output.get("format") or fields.get("output_format")
    if wanted is None:
        return {}
    wanted = object_of(wanted, "output_config.format")
    if wanted.get("type") != "json_schema":
        raise wrong("output_config.format.type", "json_schema is wanted")
    schema = object_of(wanted.get("schema"), "output_config.format.schema")
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": schema},
        }
    }


def _effort(word: object) -> str | None:
    if word is None:
        return None
    if not isinstance(word, str) or word not in _EFFORTS:
        raise wrong("output_config.effort", f"one of {', '.join(_EFFORTS)} is wanted")
    return _EFFORTS[word]


def _of_budget(budget: object) -> str:
    if not isinstance(budget, int) or isinstance(budget, bool) or budget < 1:
        raise wrong("thinking.budget_tokens", "a positive number is wanted")
    return next((effort for least, effort in _BUDGETS if budget >= least), "low")
