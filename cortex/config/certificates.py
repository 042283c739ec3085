"""Reads and checks the files of `[tls]`, and puts them into a context."""

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cortex.config.schema import Tls
from cortex.core.certificates import not_after
from cortex.core.errors import ConfigError

LARGEST_BYTES = 1 << 20
_CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL
)
_KEY = re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")
_ENCRYPTED = re.compile(
    r"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type:.*ENCRYPTED", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key as they were read; they belong together."""

    certificate: bytes
    key: bytes = field(repr=False)
    expires_at_s: float
    """Unix time."""

    def install(self, context: ssl.SSLContext) -> None:
        """Put both into a context; connections that it has made keep what they have."""
        with _file(self.certificate) as certificate, _file(self.key) as key:
            # Without a function, OpenSSL would ask on the terminal.
            context.load_cert_chain(certificate, key, password=lambda: "")


def read_pair(tls: Tls) -> Pair | None:
    """What the configuration names; None = no TLS.

    Raises:
        ConfigError: A file cannot be read, or the two do not belong together.
    """
    if tls.certificate is None:
        return None
    certificate = _read("certificate", tls.certificate)
    key = certificate if tls.key is None else _read("key", tls.key)
    leaf = _CERTIFICATE.search(certificate)
    if leaf is None:
        raise _mistake("certificate", "a certificate in PEM", tls.certificate)
    try:
        expires_at_s = not_after(ssl.PEM_cert_to_DER_cert(leaf[0])).timestamp()
    except ValueError as exc:
        raise _mistake("certificate", "a certificate in PEM", tls.certificate) from exc
    name, path = ("certificate", tls.certificate) if tls.key is None else ("key", tls.key)
    if _ENCRYPTED.search(key):
        raise _mistake(name, "a key without a passphrase", path)
    if not _KEY.search(key):
        raise _mistake(name, "a private key in PEM", path)
    pair = Pair(certificate.encode(), key.encode(), expires_at_s)
    try:
        pair.install(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            wanted = f'the key of "{tls.certificate}"'
            raise _mistake(name, wanted, path, "of another certificate") from exc
        why = (exc.reason or "nothing that OpenSSL takes").replace("_", " ").lower()
        raise _mistake(name, f'a pair with "{tls.certificate}"', path, why) from exc
    return pair


def _read(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES).decode("ascii", "replace")
    except OSError as exc:
        raise _mistake(name, "a readable file", path, exc.strerror or "") from exc


def _mistake(name: str, expected: str, path: Path, why: str = "") -> ConfigError:
    more = f": {why}" if why else ""
    return ConfigError([f'tls.{name}: expected {expected}, found "{path}"{more}'])


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """A path for what was read: OpenSSL takes paths only, and a file may change in between."""
    with os.fdopen(os.memfd_create("tls", os.MFD_CLOEXEC), "wb", buffering=0) as file:
        file.write(content)
        yield f"/proc/self/fd/{file.fileno()}"
