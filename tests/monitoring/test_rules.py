"""The alerts as files: promtool's word on them, and that each tells a person what to do."""

import re
from typing import Any

import pytest
import yaml

from cortex.cli.parser import build_parser
from cortex.gateway.errors import STATUS
from tests.command import ROOT
from tests.monitoring.files import (
    OPERATIONS,
    RULE_TESTS,
    RULES,
    SCRAPE,
    alerts,
    commands,
    recorded,
)
from tests.monitoring.tools import needs_promtool, promtool

ALERTS = [pytest.param(alert, id=alert["alert"]) for alert in alerts()]
NOT_COUNTED = {
    "draining",
    "config_error",
    "rate_limit_concurrency",
    "rate_limit_requests",
    "rate_limit_tokens",
    "rate_limit_tokens_day",
}
"""An operator's wish, what no client ever gets, and what a key was not granted."""


@needs_promtool
@pytest.mark.parametrize(
    "command",
    [("check", "rules", RULES), ("test", "rules", RULE_TESTS), ("check", "config", SCRAPE)],
    ids=lambda command: " ".join(map(str, command[:2])),
)
def test_promtool_is_content(command: tuple[object, ...]) -> None:
    done = promtool(*command)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_would_not_be_content_with_other_rules(tmp_path: Any) -> None:
    dead = RULES.read_text().replace("cortex_node_up == 0 unless", "cortex_node_up == 2 unless")
    assert dead != RULES.read_text()
    (tmp_path / RULES.name).write_text(dead)
    (tmp_path / RULE_TESTS.name).write_text(RULE_TESTS.read_text())
    assert promtool("test", "rules", tmp_path / RULE_TESTS.name).returncode != 0


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_all_that_a_person_needs(alert: dict[str, Any]) -> None:
    assert alert["for"]
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert not alert["annotations"]["summary"].endswith(".")
    assert commands(alert["annotations"]["description"])


@pytest.mark.parametrize("alert", ALERTS)
def test_commands_of_an_alert_exist(alert: dict[str, Any]) -> None:
    text = re.sub(r"{{ \$labels\.(\w+) }}", r"\1", alert["annotations"]["description"])
    for command in commands(text):
        assert build_parser().parse_args(command.split()[1:]).verb


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_has_such_a_section(alert: dict[str, Any]) -> None:
    path, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert path == "docs/operations.md"
    # A section of its own: at three in the morning nobody looks for the right one.
    assert anchor == alert["alert"].lower()
    section = OPERATIONS.partition(f"\n### {alert['alert']}\n")[2].partition("\n#")[0]
    assert len(section) > 200
    assert commands(section)


def test_alerts_are_named_once_and_on_the_page() -> None:
    names = [alert["alert"] for alert in alerts()]
    assert len(names) == len(set(names))
    page = (ROOT / "docs/monitoring.md").read_text()
    assert re.findall(r"^\| \[(Cortex\w+)\]\(operations.md#", page, re.MULTILINE) == names
    assert re.findall(r"^### (Cortex\w+)$", OPERATIONS, re.MULTILINE) == names


def test_commands_of_the_runbooks_exist() -> None:
    for command in commands(OPERATIONS.partition("\n## Alerts\n")[2].partition("\n## ")[0]):
        if command != "cortex --version":
            assert build_parser().parse_args(command.split()[1:]).verb


def test_every_alert_is_seen_to_wait_and_to_fire() -> None:
    seen: dict[str, set[str]] = {alert["alert"]: set() for alert in alerts()}
    well = 0
    for case in yaml.safe_load(RULE_TESTS.read_text())["tests"]:
        for asked in case["promql_expr_test"]:
            well += not asked["exp_samples"]
            for sample in asked["exp_samples"]:
                found = re.search(r'alertname="(\w+)", alertstate="(\w+)"', sample["labels"])
                if "ALERTS" not in asked["expr"]:
                    continue  # of what is recorded
                assert found is not None
                seen[found[1]].add(found[2])
    assert well > 0
    assert seen == {name: {"pending", "firing"} for name in seen}


def test_the_error_rate_counts_all_that_is_not_the_callers_mistake() -> None:
    [alert] = [alert for alert in alerts() if alert["alert"] == "CortexErrorRate"]
    name, _, threshold = alert["expr"].partition(" > ")
    assert float(threshold) == 0.05
    found = re.search(r'code=~"([^"]+)"', recorded()[name])
    assert found is not None
    blamed = {code for code, status in STATUS.items() if status == 429 or status >= 500}
    assert set(found[1].split("|")) == blamed - NOT_COUNTED


def test_the_alert_on_a_dead_gateway_knows_its_job() -> None:
    [job] = yaml.safe_load(SCRAPE.read_text())["scrape_configs"]
    [alert] = [alert for alert in alerts() if alert["alert"] == "CortexGatewayDown"]
    assert re.findall(r'job="(\w+)"', alert["expr"]) == [job["job_name"]] * 2
