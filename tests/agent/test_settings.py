from pathlib import Path

import pytest

from cortex.agent.settings import DEFAULT_LOCAL, Settings, read, read_token
from cortex.core.errors import ConfigError

NEEDED = {"gateway": "http://gateway:8000/", "node": "n0", "state_dir": "/s"}


def lines(options: dict[str, str | None], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(options, environ or {})
    return caught.value.lines


def test_the_defaults():
    assert read(NEEDED, {}) == Settings(
        gateway="http://gateway:8000",
        node="n0",  # type: ignore[arg-type]
        local=DEFAULT_LOCAL,
        state_dir=Path("/s"),
    )


def test_everything_from_the_environment(tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    found = read(
        {},
        {
            "CORTEX_AGENT_GATEWAY": "https://gateway/prefix/",
            "CORTEX_AGENT_NODE": "gpu large",
            "CORTEX_AGENT_LOCAL": "http://[::1]:8080",
            "CORTEX_AGENT_UNIT": "mistralrs@a.service",
            "CORTEX_AGENT_TOKEN_FILE": str(token),
            "CORTEX_AGENT_INTERVAL": "0.5",
            "CORTEX_AGENT_STATE_DIR": str(tmp_path),
            "CORTEX_AGENT__TOKEN_FILE": "of the gateway",
        },
    )
    assert found == Settings(
        gateway="https://gateway/prefix",
        node="gpu large",  # type: ignore[arg-type]
        local="http://[::1]:8080",
        restart=("systemctl", "--no-ask-password", "restart", "mistralrs@a.service"),
        token_file=token,
        interval_s=0.5,
        state_dir=tmp_path,
    )


def test_the_command_line_goes_before_the_environment():
    assert read(NEEDED, {"CORTEX_AGENT_NODE": "other"}).node == "n0"


def test_an_empty_variable_is_none():
    assert read(NEEDED, {"CORTEX_AGENT_UNIT": "", "CORTEX_AGENT_INTERVAL": " "}).restart == ()


def test_which_gpus_are_the_nodes():
    assert read(NEEDED, {}).gpus is None
    assert read(NEEDED, {"CUDA_VISIBLE_DEVICES": "1, 2"}).gpus == {"1", "2"}
    given = read(NEEDED | {"gpus": "GPU-1a-2b"}, {"CUDA_VISIBLE_DEVICES": "0"})
    assert given.gpus == {"GPU-1a-2b"}
    assert not given.gpus_as_cuda_counts
    slots = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert not read(NEEDED, slots).gpus_as_cuda_counts
    slots["CUDA_DEVICE_ORDER"] = "FASTEST_FIRST"
    assert read(NEEDED, slots).gpus_as_cuda_counts
    # CUDA's own variable may hold what means nothing here.
    assert read(NEEDED, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}).gpus is None
    with pytest.raises(ConfigError, match="--gpus: expected indices or UUIDs such as 0,1"):
        read(NEEDED | {"gpus": "first"}, {})


def test_a_restart_command_goes_before_the_unit():
    found = read(NEEDED | {"unit": "a", "restart_command": "sudo 'x y' --now"}, {})
    assert found.restart == ("sudo", "x y", "--now")


def test_where_commands_are_remembered():
    options: dict[str, str | None] = {"gateway": "http://g", "node": "n0"}
    assert read(options, {"STATE_DIRECTORY": "/var/lib/a:/b"}).state_dir == Path("/var/lib/a")
    assert read(options, {"XDG_STATE_HOME": "/x"}).state_dir == Path("/x/cortex-agent")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (
            {"gateway": ""},
            "--gateway or $CORTEX_AGENT_GATEWAY: expected the gateway's URL, found nothing",
        ),
        ({"node": None}, "--node or $CORTEX_AGENT_NODE: expected this node's name"),
        (
            {"gateway": "gateway:8000"},
            '--gateway: expected a URL such as http://gateway:8000, found "gateway:8000"',
        ),
        ({"gateway": "http://"}, "--gateway: expected a URL"),
        ({"gateway": "http://user@host"}, "--gateway: expected a URL"),
        ({"gateway": "http://host/?a=b"}, "--gateway: expected a URL"),
        (
            {"local": "http://host:99999"},
            "--local: expected a URL such as http://127.0.0.1:1234",
        ),
        ({"node": "a\tb"}, "--node: expected a printable name"),
        ({"interval": "0"}, '--interval: expected seconds from 0.1 to 60, found "0"'),
        ({"interval": "nan"}, "--interval: expected seconds"),
        ({"interval": "2s"}, "--interval: expected seconds"),
        ({"unit": "--all"}, "--unit: expected the name of a systemd unit"),
        ({"unit": "a b"}, "--unit: expected the name of a systemd unit"),
        (
            {"restart_command": "a 'b"},
            "--restart-command: expected words quoted as for a shell",
        ),
        (
            {"token_file": "/no/such"},
            '--token-file: expected a file with one line, the token, found "/no/such"',
        ),
    ],
)
def test_a_mistake_is_one_line(more: dict[str, str | None], line: str):
    (found,) = lines(NEEDED | more)
    assert found.startswith(line)


def test_every_mistake_is_told_and_from_where():
    found = lines(
        {"interval": "x"}, {"CORTEX_AGENT_UNIT": "-x", "CORTEX_AGENT_TOKENFILE": "/t"}
    )
    assert [line.split(":")[0] for line in found] == [
        "$CORTEX_AGENT_TOKENFILE",
        "--gateway or $CORTEX_AGENT_GATEWAY",
        "--node or $CORTEX_AGENT_NODE",
        "--interval",
        "$CORTEX_AGENT_UNIT",
    ]
    assert found[0].endswith("did you mean $CORTEX_AGENT_TOKEN_FILE?")


@pytest.mark.parametrize(
    "text", ["", " \n", "two words", "two\nlines", "schl\u00fcssel", "a\x00b"]
)
def test_a_file_without_a_token(tmp_path: Path, text: str):
    file = tmp_path / "token"
    file.write_text(text)
    assert read_token(file) is None
