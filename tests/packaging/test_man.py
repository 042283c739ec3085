"""The pages in man/ are what the parser and the schema say, and every reader of man pages takes them."""

import importlib.util
import shutil
import subprocess

import pytest

from tests.command import ROOT

MAN = ROOT / "man"
PAGES = sorted([*MAN.glob("*.1"), *MAN.glob("*.5")])


def made() -> dict[str, str]:
    pytest.importorskip("argparse_manpage", reason="the dev extra is not installed")
    spec = importlib.util.spec_from_file_location("man_build", MAN / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return pages


def test_the_pages_are_up_to_date() -> None:
    """After a change of the parser or the schema: `make man`."""
    pages = made()
    assert {page.name for page in PAGES} == set(pages)
    for page in PAGES:
        assert page.read_text() == pages[page.name], f"{page.name} is stale: make man"


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
def test_mandoc_has_nothing_to_complain_about() -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *PAGES], capture_output=True, text=True
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.skipif(not shutil.which("lexgrog"), reason="man-db is not installed")
def test_whatis_finds_each_page() -> None:
    done = subprocess.run(["lexgrog", *PAGES], capture_output=True, text=True, check=True)
    for line, page in zip(done.stdout.splitlines(), PAGES, strict=True):
        assert f'"{page.stem} - ' in line
