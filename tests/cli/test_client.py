import io
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.cli import endpoint, main
from cortex.cli.client import Client
from cortex.cli.endpoint import checked, reachable, resolve
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import CliError, ConfigFileError, UnreachableError, UsageError
from cortex.cli.parser import build_parser
from cortex.cli.sse import parse_sse
from cortex.config import load as config_load
from tests.cli.conftest import Run
from tests.cli.gateway import FakeGateway, error, status
from tests.command import ROOT

ASKING = [
    ["status"],
    ["history"],
    ["history", "--stats"],
    ["history", "--follow"],
    ["events"],
    ["events", "--follow"],
    ["models"],
    ["pin", "m"],
    ["unpin", "m"],
]


@pytest.mark.parametrize("argv", ASKING)
def test_unreachable_is_one_line_and_exit_code_69(argv, capsys, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("CORTEX_ENDPOINT", url)
        assert main(argv) == Exit.UNREACHABLE
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert url in err
    assert "$CORTEX_ENDPOINT" in err
    assert "connection refused" in err
    assert ("--db" in err) == (argv[0] == "history")


@pytest.mark.parametrize("argv", ASKING)
def test_a_refused_key_is_exit_code_77(argv, run: Run, gateway: FakeGateway, monkeypatch):
    gateway.key = "right"
    ran = run(*argv)
    assert ran.code == Exit.KEY_REFUSED
    assert "this key is not known [invalid_api_key]" in ran.err
    assert "set CORTEX_API_KEY" in ran.err
    monkeypatch.setenv("CORTEX_API_KEY", "wrong")
    assert "try another key" in run(*argv).err


def test_the_key_goes_with_every_request(run: Run, gateway: FakeGateway, monkeypatch):
    gateway.key = "right"
    monkeypatch.setenv("CORTEX_API_KEY", " right\n")
    assert run("status").code == 0
    assert gateway.headers[-1]["user-agent"].startswith("cortex/")


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel"])
def test_a_key_that_no_header_can_carry(key, run: Run, monkeypatch):
    monkeypatch.setenv("CORTEX_API_KEY", key)
    ran = run("status")
    assert ran.code == Exit.KEY_REFUSED
    assert key not in ran.err


def test_a_failure_of_the_gateway_is_told_in_its_words(run: Run, gateway: FakeGateway):
    said = error("the store is \x1b[31mclosed", "store_failing")
    gateway.answers["/cortex/v1/status"] = lambda _query, _body: (503, said)
    ran = run("status")
    assert ran.code == Exit.FAILURE
    assert "the store is \\x1b[31mclosed [store_failing]" in ran.err


@pytest.mark.parametrize(
    "body", [b"<html>hello</html>", b"[]", b'{"version": 1}', b"\xff\xfe", b"", b'"text"']
)
def test_something_else_at_the_endpoint(run: Run, gateway: FakeGateway, body: bytes):
    gateway.answers["/cortex/v1/status"] = body
    ran = run("status")
    assert ran.code == Exit.FAILURE
    assert "does not answer as cortex" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_route_that_is_not_there(run: Run, gateway: FakeGateway):
    gateway.answers["/cortex/v1/status"] = lambda _query, _body: (404, b"nope")
    assert "404 for /cortex/v1/status" in run("status").err


def raw_server(answer: bytes) -> tuple[str, threading.Thread]:
    """Answers one connection with bytes that need not be HTTP."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening, listening.accept()[0] as connection:
            connection.recv(65_536)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}", thread


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"],
)
def test_answers_that_break_off(answer: bytes):
    url, thread = raw_server(answer)
    with pytest.raises(UnreachableError, match="cannot reach cortex"):
        Client(checked(url, ""), key="").get("/cortex/v1/status")
    thread.join(5)


def test_a_silent_gateway_is_given_up_on():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="no answer in time"):
            Client(checked(url, ""), key="", timeout_s=0.05).get("/x")


def test_a_path_before_the_routes(gateway: FakeGateway):
    gateway.answers["/gw/cortex/v1/status"] = {}
    Client(checked(f"{gateway.url}/gw/", ""), key="").get("/cortex/v1/status")
    assert gateway.requests[-1][1] == "/gw/cortex/v1/status"


@pytest.mark.parametrize(
    "url",
    ["ftp://x", "http://", "http://x:0", "http://x:99999", "http://a b", "http://me:pw@x", "//", "http://x\x1b[2J", "http://ü"],
)  # fmt: skip
def test_urls_that_are_none(url: str):
    with pytest.raises(UsageError):
        checked(url, "--endpoint")


@given(st.text(max_size=30))
def test_any_text_is_an_endpoint_or_refused(text: str):
    try:
        found = checked(text, "--endpoint")
    except UsageError:
        return
    assert found.host
    assert 0 < found.port < 65_536


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("[::]:8000", "http://[::1]:8000"),
        (":9", "http://127.0.0.1:9"),
        ("10.1.2.3:80", "http://10.1.2.3:80"),
        ("gw.internal:8080", "http://gw.internal:8080"),
    ],
)
def test_where_a_listening_gateway_is_reached(listen: str, url: str):
    assert reachable(listen) == url
    checked(url, "")


class TestResolve:
    def url(self, *argv: str, **environ: str) -> str:
        return resolve(build_parser().parse_args(["status", *argv]), environ).url

    def test_default(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(endpoint, "CONFIG_PLACES", (Path("cortex.toml"),))
        assert self.url() == "http://127.0.0.1:8000"

    def test_order(self, tmp_path: Path):
        Path("cortex.toml").write_text('[gateway]\nlisten = "0.0.0.0:1111"\n')
        named = tmp_path / "named.toml"
        named.write_text('[gateway]\nlisten = "127.0.0.1:2222"\n')
        assert self.url() == "http://127.0.0.1:1111"
        assert self.url(CORTEX_CONFIG=str(named)) == "http://127.0.0.1:2222"
        assert self.url("--config", str(named)) == "http://127.0.0.1:2222"
        assert self.url(CORTEX_GATEWAY__LISTEN="0.0.0.0:3333") == "http://127.0.0.1:3333"
        assert self.url(CORTEX_ENDPOINT="gw:4444") == "http://gw:4444"
        assert self.url("--endpoint", "gw:5555", CORTEX_ENDPOINT="gw:4444") == "http://gw:5555"

    def test_mistakes_elsewhere_in_a_found_file_do_not_matter(
        self, monkeypatch: pytest.MonkeyPatch
    ):
        for content in ("nonsense", "[gateway]\nlisten = 5", "gateway = 1", "x = 1"):
            Path("cortex.toml").write_text(content)
            assert self.url() == "http://127.0.0.1:8000"

    def test_a_named_file_must_be_there(self):
        with pytest.raises(ConfigFileError, match="No such file"):
            self.url("--config", "nowhere.toml")

    def test_looks_where_the_daemon_looks(self):
        assert endpoint.CONFIG_PLACES == config_load.SEARCH


def parsed(stream: bytes, *, cut: int | None = None) -> list[tuple[str, str, str | None]]:
    source = io.BytesIO(stream[:cut])
    return [(e.event, e.data, e.id) for e in parse_sse(iter(source.readline, b""))]


def test_sse():
    stream = (
        b": hello\n\nid: 1\nevent: load\ndata: {}\n\n"
        b"data: a\r\ndata:b\r\n\r\nretry: 5\nid\n\n:\n\ndata: last"
    )
    assert parsed(stream) == [("load", "{}", "1"), ("message", "a\nb", "1")]


@given(st.binary(max_size=200))
def test_sse_of_any_bytes(stream: bytes):
    parsed(stream)


def test_output_that_nobody_reads_ends_quietly(gateway: FakeGateway):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "cortex", "status", "--endpoint", gateway.url],
        stdout=write,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    os.close(write)
    assert done.returncode == Exit.PIPE
    assert done.stderr == b""


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "get", interrupt)
    assert main(["status"]) == Exit.INTERRUPTED


def test_an_encoding_without_the_characters_is_no_reason_to_fail(gateway: FakeGateway):
    gateway.answers["/cortex/v1/status"] = status(version="ünïcode 日本")
    done = subprocess.run(
        [sys.executable, "-m", "cortex", "status", "--endpoint", gateway.url],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"?n?code" in done.stdout


def test_every_failure_has_an_exit_code_that_is_documented():
    for kind in CliError.__subclasses__():
        assert kind.exit_code in Exit
