"""A node behind TLS: verified by the machine's certificates, refused when they do not vouch for it."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.processes import Processes, eventually, request

pytestmark = pytest.mark.skipif(
    not shutil.which("openssl"), reason="no openssl to make a certificate with"
)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate of 127.0.0.1 with its key."""
    pem = tmp_path / "node.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", pem, "-out", tmp_path / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    pem.write_text(pem.read_text() + (tmp_path / "cert.pem").read_text())
    return pem


@contextmanager
def behind_tls(url: str, certificate: Path) -> Iterator[str]:
    """The same node at an https URL."""
    target = (urlsplit(url).hostname, urlsplit(url).port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, context, target), daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"


def _accept(listener: socket.socket, context: ssl.SSLContext, target: tuple[str, int]) -> None:
    with suppress(OSError):
        while True:
            raw, _ = listener.accept()
            threading.Thread(target=_join, args=(raw, context, target), daemon=True).start()


def _join(raw: socket.socket, context: ssl.SSLContext, target: tuple[str, int]) -> None:
    """Both ways until either end is gone."""
    with raw, suppress(OSError):
        client = context.wrap_socket(raw, server_side=True)
        with client, socket.create_connection(target) as node:
            back = threading.Thread(target=_copy, args=(node, client), daemon=True)
            back.start()
            _copy(client, node)
            back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def test_a_node_that_the_machine_trusts_serves(processes: Processes, certificate: Path) -> None:
    with behind_tls(processes.node("a"), certificate) as url:
        gateway = processes.serve(url, SSL_CERT_FILE=str(certificate))
        eventually(
            lambda: request(gateway.url + "/health").json["status"] == "ok", "a healthy node"
        )
        assert gateway.chat("a").status == 200


def test_a_node_that_speaks_no_tls_is_down(processes: Processes) -> None:
    gateway = processes.serve(processes.node("a").replace("http:", "https:"))
    (reason,) = request(gateway.url + "/health").json["reasons"]
    assert "does not speak TLS there" in reason


def test_a_node_that_nobody_vouches_for_is_down(
    processes: Processes, certificate: Path
) -> None:
    with behind_tls(processes.node("a"), certificate) as url:
        gateway = processes.serve(url)
        reasons = request(gateway.url + "/health").json["reasons"]
        assert "certificate is not trusted: self-signed certificate" in reasons[0]
        assert gateway.chat("a").status in {404, 503}
