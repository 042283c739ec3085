"""Every command, each in a process of its own: what is installed lacks nothing that one of them imports."""

import json
import re

import pytest

from cortex.cli.exit_codes import Exit
from cortex.cli.parser import build_parser
from tests.e2e.processes import Child, Processes, chat_body, eventually

(VERBS,) = (
    list(action.choices)
    for action in build_parser()._actions
    if isinstance(action.choices, dict)
)
OWN_WAY = {
    "serve",
    "agent",
    "demo",
    "keys",
    "completion",
    "check-config",
    "init",
    "chat",
    "why",
    "replay",
    "backup",
}
"""What asks no gateway, wants a question, or asks about one."""
ARGUMENTS = {
    "top": ("--once",),
    **dict.fromkeys(("pin", "unpin", "load", "unload", "explain"), ("a",)),
    **dict.fromkeys(("drain", "undrain"), ("n0",)),
}


@pytest.mark.parametrize("verb", VERBS)
def test_help(processes: Processes, verb: str) -> None:
    child = processes.cortex(verb, "--help")
    assert child.process.returncode == 0, child.stderr
    assert child.stdout.startswith(f"usage: cortex {verb}")
    assert child.stderr == ""


def test_each_of_them_asks_a_gateway(processes: Processes) -> None:
    gateway = processes.serve(processes.node("a"))
    assert gateway.chat("a").status == 200
    for verb in VERBS:
        if verb in OWN_WAY or verb == "defrag":
            continue
        said = processes.cortex(verb, *ARGUMENTS.get(verb, ()), "--endpoint", gateway.url)
        assert said.process.returncode == 0, f"{verb}: {said.stderr}"
        assert "Traceback" not in said.stderr
    (refused,) = processes.cortex("defrag", "n0", "--endpoint", gateway.url).stderr.splitlines()
    assert "agent" in refused


ASKING = """
import json, sys, urllib.request
headers = json.loads("".join(sys.argv[3:]) or "{}")
asked = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), headers)
urllib.request.urlopen(asked, timeout=30)
"""


def test_status_says_why_a_model_is_not_there(processes: Processes) -> None:
    node = processes.node(
        "a", "b", "c", unloaded=("b", "c"), load_s={"b": 60.0}, load_fail={"c": "bad weights"}
    )
    gateway = processes.serve(node)
    assert gateway.chat("c").status == 503
    said = processes.cortex("status", "--endpoint", gateway.url).stdout
    assert re.search(r"^c +n0 +unloaded .* (open|failed): .*bad weights", said, re.MULTILINE)
    body = json.dumps(chat_body("b"))
    processes.spawn("-c", ASKING, f"{gateway.url}/v1/chat/completions", body)

    def told() -> bool:
        said = processes.cortex("status", "--endpoint", gateway.url).stdout
        return (
            re.search(r"^  b: 1 waiting, for [\d.]+m?s: .*load", said, re.MULTILINE) is not None
        )

    eventually(told, "status to tell who waits", 20.0)


def test_why_tells_of_a_request_while_it_waits_and_afterwards(processes: Processes) -> None:
    gateway = processes.serve(processes.node("a", unloaded=("a",), load_s=2.0))
    headers = '{"x-request-id": "asked"}'
    asking = processes.spawn("-c", ASKING, f"{gateway.url}/v1/chat/completions",
                             json.dumps(chat_body("a")), headers)  # fmt: skip

    def why() -> str:
        return processes.cortex("why", "asked", "--endpoint", gateway.url).stdout

    eventually(lambda: "a load is under way on n0" in why(), "the story so far", 20.0)
    assert asking.end() == 0
    eventually(lambda: " ok " in why(), "the end of the story", 20.0)
    lines = [line.split() for line in why().splitlines()]
    assert lines[0][:4] == ["asked", "chat", "for", "a,"]
    assert [line[1] for line in lines[4:]] == ["asked", "load", "loaded", "ok"]
    assert lines[5][3:6] == ["for", "this", "request;"]
    nobody = processes.cortex("why", "another", "--endpoint", gateway.url)
    assert nobody.process.returncode == Exit.FAILURE
    assert "no request another" in nobody.stderr


def test_a_replay_reads_beside_the_gateway(processes: Processes) -> None:
    node = processes.node("a", "b", unloaded=("a", "b"), size_mib=14_000)
    source, port = processes.write(node, toml="[eviction]\nmin_residency_s = 0")
    gateway = processes.serve_file(source, port)
    for model in "abab":
        assert gateway.chat(model).status == 200

    def replay() -> Child:
        return processes.cortex("replay", "--config", str(source), "--json")

    eventually(lambda: '"requests": 4' in replay().stdout, "the log to have them", 20.0)
    body = json.loads(replay().stdout)
    assert body["recorded"]["loads"] == body["rows"][0]["loads"] == 4
    assert (body["recorded"]["cold"], body["rows"][0]["cold"]) == (4, 4)
    assert gateway.chat("a").status == 200


def test_those_that_ask_nobody(processes: Processes) -> None:
    source, _ = processes.write(processes.node("a"))
    assert processes.cortex("check-config", str(source)).stdout.startswith("ok: ")
    assert "is there already" in processes.cortex("init", "gpu-1").stderr
    assert "holds no question" in processes.cortex("chat", "a").stderr
    assert "[[auth.keys]]" in processes.cortex("keys", "add", "k", "--print").stdout
    for shell in ("bash", "zsh", "fish"):
        assert "cortex" in processes.cortex("completion", shell).stdout
    # Nobody is at port 9.
    agent = processes.cortex(
        "agent", "--once", "--gateway", "http://127.0.0.1:9", "--node", "n0"
    )
    assert agent.process.returncode == Exit.UNREACHABLE
    assert agent.stderr.startswith("cortex: ")


def test_the_demo_without_an_engine(processes: Processes) -> None:
    demo = processes.cortex("demo", "--scripted", "--once", "--port", "0")
    assert demo.process.returncode == 0, demo.stderr
    assert "tokens/s" in demo.stdout
