"""Every snippet of docs/clients.md is run, or read by the parser of its language.

The first word after the fence is the language. `run` after it has the snippet run against a gateway, where it must
succeed; `refused` after that says that the gateway answers with an error, in the envelope of the dialect.
"""

import asyncio
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.command import ROOT
from tests.gateway.conftest import scripted
from tests.running import Running, running

KEYS = '[[auth.keys]]\nname = "reader"\nkey = "THE-KEY"\n[aliases]\nsmall = "org/model"\n'
CLIENTS = (ROOT / "docs/clients.md").read_text()


def snippets(language: str, document: str = CLIENTS, *, mark: str | None = None) -> list[str]:
    """Those of a language; with `mark`, only those that bear exactly it."""
    found = re.findall(
        rf"^```{language}(?: ([a-z ]+))?\n(.*?)^```$", document, re.MULTILINE | re.DOTALL
    )
    return [text for marked, text in found if mark is None or marked == mark]


async def run(*argv: str, given: str | None = None) -> str:
    """What the command printed; fails when it failed."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(40):
        said, complaints = await process.communicate((given or "").encode())
    assert process.returncode == 0, complaints.decode()
    return said.decode()


def here(snippet: str, gateway: Running) -> str:
    assert "http://gateway:8000" in snippet, "a snippet that would go elsewhere"
    return snippet.replace("http://gateway:8000", gateway.url)


async def shell(tmp_path: Path, snippet: str) -> str:
    async with (
        scripted(["org/model"]) as node,
        running(tmp_path, [node], toml=KEYS) as gateway,
    ):
        return await run("sh", "-c", here(snippet, gateway))


def test_every_kind_of_snippet_is_found() -> None:
    """A change of the convention must not leave the tests below with nothing to do."""
    counts = {
        "curl": len(snippets("sh", mark="run")),
        "refused": len(snippets("sh", mark="run refused")),
        "python": len(snippets("python", mark="run")),
    }
    assert counts == {"curl": 5, "refused": 2, "python": 2}
    assert CLIENTS.count("\ncurl ") == counts["curl"] + counts["refused"]
    assert all(snippets(language) for language in ("json", "toml", "yaml", "js"))


def test_the_versions_that_are_run_are_those_it_names() -> None:
    """`make clients` runs them."""
    folder = ROOT / "tests/clients"
    packages = json.loads((folder / "package.json").read_text())["dependencies"]
    del packages["@ai-sdk/openai-compatible"]  # a part of the AI SDK
    pinned = [line for name in ("python", "aider") for line in
              (folder / f"{name}.txt").read_text().splitlines()]  # fmt: skip
    versions = [*packages.values(), *(line.partition("==")[2] for line in pinned)]
    checked = " ".join(CLIENTS.partition("\n## How this was checked\n")[2].split())
    assert [version for version in versions if f" {version}" not in checked] == []


@pytest.mark.parametrize("snippet", snippets("sh", mark="run"))
async def test_curl(tmp_path: Path, snippet: str) -> None:
    said = await shell(tmp_path, snippet)
    assert '"error"' not in said
    assert "org/model" in said or '"small"' in said
    if '"stream": true' in snippet:
        end = '{"type":"message_stop"}' if "/v1/messages" in snippet else "data: [DONE]"
        assert said.rstrip().endswith(end)


@pytest.mark.parametrize("snippet", snippets("sh", mark="run refused"))
async def test_curl_that_is_refused(tmp_path: Path, snippet: str) -> None:
    head, _, body = (await shell(tmp_path, snippet)).replace("\r\n", "\n").partition("\n\n")
    assert re.match(r"HTTP/1\.1 4\d\d ", head)
    assert "x-request-id: " in head
    refusal = json.loads(body)
    if "/v1/messages" in snippet:
        assert refusal["type"] == "error"
        assert refusal["error"]["type"] == "invalid_request_error"
    else:
        assert refusal["error"]["code"] == "model_not_found"
        assert "small" in refusal["error"]["message"]


@pytest.mark.parametrize("snippet", snippets("python", mark="run"))
async def test_python(tmp_path: Path, snippet: str) -> None:
    async with (
        scripted(["org/model"]) as node,
        running(tmp_path, [node], toml=KEYS) as gateway,
    ):
        assert await run(sys.executable, "-c", here(snippet, gateway))


@pytest.mark.parametrize("snippet", snippets("sh"))
async def test_shell_can_be_parsed(snippet: str) -> None:
    await run("sh", "-n", given=snippet)


@pytest.mark.parametrize("snippet", snippets("python"))
def test_python_can_be_parsed(snippet: str) -> None:
    compile(snippet, "docs/clients.md", "exec")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("snippet", snippets("js"))
async def test_javascript_can_be_parsed(tmp_path: Path, snippet: str) -> None:
    source = tmp_path / "snippet.mjs"
    source.write_text(snippet)
    await run("node", "--check", str(source))


@pytest.mark.parametrize("snippet", snippets("json"))
def test_json_is_what_its_language_allows(snippet: str) -> None:
    assert isinstance(json.loads(snippet), dict)


@pytest.mark.parametrize("snippet", snippets("toml"))
def test_toml_is_what_its_language_allows(snippet: str) -> None:
    assert tomllib.loads(snippet)


@pytest.mark.parametrize("snippet", snippets("yaml"))
def test_yaml_is_what_its_language_allows(snippet: str) -> None:
    assert isinstance(yaml.safe_load(snippet), dict)


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", ["README.md", "docs/start.md", "docs/operations.md"])
def test_configurations_shown_are_valid(page: str) -> None:
    for text in snippets("toml", (ROOT / page).read_text()):
        tomllib.loads(text)
