"""What `pip install` gives, away from this source: every module, every verb, the whole story of a process."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from cortex import __version__
from tests.command import ROOT
from tests.packaging.conftest import SUITE, WHOLE

pytestmark = pytest.mark.timeout(600)

IMPORT_ALL = """
import importlib, pkgutil, cortex
names = [module.name for module in pkgutil.walk_packages(cortex.__path__, "cortex.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(cortex.__file__, len(names))
"""

COMMITTER = ("-c", "user.name=n", "-c", "user.email=n@example.org")


@pytest.fixture(scope="module")
def distributions(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel made of nothing but that."""
    pytest.importorskip("setuptools", minversion="68", reason="the dev extra is not installed")
    pytest.importorskip("wheel", reason="the dev extra is not installed")
    folder = tmp_path_factory.mktemp("dist")
    checkout = folder / "checkout"
    shutil.copytree(sources, checkout)
    for argv in ("init --quiet", "add .", "commit --quiet --message all"):
        run("git", *COMMITTER, *argv.split(), cwd=checkout)
    program = f"from setuptools import build_meta as b; b.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", program, cwd=checkout)
    [sdist] = folder.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "--isolated", "wheel", "--quiet", "--no-deps")
    run(*pip, "--no-build-isolation", "--wheel-dir", folder, sdist, cwd=folder)
    [wheel] = folder.glob("*.whl")
    return sdist, wheel


def run(*argv: str | Path, cwd: Path, environ: dict[str, str] | None = None) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CORTEX_"))}
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=clean | (environ or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def test_the_wheel_has_every_file_and_nothing_else(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "cortex").rglob("*")
        if path.is_file() and not {"__pycache__", ".ruff_cache"} & set(path.parts)
    } - {"cortex/core/ruff.toml"}
    migrations = {
        f"cortex/migrations/{path.name}" for path in (ROOT / "migrations").glob("*.*")
    }
    assert held == ours | migrations


def test_the_source_distribution_has_what_packages_are_made_of(
    distributions: tuple[Path, Path],
) -> None:
    with tarfile.open(distributions[0]) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    for wanted in (
        *("LICENSE", "CHANGELOG.md", "rpm/cortex.spec", "man/cortex.1", "contrib/cortex.toml"),
        *("contrib/systemd/cortex.service", "docs/operations.md", "tests/e2e/test_start.py"),
    ):
        assert wanted in held
    assert not [name for name in held if "__pycache__" in name]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an empty environment, far from any source."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder)
    return folder / "bin/python"


def test_it_works_without_extras_on_the_oldest_versions(
    distributions: tuple[Path, Path], python: Path
) -> None:
    floors = ROOT / "requirements/floors.txt"
    assert installed(python, distributions[1], "--constraint", floors) == set()
    it_works(python, distributions[1], SUITE)


def test_it_works_with_speed(distributions: tuple[Path, Path], python: Path) -> None:
    wheel = f"{distributions[1]}[speed]"
    # The whole suite runs on the newest versions; here the extra joins the oldest, unless there is time for both.
    newest = ("--upgrade", "--upgrade-strategy=eager") if WHOLE else ()
    assert installed(python, wheel, *newest) == {"orjson", "uvloop"}
    it_works(python, distributions[1], SUITE if WHOLE else ())


def installed(python: Path, what: str | Path, *options: str | Path) -> set[str]:
    """Install that; returns what makes it faster of all that is there then."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", *options, what, cwd=python.parent)
    run(*pip, "check", cwd=python.parent)
    names = re.findall(r"^\w+", run(*pip, "list", cwd=python.parent), re.MULTILINE)
    return {"orjson", "uvloop"} & set(names)


def it_works(python: Path, wheel: Path, suite: tuple[str, ...]) -> None:
    where, count = run(python, "-c", IMPORT_ALL, cwd=python.parent).split()[-2:]
    assert Path(where).is_relative_to(python.parents[1])
    assert int(count) > 100

    command = python.with_name("cortex")
    commit = run("git", "rev-parse", "HEAD", cwd=wheel.parent / "checkout")[:12]
    said = run(command, "--version", cwd=python.parent)
    # Stamped from a checkout into the source distribution, and kept by the wheel made of that.
    assert said == f"cortex {__version__} (revision {commit})\n"

    if suite:
        environ = {"CORTEX_UNDER_TEST": str(command)}
        said = run(sys.executable, "-m", "pytest", *suite, cwd=ROOT, environ=environ)
        print(said[-500:])
        assert re.search(r"\d+ passed", said)
