"""TLS on the public address: what it speaks, how it is renewed, and how it is refused."""

import asyncio
import io
import json
import logging
import os
import shutil
import signal
import ssl
import time
from pathlib import Path

import aiohttp
import pytest

from cortex.config.load import load
from cortex.core.errors import ConfigError
from tests.access.certificates import Made, make, trusting
from tests.gateway.conftest import chat_body, scripted, stream
from tests.node.rawnode import STREAM_HEAD, Got, RawNode, chunk, saying
from tests.running import Running, configuration, running, until

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")

EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'


async def shown(
    gateway: Running, *, alpn: list[str] | None = None, **bounds: object
) -> ssl.SSLObject:
    """The other side of a handshake with the gateway."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, value in bounds.items():
        setattr(context, name, value)
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    host, _, port = gateway.url.removeprefix("https://").rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    made = writer.get_extra_info("ssl_object")
    writer.transport.abort()
    assert isinstance(made, ssl.SSLObject)
    return made


async def common_name(gateway: Running, *known: Made) -> str:
    """Of the certificate that a new connection is shown."""
    der = (await shown(gateway)).getpeercert(binary_form=True)
    [name] = [
        made.certificate.stem
        for made in known
        if ssl.PEM_cert_to_DER_cert(made.certificate.read_text()) == der
    ]
    return name


async def test_everything_works_as_without(tmp_path: Path) -> None:
    made = make(tmp_path)
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=made.toml, trusting=trusting(made)) as gateway,
    ):
        assert (await gateway.chat("m1")).status == 200
        seen = await stream(gateway.http, gateway.url)
        assert seen.complete
        assert seen.body.endswith(b"data: [DONE]\n\n")
        large = io.BytesIO(json.dumps(chat_body(padding="x" * 2_000_000)).encode())
        reply = await gateway.post("/v1/chat/completions", json=None, data=large)
        assert reply.status == 200
        expires = gateway.services.certificate.expires_at_s
        assert 89 < (expires - time.time()) / 86_400 <= 90
        metrics = await gateway.metrics()
        assert "cortex_tls_certificate_expires_timestamp_seconds " in metrics
        assert (await gateway.get("/health")).json["warnings"] == []


async def test_a_stream_that_fails_ends_with_its_error_event(tmp_path: Path) -> None:
    """The abort after it must not throw away what TLS still holds."""
    made = make(tmp_path)
    events = [chunk(EVENT)] * 5000
    node = RawNode(["m1"], answer=saying(STREAM_HEAD, b"".join(events), b"0\r\n\r\n"))
    async with (
        node,
        running(tmp_path, [node], toml=made.toml, trusting=trusting(made)) as gateway,
    ):
        for _ in range(2):
            seen = await stream(gateway.http, gateway.url)
            assert not seen.complete
            last = json.loads(seen.events[-1].removeprefix(b"data: "))
            assert last["error"]["code"] == "node_truncated"


async def test_a_client_that_hangs_up_ends_the_request(tmp_path: Path) -> None:
    made = make(tmp_path)
    gone = asyncio.Event()

    async def answer(got: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(EVENT))
        await got.rest.read()
        gone.set()

    node = RawNode(["m1"], answer=answer)
    async with (
        node,
        running(tmp_path, [node], toml=made.toml, trusting=trusting(made)) as gateway,
    ):
        async with gateway.http.post(
            gateway.url + "/v1/chat/completions", json=chat_body(stream=True)
        ) as response:
            await response.content.readany()
            response.close()
        async with asyncio.timeout(5):
            await gone.wait()


async def test_it_speaks_tls_1_2_and_1_3_and_http_1_1_only(tmp_path: Path) -> None:
    made = make(tmp_path)
    v1_1, v1_2, v1_3 = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=made.toml, trusting=trusting(made)) as gateway,
    ):
        newest = await shown(gateway, alpn=["h2", "http/1.1"])
        assert newest.version() == "TLSv1.3"
        assert newest.selected_alpn_protocol() == "http/1.1"
        assert (await shown(gateway, maximum_version=v1_2)).version() == "TLSv1.2"
        assert (await shown(gateway, minimum_version=v1_3)).version() == "TLSv1.3"
        with (
            pytest.warns(DeprecationWarning, match="TLSv1_1"),
            pytest.raises((ssl.SSLError, OSError)),
        ):
            await shown(gateway, minimum_version=v1_1, maximum_version=v1_1)


async def test_plain_http_on_the_port_is_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make(tmp_path)
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=made.toml, trusting=trusting(made)) as gateway,
    ):
        with pytest.raises(aiohttp.ClientError):
            await gateway.http.get(gateway.url.replace("https:", "http:") + "/health")
        assert (await gateway.get("/health")).status == 200
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def sighup(gateway: Running) -> str:
    """Reload; returns what the event says of it."""
    before = len(await gateway.events(kind="config"))
    os.kill(os.getpid(), signal.SIGHUP)

    async def told() -> bool:
        return len(await gateway.events(kind="config")) > before

    await until(told, "the event of a reload")
    return str((await gateway.events(kind="config"))[-1]["reason"])


async def test_a_reload_renews_the_certificate_and_cuts_nothing(tmp_path: Path) -> None:
    first, second = make(tmp_path, "first"), make(tmp_path, "second", days=30, kind="rsa")
    used = Made(tmp_path / "used.pem", tmp_path / "used.key")
    used.become(first)
    release = asyncio.Event()

    async def answer(_: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(EVENT))
        await release.wait()
        writer.write(chunk(EVENT) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    node = RawNode(["m1"], answer=answer)
    async with (
        node,
        running(tmp_path, [node], toml=used.toml, trusting=trusting(first, second)) as gateway,
    ):
        assert await common_name(gateway, first, second) == "first"
        async with gateway.http.post(
            gateway.url + "/v1/chat/completions", json=chat_body(stream=True)
        ) as response:
            await response.content.readany()
            used.become(second)
            try:
                assert await sighup(gateway) == "reloaded"
                assert await common_name(gateway, first, second) == "second"
            finally:
                release.set()
            expires = gateway.services.certificate.expires_at_s
            assert 29 < (expires - time.time()) / 86_400 <= 30
            assert (await response.content.read()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("broken", ["mismatched", "missing", "no certificate"])
async def test_a_bad_pair_at_a_reload_changes_nothing_and_is_named(
    tmp_path: Path, broken: str
) -> None:
    first, second = make(tmp_path, "first"), make(tmp_path, "second")
    used = Made(tmp_path / "used.pem", tmp_path / "used.key")
    used.become(first)
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=used.toml, trusting=trusting(first)) as gateway,
    ):
        if broken == "mismatched":
            used.certificate.write_bytes(second.certificate.read_bytes())
        elif broken == "missing":
            used.key.unlink()
        else:
            used.certificate.write_text("nothing\n")
        told = await sighup(gateway)
        assert told.startswith("reload refused: ")
        assert "tls." in told
        assert str(tmp_path / "used") in told
        assert await common_name(gateway, first, second) == "first"
        assert (await gateway.chat("m1")).status == 200
        used.become(second)
        assert await sighup(gateway) == "reloaded"
        assert await common_name(gateway, first, second) == "second"


async def test_turning_it_on_or_off_needs_a_restart(tmp_path: Path) -> None:
    made = make(tmp_path)
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        gateway.source.write_text(gateway.source.read_text() + made.toml)
        assert await sighup(gateway) == "reloaded"
        event = (await gateway.events(kind="config"))[-1]
        assert event["detail"]["needs_restart"] == ["tls"]
        assert (await gateway.chat("m1")).status == 200


@pytest.mark.parametrize(
    ("left_s", "warning"),
    [
        (15 * 86_400, None),
        (14 * 86_400 - 60, "the TLS certificate expires in 13 days"),
        (36 * 3600 + 60, "the TLS certificate expires in 36 hours"),
        (2 * 3600 - 1, "the TLS certificate expires in an hour"),
        (60, "the TLS certificate expires in less than an hour"),
        (-60, "the TLS certificate has expired"),
    ],
)
async def test_a_certificate_about_to_expire_is_a_warning(
    tmp_path: Path, left_s: float, warning: str | None
) -> None:
    made = make(tmp_path)
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=made.toml, trusting=trusting(made)) as gateway,
    ):
        gateway.services.certificate.expires_at_s = time.time() + left_s
        health = (await gateway.get("/health")).json
        assert health["status"] == "ok"
        assert health["warnings"] == ([warning] if warning else [])
        assert (await gateway.status())["health"]["warnings"] == health["warnings"]


async def test_a_short_certificate_is_said_in_the_log_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make(tmp_path, days=5)
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=made.toml, trusting=trusting(made)),
    ):
        pass
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "the TLS certificate expires in 4 days" in said


def refused(folder: Path, toml: str) -> str:
    source = folder / "cortex.toml"
    source.write_text(configuration(folder, [], toml=toml, ports=(1, 2)) + NODE)
    with pytest.raises(ConfigError) as caught:
        load(source, {})
    [line] = caught.value.lines
    return line.removeprefix(f"{source}: ")


NODE = '[[nodes]]\nname = "a"\nendpoint = "http://a:1"\n'


def test_every_mistake_in_the_files_is_named(tmp_path: Path) -> None:
    made, other = make(tmp_path, "made"), make(tmp_path, "other")
    cert, key = made.certificate, made.key
    empty = tmp_path / "empty"
    empty.write_text("")
    garbled = tmp_path / "garbled"
    garbled.write_text(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + key.read_text()
    )
    locked = tmp_path / "locked"
    locked.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    for first, second, line in (
        (
            tmp_path / "no",
            key,
            f'tls.certificate: expected a readable file, found "{tmp_path}/no"',
        ),
        (tmp_path, key, f'tls.certificate: expected a readable file, found "{tmp_path}"'),
        (cert, tmp_path / "no", f'tls.key: expected a readable file, found "{tmp_path}/no"'),
        (empty, key, f'tls.certificate: expected a certificate in PEM, found "{empty}"'),
        (garbled, key, f'tls.certificate: expected a certificate in PEM, found "{garbled}"'),
        (cert, empty, f'tls.key: expected a private key in PEM, found "{empty}"'),
        (cert, cert, f'tls.key: expected a private key in PEM, found "{cert}"'),
        (cert, locked, f'tls.key: expected a key without a passphrase, found "{locked}"'),
        (
            cert,
            other.key,
            f'tls.key: expected the key of "{cert}", found "{other.key}": of another certificate',
        ),
        (cert, wrong, f'tls.key: expected a pair with "{cert}", found "{wrong}"'),
    ):
        assert refused(tmp_path, Made(first, second).toml).startswith(line), line
    alone = refused(tmp_path, f'[tls]\ncertificate = "{cert}"\n')
    assert alone.startswith(f'tls.certificate: expected a private key in PEM, found "{cert}"')
    assert "a certificate beside the key" in refused(tmp_path, f'[tls]\nkey = "{key}"\n')


def test_one_file_may_hold_both(tmp_path: Path) -> None:
    made = make(tmp_path)
    both = tmp_path / "both.pem"
    both.write_text(made.key.read_text() + made.certificate.read_text())
    source = tmp_path / "cortex.toml"
    source.write_text(f'[tls]\ncertificate = "{both}"\n' + NODE)
    assert load(source, {}).tls.certificate == both
