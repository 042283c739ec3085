"""The files that a package installs agree with the program, and with each other."""

import configparser
import re
import shutil
import subprocess
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from cortex.config.load import load
from cortex.config.schema import Config, Limits
from tests.command import ROOT

UNITS = sorted((ROOT / "contrib/systemd").glob("*.service"))
SAMPLE = ROOT / "contrib/cortex.toml"
MOST_EXPOSURE = 15
"""In tenths, as `systemd-analyze security --threshold` counts."""


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(ROOT / "contrib/systemd" / name)
    return parser


def test_the_configuration_works_as_it_is_installed(tmp_path: Path) -> None:
    installed = tmp_path / "cortex.toml"
    installed.write_text(SAMPLE.read_text())
    config = load(installed, {})
    assert [node.name for node in config.nodes] == ["local"]


def test_what_the_configuration_comments_out_is_valid_and_the_default() -> None:
    text = re.sub(r"^#(?=\S)", "", SAMPLE.read_text(), flags=re.MULTILINE)
    config = Config.model_validate(tomllib.loads(text))
    assert config.gateway == Config().gateway
    assert [node.name for node in config.nodes] == ["local", "gpu-2"]


def test_a_stop_lets_the_drain_finish() -> None:
    service = unit("cortex.service")["Service"]
    assert float(service["TimeoutStopSec"]) > Limits().drain_timeout_s + 5


def test_the_socket_and_the_firewall_open_the_default_ports() -> None:
    gateway = Config().gateway
    assert unit("cortex.socket")["Socket"]["ListenStream"] == gateway.listen.rpartition(":")[2]
    assert gateway.metrics_listen is not None
    for name, address in (
        ("cortex.xml", gateway.listen),
        ("cortex-metrics.xml", gateway.metrics_listen),
    ):
        port = ET.parse(ROOT / "contrib/firewalld" / name).find("port")  # noqa: S314 - our own files
        assert port is not None
        assert port.attrib == {"protocol": "tcp", "port": address.rpartition(":")[2]}


@pytest.mark.parametrize("name", ["cortex", "cortex-agent"])
def test_the_users_are_those_of_the_units(name: str) -> None:
    service = unit(f"{name}.service")["Service"]
    (line,) = [
        line
        for line in (ROOT / f"contrib/sysusers/{name}.conf").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert line.split()[1] == service["User"] == service["Group"]
    assert f"/var/lib/{service['StateDirectory']}" in line


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)
@pytest.mark.parametrize("name", ["cortex.service", "cortex-agent.service"])
def test_the_units_are_hardened(name: str) -> None:
    path = ROOT / "contrib/systemd" / name
    done = subprocess.run(
        [
            *("systemd-analyze", "security", "--offline=true", "--no-pager"),
            *(f"--threshold={MOST_EXPOSURE}", path),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
