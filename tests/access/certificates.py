"""Certificates as openssl makes them."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Made:
    certificate: Path
    key: Path

    @property
    def toml(self) -> str:
        return f'[tls]\ncertificate = "{self.certificate}"\nkey = "{self.key}"\n'

    def become(self, other: "Made") -> None:
        """What a renewal does: the same paths, another pair."""
        self.certificate.write_bytes(other.certificate.read_bytes())
        self.key.write_bytes(other.key.read_bytes())


def make(
    folder: Path,
    name: str = "tls",
    *,
    days: int = 90,
    kind: str = "ec",
    names: str = "IP:127.0.0.1,DNS:localhost",
) -> Made:
    """A self-signed certificate."""
    made = Made(folder / f"{name}.pem", folder / f"{name}.key")
    algorithm = {
        "ec": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        "rsa": ("-newkey", "rsa:2048"),
    }[kind]
    subprocess.run(
        [
            *("openssl", "req", "-x509", *algorithm, "-nodes", "-days", str(days)),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName={names}"),
            *("-keyout", made.key, "-out", made.certificate),
        ],
        check=True,
        capture_output=True,
    )
    return made


def trusting(*made: Made) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for each in made:
        context.load_verify_locations(each.certificate)
    return context
