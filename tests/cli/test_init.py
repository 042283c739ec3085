"""`cortex init`: a configuration from what nodes say, which `cortex serve` then takes."""

import json
import stat
import tomllib
from pathlib import Path

import pytest

from cortex.cli.draft import Found, draft, names_for
from cortex.config.load import load
from cortex.config.schema import Config
from cortex.core.ids import ModelId
from cortex.core.listing import Listing, NodeInfo, ReportedStatus
from cortex.core.survey import Survey, Trouble
from tests.cli.conftest import Run
from tests.e2e.processes import Processes
from tests.running import free_port

UNANSWERED = Survey(trouble=Trouble.UNREACHABLE, said="Connection refused")


def found(name: str = "n0", survey: Survey = UNANSWERED) -> Found:
    return Found(name=name, endpoint=f"http://{name}:1234", survey=survey)


def of(*models: str, info: NodeInfo | None, **more: ReportedStatus) -> Survey:
    listed = dict.fromkeys(map(ModelId, models), ReportedStatus.LOADED)
    listed |= {ModelId(model): status for model, status in more.items()}
    return Survey(listing=Listing(created_at_s=1, models=listed), info=info)


@pytest.mark.parametrize(
    ("endpoints", "names"),
    [
        (["http://gpu-1:1234"], ["gpu-1"]),
        (["http://gpu-1.lab:1234", "http://gpu-2.lab:1234"], ["gpu-1", "gpu-2"]),
        (["http://gpu.a:1", "http://gpu.b:1"], ["gpu.a", "gpu.b"]),
        (["http://gpu.a:1", "http://gpu.a:2"], ["gpu.a-1", "gpu.a-2"]),
        (
            ["http://gpu.a:1", "http://gpu.a:2", "http://gpu.b:1"],
            ["gpu.a-1", "gpu.a-2", "gpu.b"],
        ),
        (["http://10.0.0.7:1234", "http://10.0.0.8:1234"], ["10.0.0.7", "10.0.0.8"]),
        (["http://127.0.0.1:1", "http://[::1]:2"], ["localhost-1", "localhost-2"]),
        (["http://[fe80::1]:1234"], ["fe80-1"]),
        (["https://host/a", "https://host/b"], ["host-a", "host-b"]),
        (["unix:/run/mistralrs.sock"], ["mistralrs"]),
        (["unix:/a/x.sock", "unix:/b/x.sock"], ["a-x.sock", "b-x.sock"]),
        (["http://bücher.example:1234"], ["xn--bcher-kva"]),
        (["http://_odd_:1"], ["odd"]),
        ([f"http://{'a' * 63}.b:1", f"http://{'a' * 63}.b:2"], ["a" * 63, "a" * 58 + "-2"]),
    ],
)
def test_names_come_from_hosts(endpoints: list[str], names: list[str]):
    assert names_for(endpoints) == names


def test_whatever_a_node_says_the_file_can_be_read():
    nasty = 'a"\\\n[[nodes]]\x1b\u202e\U0001f600'
    info = NodeInfo(version=nasty, accelerators=(nasty, nasty))
    text = draft([found("n0", of(nasty, info=info)), found("n1")])
    commented_in = text.replace("#listen", "listen").replace('#"', '"').replace("#[al", "[al")
    for written in (text, commented_in):
        config = Config.model_validate(tomllib.loads(written))
        assert [node.name for node in config.nodes] == ["n0", "n1"]
    assert list(config.aliases.values()) == [nasty]
    assert "\x1b" not in text.replace("\\u001b", "")


def test_what_the_comments_say():
    info = NodeInfo(version="0.9.2", vram_total_mib=49_152, accelerators=("RTX", "RTX"))
    text = draft(
        [
            found("good", of("org/a", info=info, other=ReportedStatus.UNLOADED)),
            found("old", of("b", info=NodeInfo(version="0.9.0"))),
            found("mute", Survey(no_info_reason="HTTP 500")),
            found("keyed", Survey(trouble=Trouble.KEY, said="it answers HTTP 401")),
        ]
    )
    good, old, mute, keyed = text.split("[[nodes]]")[:4]
    assert (
        "# mistral.rs 0.9.2, 48.0 GiB, 2 x RTX\n# loaded: org/a\n# not loaded: other\n" in good
    )
    assert "#vram_mb" not in old.partition("\n#\n")[0].split("# mistral.rs")[0]
    assert "# mistral.rs 0.9.0 destroys models on unload" in old
    assert "# it reports no device memory: give it vram_mb" in old
    assert "# did not say what it is: HTTP 500\n# it lists no model\n" in mute
    assert "# did not say what it is when this was written: it answers HTTP 401\n" in keyed
    assert "#api_key_file" in text


@pytest.mark.parametrize(
    ("model", "line"),
    [("org/Qwen3-8B", '"qwen3-8b" = "org/Qwen3-8B"'), ("smollm", '"small" = "smollm"')],
)
def test_the_example_of_an_alias_is_none_of_the_model_itself(model: str, line: str):
    assert line in draft([found("n0", of(model, info=None))])


def test_a_long_list_is_cut():
    text = draft([found("n0", of(*(f"m{n}" for n in range(500)), info=None))])
    assert "m19 and 480 more" in text
    assert len(text.splitlines()) < 60


def test_it_is_written_and_served(processes: Processes):
    first = processes.node("m1", "m2", unloaded=("m2",))
    asked = processes.cortex("init", first, processes.node("m3"), gone())
    assert asked.end() == 0, asked.stderr
    rows = asked.stdout.splitlines()
    assert rows[1].split() == [*named(first), "0.9.2", "24.0", "GiB,", "Scripted", "GPU", "2,", "1", "loaded"]  # fmt: skip
    assert "Connection refused; written down all the same" in asked.stdout
    assert rows[-1] == "wrote cortex.toml; next: cortex doctor, then cortex serve"
    file = processes.folder / "cortex.toml"
    assert stat.S_IMODE(file.stat().st_mode) & 0o022 == 0
    config = load(file, {})
    assert [node.endpoint for node in config.nodes][:1] == [first]
    listen = f"127.0.0.1:{(port := free_port())}"
    gateway = processes.serve_file(
        file,
        port,
        CORTEX_GATEWAY__LISTEN=listen,
        CORTEX_GATEWAY__METRICS_LISTEN=f"127.0.0.1:{free_port()}",
        CORTEX_STATE__PATH=str(processes.folder / "cortex.db"),
    )
    assert gateway.chat("m3").status == 200


def gone() -> str:
    return f"http://127.0.0.1:{free_port()}"


def named(endpoint: str) -> list[str]:
    return names_for([endpoint, "http://127.0.0.1:1"])[:1]


def test_a_file_that_is_there_stays(run: Run, tmp_path: Path):
    file = tmp_path / "cortex.toml"
    file.write_text("mine")
    ran = run("init", gone())
    assert ran.code == 1
    assert "cortex.toml is there already and stays as it is" in ran.err
    assert file.read_text() == "mine"
    dangling = tmp_path / "other.toml"
    dangling.symlink_to(tmp_path / "nowhere")
    assert run("init", gone(), "--output", str(dangling)).code == 1
    assert not (tmp_path / "nowhere").exists()


def test_print_writes_nothing(processes: Processes):
    node = processes.node("m1")
    asked = processes.cortex("init", node, "--print")
    assert asked.end() == 0
    assert tomllib.loads(asked.stdout)["nodes"][0]["endpoint"] == node
    assert "0.9.2" in asked.stderr
    assert not (processes.folder / "cortex.toml").exists()


def test_json(processes: Processes):
    node = processes.node("m1", cpu_only=True)
    asked = processes.cortex("init", node, "--json", "--output", "x.toml")
    told = json.loads(asked.stdout)
    assert told["file"] == "x.toml"
    (seen,) = told["nodes"]
    assert seen["models"] == {"m1": "loaded"}
    assert seen["trouble"] is None
    assert seen["warnings"] == ["it reports no device memory: give it vram_mb"]


def test_nobody_answers(run: Run, tmp_path: Path):
    first, second = gone(), gone()
    ran = run("init", first, second)
    assert ran.code == 69
    assert ran.err.splitlines() == [
        f"cortex: {first}: Connection refused",
        f"cortex: {second}: Connection refused",
        "cortex: mistral.rs listens on port 1234 unless told otherwise",
    ]
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_node(processes: Processes):
    node = processes.node("m1")
    gateway = processes.serve(node)
    asked = processes.cortex("init", node, gateway.url, "--output", "x.toml")
    assert asked.end() == 1
    assert (
        asked.stderr
        == f"cortex: {gateway.url} is no node: a cortex gateway answers there, no node\n"
    )
    assert not (processes.folder / "x.toml").exists()


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["http://a b"], "'http://a b': expected a URL"),
        (["gpu:port"], "'gpu:port': expected"),
        (["http://me:secret@gpu"], "without a user"),
        (["unix:here"], "whole path"),
        (["gpu", "http://GPU:1234/v1"], "http://gpu:1234 was given twice"),
        ([], "required: URL"),
        (["gpu", "--print", "--json"], "not allowed with"),
    ],
)
def test_a_wrong_command_line(run: Run, argv: list[str], complaint: str):
    ran = run("init", *argv)
    assert ran.code == 2
    assert complaint in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_place_that_cannot_be_written(processes: Processes):
    asked = processes.cortex("init", processes.node("m1"), "--output", "no/such/x.toml")
    assert asked.end() == 1
    assert asked.stderr == "cortex: no/such/x.toml: No such file or directory\n"
