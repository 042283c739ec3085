"""The dashboard as a file: what Grafana would draw without complaint, and a person understand."""

import re
import subprocess
import sys
from itertools import combinations
from typing import Any

import pytest

from cortex.cli.parser import build_parser
from tests.command import ROOT
from tests.monitoring.files import DASHBOARD, commands, documented_metrics, every_panel, panels

WIDTH = 24
PANELS = [pytest.param(panel, id=panel["title"]) for panel in panels()]


def test_it_is_what_its_source_writes() -> None:
    """`make dashboard` was run after the last change of it."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools/dashboard.py"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout == (ROOT / "contrib/grafana/cortex.json").read_text()


def test_it_has_four_rows() -> None:
    rows = [panel["title"] for panel in every_panel() if panel["type"] == "row"]
    assert rows == ["Fleet", "Models", "Requests", "Swaps"]


def test_it_can_be_imported_and_provisioned_alike() -> None:
    # `__inputs` would be asked for by an import, but left as they are by provisioning.
    assert "__inputs" not in DASHBOARD
    assert DASHBOARD["id"] is None
    assert DASHBOARD["uid"] == "cortex"
    [source, *others] = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    assert [variable["name"] for variable in others] == ["gateway", "node", "model"]
    queried = [*panels(), *others, *(t for panel in panels() for t in panel["targets"])]
    for part in queried:
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_everything_chosen_includes_what_has_no_node_or_model() -> None:
    for variable in DASHBOARD["templating"]["list"][1:]:
        assert (variable["includeAll"], variable["multi"], variable["allValue"]) == (
            True,
            True,
            ".*",
        )


def test_it_says_which_panels_it_is_made_of() -> None:
    needed = {entry["id"] for entry in DASHBOARD["__requires"] if entry["type"] == "panel"}
    assert needed == {panel["type"] for panel in panels()}


def test_ids_and_titles_are_unique() -> None:
    for key in ("id", "title"):
        values = [panel[key] for panel in every_panel()]
        assert len(values) == len(set(values))


def test_panels_lie_within_the_grid_and_not_upon_each_other() -> None:
    places = {panel["title"]: panel["gridPos"] for panel in every_panel()}
    for title, place in places.items():
        assert min(place["x"], place["y"]) >= 0, title
        assert min(place["w"], place["h"]) >= 1, title
        assert place["x"] + place["w"] <= WIDTH, title
    for (one, a), (other, b) in combinations(places.items(), 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one} lies upon {other}"


def test_every_line_of_the_grid_is_full() -> None:
    cells = [0] * max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in every_panel())
    for place in (panel["gridPos"] for panel in every_panel()):
        for y in range(place["y"], place["y"] + place["h"]):
            cells[y] += place["w"]
    assert set(cells) == {WIDTH}


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_a_unit_and_says_what_to_do(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["description"].count(".") + panel["description"].count("?") >= 1
    assert len(panel["description"]) > 60


@pytest.mark.parametrize("panel", PANELS)
def test_a_legend_names_what_tells_its_lines_apart(panel: dict[str, Any]) -> None:
    references = [target["refId"] for target in panel["targets"]]
    assert len(references) == len(set(references))
    for target in panel["targets"]:
        expression, legend = target["expr"], target["legendFormat"]
        assert legend
        if by := re.search(r"\bby \(([^)]*)\)", expression):
            apart = {label.strip() for label in by[1].split(",")} - {"le"}
            assert set(re.findall(r"{{(\w+)}}", legend)) == apart
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert len(legends) == len(set(legends))


@pytest.mark.parametrize("panel", PANELS)
def test_commands_in_descriptions_exist(panel: dict[str, Any]) -> None:
    for command in commands(panel["description"]):
        assert build_parser().parse_args(command.split()[1:]).verb


def test_every_metric_is_shown() -> None:
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for panel in panels()
        for target in panel["targets"]
        for name in re.findall(r"\bcortex_\w+", target["expr"])
    }
    assert shown == documented_metrics()
