"""What `--version` says of the source, by how it came here."""

import runpy
import subprocess
from pathlib import Path

import pytest

from tests.command import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def placed(folder: Path, stamped: str | None = None) -> Path:
    """A copy of the module in a source tree of its own."""
    copy = folder / "cortex" / "telemetry" / "revision.py"
    copy.parent.mkdir(parents=True)
    text = (ROOT / "cortex/telemetry/revision.py").read_text()
    copy.write_text(text.replace("$Format:%H$", stamped) if stamped else text)
    return copy


def revision_of(copy: Path) -> str | None:
    found: str | None = runpy.run_path(str(copy))["revision"]()
    return found


def git(folder: Path, *argv: str) -> str:
    names = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    done = subprocess.run(
        ["git", "-C", folder, *names, *argv], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("stamped", "shown"),
    [
        (COMMIT, "0123456789ab"),
        ("0123456789ab", "0123456789ab"),
        ("0123456789ab-dirty", "0123456789ab-dirty"),
    ],
)
def test_what_was_built_says_what_was_stamped(tmp_path: Path, stamped: str, shown: str) -> None:
    assert revision_of(placed(tmp_path, stamped)) == shown


def test_sources_without_a_history_do_not_guess(tmp_path: Path) -> None:
    assert revision_of(placed(tmp_path)) is None
    (tmp_path / ".git").mkdir()
    assert revision_of(tmp_path / "cortex/telemetry/revision.py") is None


def test_a_checkout_asks_git_and_an_archive_of_it_is_stamped(tmp_path: Path) -> None:
    copy = placed(tmp_path)
    (tmp_path / ".gitattributes").write_text((ROOT / ".gitattributes").read_text())
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "all")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert revision_of(copy) == commit

    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    git(tmp_path, "archive", "--output", "archive.tar", "HEAD")
    subprocess.run(
        ["tar", "-xf", tmp_path / "archive.tar", "-C", unpacked], check=True, timeout=20
    )
    assert revision_of(unpacked / "cortex/telemetry/revision.py") == commit

    copy.write_text(copy.read_text() + "\n")
    assert revision_of(copy) == f"{commit}-dirty"
