"""The page on configuration is made from the schema, and stays so."""

import subprocess
import sys

from tests.command import ROOT


def test_the_page_is_what_the_schema_says() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "cortex.config.reference"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    assert (ROOT / "docs" / "configuration.md").read_text() == made
