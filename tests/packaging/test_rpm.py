"""The packages as files: what they hold, what they want, what rpmlint says."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from cortex import __version__
from tests.command import ROOT
from tests.packaging.conftest import WHOLE, Built, build

pytestmark = pytest.mark.timeout(600)


def query(package: Path, *what: str) -> list[str]:
    done = subprocess.run(["rpm", "-qp", *what, package], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.rglob(pattern)
    return found


def test_the_spec_has_the_version_of_the_program() -> None:
    spec = (ROOT / "rpm/cortex.spec").read_text()
    assert re.search(rf"^Version: +{re.escape(__version__)}$", spec, re.MULTILINE)
    assert re.search(rf"^\* .* - {re.escape(__version__)}-1$", spec, re.MULTILINE)


def test_the_packages_depend_on_what_the_project_depends_on(built: Built) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        re.sub(r"^([a-z-]+)>=(.*)$", r"dist(\1) >= \2", text)
        for text in project["dependencies"]
    }
    requires = query(one(built.system, "RPMS/noarch/cortex-[0-9]*.rpm"), "--requires")
    found = {line.partition("dist")[1] + line.partition("dist")[2] for line in requires}
    assert wanted <= found
    bundled = query(one(built.bundled, "RPMS/*/cortex-[0-9]*.rpm"), "--requires")
    assert not [line for line in bundled if "dist(" in line]
    agent = query(one(built.system, "RPMS/noarch/cortex-agent-*.rpm"), "--requires")
    assert any(line.startswith("cortex = ") for line in agent)


@pytest.mark.parametrize("variant", ["system", "bundled"])
def test_files_have_their_owners_and_modes(built: Built, variant: str) -> None:
    top: Path = getattr(built, variant)
    lines: list[str] = []
    for package in top.rglob("RPMS/*/*.rpm"):
        form = "[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\n]"
        lines += query(package, "--qf", form)
    for wanted in (
        "-rwxr-xr-x root:root /usr/bin/cortex",
        "drwxr-x--- root:cortex /etc/cortex",
        "-rw-r----- root:cortex /etc/cortex/cortex.toml",
        "drwxr-x--- root:cortex-agent /etc/cortex-agent",
        "-rw-r----- root:cortex-agent /etc/cortex-agent/agent.env",
        "drwxr-x--- cortex:cortex /var/lib/cortex",
        "drwxr-x--- cortex-agent:cortex-agent /var/lib/cortex-agent",
        "-rw-r--r-- root:root /usr/lib/systemd/system/cortex.service",
        "-rw-r--r-- root:root /usr/lib/systemd/system/cortex.socket",
        "-rw-r--r-- root:root /usr/lib/systemd/system/cortex-agent.service",
        "-rw-r--r-- root:root /usr/lib/sysusers.d/cortex.conf",
        "-rw-r--r-- root:root /usr/lib/firewalld/services/cortex.xml",
        "-rw-r--r-- root:root /usr/share/polkit-1/rules.d/50-cortex-agent.rules",
        "-rw-r--r-- root:root /usr/share/bash-completion/completions/cortex",
        "-rw-r--r-- root:root /usr/share/man/man1/cortex-status.1.gz",
        "-rw-r--r-- root:root /usr/share/man/man5/cortex.toml.5.gz",
    ):
        assert wanted in lines
    documents = " ".join(line for line in lines if "/usr/share/doc/" in line)
    for document in ("grafana/cortex.json", "prometheus/cortex.rules.yml", "mistralrs.service"):
        assert document in documents


def test_what_is_edited_is_configuration(built: Built) -> None:
    package = one(built.system, "RPMS/noarch/cortex-[0-9]*.rpm")
    (kept,) = query(package, "--configfiles")
    assert kept == "/etc/cortex/cortex.toml"
    flags = query(package, "--qf", "[%{FILENAMES} %{FILEFLAGS:fflags}\n]")
    assert "/etc/cortex/cortex.toml cn" in flags


@pytest.mark.skipif(not shutil.which("rpmlint"), reason="rpmlint is not installed")
def test_rpmlint_finds_no_error(built: Built) -> None:
    done = subprocess.run(
        [
            *("rpmlint", "-c", ROOT / "rpm/rpmlint.toml", "-r", ROOT / "rpm/cortex.rpmlintrc"),
            *built.packages(),
            one(built.system, "*.src.rpm"),
        ],
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    assert " 0 errors" in done.stdout
    assert done.returncode == 0


@pytest.mark.skipif(not WHOLE, reason="a build more: `make packages` does that")
def test_the_source_package_builds_by_itself_and_twice_the_same(
    built: Built, sources: Path, tmp_path: Path
) -> None:
    build(sources, "rpm", tmp_path, "--nocheck")
    for package in sorted(built.system.rglob("RPMS/noarch/*.rpm")):
        again = one(tmp_path, package.name)
        digests = [
            query(path, "--qf", "[%{FILENAMES} %{FILEDIGESTS}\n]") for path in (package, again)
        ]
        assert digests[0] == digests[1]
    source = one(built.system, "*.src.rpm")
    assert query(source, "--qf", "%{VERSION}") == [__version__]
    assert source.stat().st_size < 5_000_000
