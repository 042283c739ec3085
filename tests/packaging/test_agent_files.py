"""What ships for systemd and polkit agrees with itself, with the agent, and with the page on it."""

import configparser
import json
import re
import shutil
import subprocess

import pytest

from cortex.agent.settings import NAMES, PREFIX
from tests.command import ROOT

UNIT = ROOT / "contrib/systemd/cortex-agent.service"
RULES = ROOT / "contrib/polkit/50-cortex-agent.rules"
PAGE = (ROOT / "docs/operations.md").read_text()

PROGRAM = """\
let rule;
const polkit = {Result: {YES: "yes", NOT_HANDLED: null}, addRule: (given) => { rule = given; }};
%s
const asked = %s;
const told = asked.map(([id, user, details]) =>
    rule({id, lookup: (name) => details[name]}, {user}));
console.log(JSON.stringify(told));
"""


@pytest.fixture(scope="module")
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser


def test_the_unit_runs_what_there_is(unit: configparser.ConfigParser):
    service = unit["Service"]
    assert service["ExecStart"] == "/usr/bin/cortex agent"
    assert service["Type"] == "notify"
    assert float(service["WatchdogSec"]) > 0
    assert service["StateDirectory"] == "cortex-agent"
    assert service["EnvironmentFile"] in PAGE
    assert "PrivateDevices" not in service


def test_the_rule_is_for_the_units_user(unit: configparser.ConfigParser):
    assert f'subject.user !== "{unit["Service"]["User"]}"' in RULES.read_text()


def test_the_page_has_every_setting():
    for name in NAMES:
        assert f"`--{name.replace('_', '-')} " in PAGE
        assert f"`{PREFIX}{name.upper()}`" in PAGE
    for name in re.findall(r"CORTEX_AGENT_([A-Z_]+)=", PAGE):
        assert name.lower() in NAMES


@pytest.mark.skipif(not shutil.which("node"), reason="no JavaScript to run the rule with")
def test_the_rule_allows_one_restart_and_nothing_else():
    units = "org.freedesktop.systemd1.manage-units"
    restart = {"unit": "mistralrs.service", "verb": "restart"}
    asked = [
        [units, "cortex-agent", restart],
        [units, "cortex-agent", restart | {"verb": "stop"}],
        [units, "cortex-agent", restart | {"unit": "sshd.service"}],
        [units, "cortex-agent", {}],
        [units, "somebody", restart],
        ["org.freedesktop.systemd1.manage-unit-files", "cortex-agent", restart],
        ["org.freedesktop.login1.reboot", "cortex-agent", restart],
    ]
    program = PROGRAM % (RULES.read_text(), json.dumps(asked))
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["yes"] + [None] * 6
