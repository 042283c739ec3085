"""The published document against the gateway that publishes it, by generated requests of every kind."""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import scripted
from tests.running import running

BUDGET_S = 12
CHECKS = "status_code_conformance,content_type_conformance,response_schema_conformance"
"""500 is in no operation's statuses, so the first of them finds it; 502 to 504 are honest answers."""
ENDLESS = "/cortex/v1/(events/stream|live)"
START = "from schemathesis.cli import schemathesis; schemathesis()"


def aimed(document: Any) -> Any:
    """The same document with the names that exist, so that requests get past the look-up."""
    names = {"model": ["m1", "m2", "nope"], "model_id": ["m1", "nope"], "node": ["n0", "nope"]}

    def aim(part: Any) -> None:
        if isinstance(part, list):
            for one in part:
                aim(one)
        elif isinstance(part, dict):
            for name, enum in names.items():
                if isinstance(part.get("properties"), dict) and name in part["properties"]:
                    part["properties"][name] = {"type": "string", "enum": enum}
            if part.get("in") == "path" and part["name"] == "name":
                part["schema"] = {"type": "string", "enum": ["n0", "nope"]}
            for value in part.values():
                aim(value)

    for path in document["paths"].values():
        for operation in path.values():
            aim({key: its for key, its in operation.items() if key != "responses"})
    for name, shape in document["components"]["schemas"].items():
        if name in {
            "Inference",
            "Messages",
            "CountTokens",
            "ModelOrder",
            "LoadBody",
            "UnloadBody",
            "PinBody",
        }:
            aim(shape)
    # Enough for a node to answer; what it wants is not for the document to say.
    talk = {
        "messages": {"const": [{"role": "user", "content": "hi"}]},
        "prompt": {"const": "hi"},
        "input": {"const": "hi"},
    }
    inference = document["components"]["schemas"]["Inference"]
    inference["properties"] |= talk
    inference["required"] += list(talk)
    messages = document["components"]["schemas"]["Messages"]["properties"]
    messages["messages"] = talk["messages"]
    messages["max_tokens"] = {"type": "integer", "minimum": 1, "maximum": 20}
    return document


@pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed"
)
@pytest.mark.timeout(120)
async def test_answers_are_what_the_document_says(tmp_path: Path):
    """No 500, no status or shape that is not published, whatever is asked."""
    async with scripted(["m1", "m2"], load_s=0.05) as node:
        toml = '[limits]\nqueue_timeout_s = 1.0\nidle_timeout_s = 2.0\n[agent]\ntoken_file = "{}"\n'
        token = tmp_path / "token"
        token.write_text("secret")
        async with running(tmp_path, [node], toml=toml.format(token)) as gateway:
            document = tmp_path / "openapi.json"
            document.write_text(json.dumps(aimed((await gateway.get("/openapi.json")).json)))
            tester = await asyncio.create_subprocess_exec(
                sys.executable, "-c", START, "run", str(document), "--url", gateway.url,
                "--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", "12",
                "--max-time", str(BUDGET_S), "--exclude-path-regex", ENDLESS, "--seed", "1", "--no-shrink",
                "--header", "Authorization: Bearer secret", "--suppress-health-check", "all",
                "--generation-database", "none", "--continue-on-failure", "--no-color",
                cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            try:
                said, _ = await tester.communicate()
            finally:
                if tester.returncode is None:
                    tester.kill()
            assert tester.returncode == 0, said.decode()[-6000:]
