"""Which gateway a command asks. Reads the one line it needs of the configuration, so that a mistake elsewhere in the file, or a missing right to read it, does not stop `cortex status`."""

import argparse
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from cortex.cli.failures import ConfigFileError, UsageError

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_LISTEN = "127.0.0.1:8000"
DEFAULT_PORTS = {"http": 80, "https": 443}
CONFIG_PLACES = (Path("cortex.toml"), Path("/etc/cortex/cortex.toml"))
"""The same places, in the same order, as `config.load.find`."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a gateway is, and who said so."""

    url: str
    origin: str = ""
    """For messages: `--endpoint`, `$CORTEX_ENDPOINT`, a file, or `default`."""
    ca: str | None = None
    """A file of certificates to trust."""
    certificate: Path | None = None
    """The gateway's own, where its configuration was read."""

    def __str__(self) -> str:
        return f"{self.url} ({self.origin})" if self.origin else self.url

    @property
    def secure(self) -> bool:
        return self.url.startswith("https:")

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "127.0.0.1"

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or DEFAULT_PORTS[parts.scheme]

    @property
    def prefix(self) -> str:
        """The path before every route, without a slash at its end."""
        return urlsplit(self.url).path.rstrip("/")


def resolve(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Endpoint:
    """The gateway that the options, the environment or the configuration name, in this order.

    Raises:
        UsageError: The URL is none.
        ConfigFileError: `--config` names a file that cannot be read.
    """
    return replace(_found(args, environ), ca=getattr(args, "ca", None))


def _found(args: argparse.Namespace, environ: Mapping[str, str]) -> Endpoint:
    """The gateway, before anything is said of trust.

    Raises:
        UsageError: The URL is none.
        ConfigFileError: `--config` names a file that cannot be read.
    """
    if args.endpoint:
        return checked(args.endpoint, "--endpoint")
    if environ.get("CORTEX_ENDPOINT"):
        return checked(environ["CORTEX_ENDPOINT"], "$CORTEX_ENDPOINT")
    listen = environ.get("CORTEX_GATEWAY__LISTEN")
    if listen:
        return checked(reachable(listen), "$CORTEX_GATEWAY__LISTEN")
    file, must_exist = _config_file(args.config, environ)
    if file is not None:
        listen, certificate = _listen_of(file, must_exist=must_exist)
        if listen is not None:
            url = reachable(listen, "https" if certificate else "http")
            return replace(checked(url, str(file)), certificate=certificate)
    return Endpoint(DEFAULT_URL, "default")


def checked(url: str, origin: str) -> Endpoint:
    """An endpoint from what somebody wrote; `host:port` means http.

    Raises:
        UsageError: No host, a port that is none, or another scheme.
    """
    wanted = url.strip()
    if "://" not in wanted:
        wanted = f"http://{wanted}"
    try:
        parts = urlsplit(wanted)
        usable = parts.scheme in DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    odd = " " in wanted or "@" in wanted or not (wanted.isascii() and wanted.isprintable())
    if not usable or odd:
        raise UsageError(f"{origin}: {url!r} is not a URL such as {DEFAULT_URL}")
    return Endpoint(wanted.rstrip("/"), origin)


def reachable(listen: str, scheme: str = "http") -> str:
    """The address to ask for one that is listened on: `0.0.0.0` and `[::]` mean this machine."""
    host, _, port = listen.strip().rpartition(":")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]", "*": "127.0.0.1"}.get(  # noqa: S104 - read, not bound
        host, host
    )
    return f"{scheme}://{host}:{port}"


def _config_file(given: str | None, environ: Mapping[str, str]) -> tuple[Path | None, bool]:
    """The file to look at, and whether somebody named it."""
    named = given or environ.get("CORTEX_CONFIG")
    if named:
        return Path(named), given is not None
    return next((place for place in CONFIG_PLACES if _exists(place)), None), False


def _exists(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError:
        return False


def _listen_of(file: Path, *, must_exist: bool) -> tuple[str | None, Path | None]:
    """Where it listens, and with which certificate."""
    try:
        with file.open("rb") as source:
            content = tomllib.load(source)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if must_exist:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigFileError(f"{file}: {reason}") from error
        return None, None
    listen = _text(content, "gateway", "listen")
    certificate = _text(content, "tls", "certificate")
    if listen is None and certificate is not None:
        listen = DEFAULT_LISTEN
    return listen, Path(certificate) if certificate else None


def _text(content: Mapping[str, object], table: str, key: str) -> str | None:
    found = content.get(table)
    value = found.get(key) if isinstance(found, dict) else None
    return value if isinstance(value, str) else None
