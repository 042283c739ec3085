"""What ships for monitoring, as data; and a dashboard's queries as Grafana would send them."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.command import ROOT

RULES = ROOT / "contrib/prometheus/cortex.rules.yml"
RULE_TESTS = ROOT / "contrib/prometheus/cortex.rules.test.yml"
SCRAPE = ROOT / "contrib/prometheus/scrape.yml"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "contrib/grafana/cortex.json").read_text())
OPERATIONS = (ROOT / "docs/operations.md").read_text()

ALL = ".*"
"""What the variables of the dashboard stand for when everything is chosen."""


def alerts() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for rule in group["rules"] if "alert" in rule]


def recorded() -> dict[str, str]:
    """The expressions that are computed for others, by name."""
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["record"]: rule["expr"] for rule in group["rules"] if "record" in rule}


def every_panel() -> list[dict[str, Any]]:
    """Rows too."""
    return list(DASHBOARD["panels"])


def panels() -> list[dict[str, Any]]:
    return [panel for panel in every_panel() if panel["type"] != "row"]


def targets() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every query, with a name that tells it from the others."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']}/{target['refId']}", target


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with Grafana's variables replaced, the longest names first."""
    for name in sorted(values, key=len, reverse=True):
        text = text.replace(f"${name}", values[name])
    assert "$" not in text, f"a variable that nothing fills: {text}"
    return text


def chosen(*values: str) -> str:
    """Values ticked in a variable that takes several: escaped for a regex within a string."""
    escaped = [re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def commands(text: str) -> list[str]:
    """Every `cortex …` that a text tells to run."""
    flat = " ".join(text.split())
    return re.findall(r"`(?:sudo )?(cortex [^`]+)`", flat)


def documented_metrics() -> set[str]:
    """The names in the table of docs/operations.md."""
    table = OPERATIONS.partition("## Metrics")[2].partition("\n## ")[0]
    return set(re.findall(r"`(cortex_\w+)`", table))
