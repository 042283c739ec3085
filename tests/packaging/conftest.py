"""Packages, built once for all tests that look at them or install them."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cortex import __version__
from tests.command import ROOT

OLDER = "0.0.9"
"""The version that is upgraded."""
BUILD_S = 480
WHOLE = "CORTEX_WHOLE_SUITE" in os.environ
"""Set by `make packages`. Elsewhere only what an installation may change is tried with one."""
CHECKED = ("tests/store/test_migrations.py", "tests/gateway/test_smoke.py")
QUICK = (
    *("--define", "_binary_payload w1.gzdio"),
    *(() if WHOLE else ("--define", f"check_tests {' '.join(CHECKED)}")),
)
"""Little compression, and of %check only what may differ in a package."""
STARTS = "tests/e2e/test_start.py"
SHORT = (
    f"{STARTS}::test_every_mistake_in_the_configuration_is_one_line_and_nothing_starts",
    f"{STARTS}::test_a_state_file_of_a_newer_version",
    f"{STARTS}::test_the_service_manager_is_told_of_start_reload_and_end",
    "tests/e2e/test_restart.py::test_a_killed_gateway_has_kept_every_request_older_than_a_flush",
)
"""What hangs on files and libraries that come with an installation."""
SUITE = (
    *("-q", "-p", "no:cacheprovider"),
    *(("-n", "2", "tests/e2e", "-m", "not engine") if WHOLE else SHORT),
)
"""What is run with an installed command; the engine is not about that."""


@dataclass(frozen=True)
class Built:
    """rpmbuild's folders."""

    system: Path
    """SRPM and packages that depend on the system's Python packages."""
    bundled: Path
    """Packages with their dependencies inside."""

    def packages(self) -> list[Path]:
        return sorted(
            path for top in (self.system, self.bundled) for path in top.rglob("RPMS/*/*.rpm")
        )


def build(
    sources: Path, what: str, folder: Path, *options: str, vendor: Path | None = None
) -> str:
    """Run rpm/build.sh; returns its output."""
    done = subprocess.run(
        [sources / "rpm/build.sh", what, folder, *options],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(Path.home()),
            "BUILD_PYTHON": sys.executable,
            "VENDOR": str(vendor or ""),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_S,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as it is, committed or not, without what was made from it."""
    copy = tmp_path_factory.mktemp("sources") / "cortex"
    made = shutil.ignore_patterns(
        ".git",
        ".venv*",
        "build",
        "dist",
        "*.egg-info",
        "__pycache__",
        ".*_cache",
        ".build",
        ".peers",
    )
    shutil.copytree(ROOT, copy, ignore=made)
    return copy


@pytest.fixture(scope="session")
def built(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """This version, both ways."""
    if not shutil.which("rpmbuild"):
        pytest.skip("rpmbuild is not installed")
    top = tmp_path_factory.mktemp("rpm")
    build(sources, "rpm", top / "system", *QUICK)
    build(sources, "bundled", top / "bundled", *QUICK)
    return Built(top / "system", top / "bundled")


@pytest.fixture(scope="session")
def older(sources: Path, built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An older version with another sample configuration, and the same dependencies inside."""
    tree = tmp_path_factory.mktemp("older") / "cortex"
    shutil.copytree(sources, tree)
    for name, pattern, text in (
        ("cortex/__init__.py", r'__version__ = ".*"', f'__version__ = "{OLDER}"'),
        ("rpm/cortex.spec", r"(?m)^Version:.*$", f"Version:        {OLDER}"),
        ("contrib/cortex.toml", r"\A", "# An older sample.\n"),
    ):
        file = tree / name
        file.write_text(re.sub(pattern, text, file.read_text(), count=1))
    top = tmp_path_factory.mktemp("rpm-older")
    (vendor,) = built.bundled.rglob("cortex-vendor-*.tar.gz")
    build(tree, "bundled", top, "--nocheck", *QUICK, vendor=vendor)
    assert __version__ != OLDER
    return top
