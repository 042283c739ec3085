# SPDX-License-Identifier: GPL-3.0-only
"""Makes the man pages: `python man/build.py DIRECTORY`.

cortex(1) and one page for each verb come from the argparse tree, cortex.toml(5) from the schema. The
pages are kept beside this file, so that a package is built without this; a test compares them.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from argparse_manpage.manpage import Manpage

from cortex import __version__
from cortex.cli.exit_codes import MEANINGS
from cortex.cli.parser import DESCRIPTION, ENVIRONMENT, FILES, Formatter, build_parser
from cortex.config.reference import INTRODUCTION, Key, Section, sections

ROOT = Path(__file__).resolve().parents[1]
MANUAL = "cortex manual"
SUMMARY = "one OpenAI and Anthropic API in front of a fleet of mistral.rs nodes"


def pages() -> dict[str, str]:
    """File name to text, of every page."""
    commands = _verbs(build_parser())
    made = {"cortex.1": _front(commands), "cortex.toml.5": _configuration()}
    for verb, (summary, parser) in commands.items():
        page = _page(parser, f"cortex-{verb}", summary)
        page.add_section("see also", ">", ".BR cortex (1),\n.BR cortex.toml (5)")
        made[f"cortex-{verb}.1"] = _tidy(str(page))
    return made


def released() -> str:
    """The date of this version, as the change log has it."""
    heading = rf"^## \[{re.escape(__version__)}\] - (\d{{4}}-\d\d-\d\d)$"
    found = re.search(heading, (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"CHANGELOG.md has no dated heading for {__version__}")
    return found[1]


def _verbs(
    parser: argparse.ArgumentParser,
) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    # argparse has no public way to look into a tree.
    (tree,) = (
        action
        for action in parser._actions  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
    )
    summaries = {choice.dest: choice.help or "" for choice in tree._choices_actions}  # noqa: SLF001
    return {verb: (summaries[verb], sub) for verb, sub in tree.choices.items()}


def _page(parser: argparse.ArgumentParser, name: str, summary: str) -> Manpage:
    page = Manpage(parser, format="single-commands-section")
    page.prog, page.description, page.date = name, summary, released()
    page.source, page.manual = f"cortex {__version__}", MANUAL
    return page


def _front(commands: dict[str, tuple[str, argparse.ArgumentParser]]) -> str:
    """cortex(1): what the commands are; their options have pages of their own."""
    parser = argparse.ArgumentParser(
        "cortex",
        usage="cortex COMMAND [OPTIONS]",
        description=DESCRIPTION,
        formatter_class=Formatter,
        add_help=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--help", action="store_true", help="print the commands and exit")
    page = _page(parser, "cortex", SUMMARY)
    summaries = {f".BR cortex\\-{_roff(v)} (1)": text for v, (text, _) in commands.items()}
    page.add_section("commands", ">", _list(summaries))
    codes = {f".B {code:d}": text for code, text in MEANINGS.items()}
    page.add_section("exit status", ">", _list(codes))
    page.add_section("environment", ">", _list({f".B {k}": v for k, v in ENVIRONMENT.items()}))
    page.add_section("files", ">", _list({f".I {k}": v for k, v in FILES.items()}))
    page.add_section("see also", ">", ".BR cortex.toml (5),\n.BR systemctl (1)")
    return _tidy(str(page))


def _tidy(page: str) -> str:
    """Mend what `argparse-manpage` leaves to groff: the date, hyphens of the synopsis, blank lines."""
    header, *lines = page.split("\n")
    date = released()
    synopsis = next(at for at, line in enumerate(lines) if line.startswith(".B ")) + 1
    lines[synopsis] = _roff(lines[synopsis])
    # A blank line before a macro is space that nobody asked for.
    kept = [
        line
        for line, following in zip(lines, [*lines[1:], "."], strict=True)
        if line or not following.startswith(".")
    ]
    return "\n".join([header.replace(_roff(date), date), *kept]).rstrip("\n") + "\n"


def _configuration() -> str:
    """cortex.toml(5)."""
    lines = [
        f'.TH CORTEX.TOML "5" "{released()}" "cortex {__version__}" "{MANUAL}"',
        ".SH NAME",
        r"cortex.toml \- configuration of the cortex gateway",
        ".SH SYNOPSIS",
        ".I /etc/cortex/cortex.toml",
        ".SH DESCRIPTION",
        _roff(INTRODUCTION.replace("`", "")),
    ]
    for section in sections():
        lines += _section(section)
    lines += [".SH FILES", _list({f".I {name}": text for name, text in FILES.items()})]
    lines += [".SH SEE ALSO", r".BR cortex\-check\-config (1),", r".BR cortex\-serve (1)"]
    return "\n".join(lines) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f".SS {_roff(section.title)}"
    yield _roff(section.meaning.replace("`", ""))
    for key in section.keys:
        yield ".TP"
        yield f'.BR {key.name} " ({_quoted(_facts(key))})"'
        yield _roff(key.meaning.replace("`", ""))


def _facts(key: Key) -> str:
    if key.required:
        return f"{key.kind}, required"
    return f"{key.kind}, default {key.default}" if key.default else key.kind


def _list(entries: dict[str, str]) -> str:
    return "\n".join(f".TP\n{term}\n{_roff(text)}" for term, text in entries.items())


def _roff(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return "\n".join(
        "\\&" + line if line[:1] in {".", "'"} else line for line in escaped.split("\n")
    )


def _quoted(text: str) -> str:
    """Inside the quotes of a macro's argument."""
    return _roff(text).replace('"', r"\(dq")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)
