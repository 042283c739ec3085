"""TLS as it is deployed: a process, its signals, a socket that was passed, the command line and an agent."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.access.certificates import Made, make, trusting
from tests.command import SOURCE
from tests.e2e.processes import Child, Processes, eventually
from tests.e2e.test_start import as_systemd

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")


def get(url: str, context: ssl.SSLContext) -> int:
    with urllib.request.urlopen(url, timeout=10, context=context) as response:
        return int(response.status)


def answers(url: str, context: ssl.SSLContext) -> bool:
    try:
        return get(url + "/ready", context) == 200
    except OSError:
        return False


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path)


def served(processes: Processes, made: Made) -> tuple[Child, str, Path]:
    """A gateway behind TLS, its URL and its configuration."""
    source, port = processes.write(processes.node("a"), toml=made.toml)
    child = processes.command("serve", "--config", str(source))
    url = f"https://127.0.0.1:{port}"
    eventually(
        lambda: answers(url, trusting(made)) or child.process.poll() is not None, "a start", 20
    )
    assert child.process.poll() is None, child.stderr
    return child, url, source


def test_the_command_line_asks_it(processes: Processes, made: Made) -> None:
    _, url, source = served(processes, made)
    other = make(processes.folder, "other")

    def asked(*argv: str, **environ: str) -> Child:
        child = processes.command("status", *argv, environ=environ)
        child.end()
        return child

    for works in (
        asked("--endpoint", url, "--ca", str(made.certificate)),
        asked("--endpoint", url, SSL_CERT_FILE=str(made.certificate)),
        asked("--config", str(source)),
    ):
        assert works.process.returncode == 0, works.stderr
        assert "n0" in works.stdout
    for why, fails in (
        ("its certificate is not trusted: self-signed", asked("--endpoint", url)),
        ("--ca or $SSL_CERT_FILE", asked("--endpoint", url)),
        ("not trusted", asked("--endpoint", url, "--ca", str(other.certificate))),
        ("closed without an answer", asked("--endpoint", url.replace("https", "http"))),
    ):
        assert fails.process.returncode == 69, fails.stderr
        assert why in fails.stderr
    missing = asked("--endpoint", url, "--ca", "/nowhere")
    assert missing.process.returncode == 78
    assert "/nowhere: no certificates can be read" in missing.stderr
    top = processes.command("top", "--once", "--config", str(source))
    assert top.end() == 0, top.stderr


def test_what_the_configuration_names_is_enough_whatever_its_names(
    processes: Processes, made: Made
) -> None:
    """The gateway's own machine asks it by an address, which a certificate seldom has."""
    child, url, source = served(processes, made)
    made.become(make(processes.folder, "named", names="DNS:gateway.internal"))
    child.send(signal.SIGHUP)
    eventually(
        lambda: processes.cortex("status", "--config", str(source)).process.returncode == 0,
        "the command to trust it",
        20,
    )
    direct = processes.cortex("status", "--endpoint", url, "--ca", str(made.certificate))
    assert direct.process.returncode == 69
    assert "not trusted" in direct.stderr


def test_another_certificate_than_the_configured_one_is_not_trusted(
    processes: Processes, made: Made
) -> None:
    _, _, source = served(processes, made)
    other = make(processes.folder, "other")
    elsewhere = processes.folder / "elsewhere.toml"
    elsewhere.write_text(
        source.read_text().replace(str(made.certificate), str(other.certificate))
    )
    child = processes.cortex("status", "--config", str(elsewhere))
    assert child.process.returncode == 69
    assert "not trusted" in child.stderr


def test_sigterm_with_an_idle_connection_ends_at_once(processes: Processes, made: Made) -> None:
    """A peer that never says goodbye must not hold up the end."""
    child, url, _ = served(processes, made)
    context = trusting(made)
    host, _, port = url.removeprefix("https://").rpartition(":")

    with (
        socket.create_connection((host, int(port))) as raw,
        context.wrap_socket(raw, server_hostname=host) as idle,
    ):
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        told_s = time.monotonic()
        child.send(signal.SIGTERM)
        assert child.end() == 0, child.stderr
        assert time.monotonic() - told_s < 5


def test_sighup_renews_it_in_a_process(processes: Processes, made: Made) -> None:
    child, url, _ = served(processes, made)
    renewed = make(processes.folder, "renewed", kind="rsa")
    assert not answers(url, trusting(renewed))
    made.become(renewed)
    child.send(signal.SIGHUP)
    eventually(lambda: answers(url, trusting(renewed)), "the new certificate")


def test_a_bad_pair_ends_the_start_with_78_and_its_name(
    processes: Processes, made: Made
) -> None:
    other = make(processes.folder, "other")
    source, _ = processes.write(
        "http://127.0.0.1:1", toml=Made(made.certificate, other.key).toml
    )
    for verb in ("serve", "check-config"):
        child = processes.cortex(verb, "--config", str(source))
        assert child.process.returncode == 78
        assert f'tls.key: expected the key of "{made.certificate}"' in child.stderr


def test_it_works_on_a_socket_that_was_passed(processes: Processes, made: Made) -> None:

    source, _ = processes.write(processes.node("a"), toml=made.toml)
    with socket.create_server(("127.0.0.1", 0)) as opened:
        child = subprocess.Popen(
            as_systemd(opened, source),
            env={**os.environ, **SOURCE, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"},
            pass_fds=[opened.fileno()],
            stderr=subprocess.PIPE,
        )
        try:
            url = f"https://127.0.0.1:{opened.getsockname()[1]}"
            assert get(url + "/health", trusting(made)) == 200
        finally:
            child.terminate()
            _, complaints = child.communicate(timeout=20)
        assert child.returncode == 0, complaints


def test_an_agent_reports_to_it(processes: Processes, made: Made) -> None:
    token = processes.folder / "token"
    token.write_text("t0ken")
    node = processes.node("a")
    source, port = processes.write(node, toml=made.toml + f'[agent]\ntoken_file = "{token}"\n')
    gateway = processes.command("serve", "--config", str(source))
    url = f"https://127.0.0.1:{port}"
    eventually(lambda: answers(url, trusting(made)), "a start", 20)
    agent = processes.command(
        *("agent", "--once", "--gateway", url, "--node", "n0"),
        *("--local", node, "--token-file", str(token), "--state-dir", str(processes.folder)),
        environ={"SSL_CERT_FILE": str(made.certificate)},
    )
    assert agent.end() == 0, agent.stderr
    assert gateway.process.poll() is None
