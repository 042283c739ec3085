"""`python tools/sbom.py BUILT [OUT]`: what is inside, as CycloneDX JSON.

BUILT is a wheel, the executable of `make binary`, or a folder of wheels. Only what is found in it
is listed: the metadata of the packages themselves, not what was asked for, and the scripts of
others that the page carries. The same input gives the same output.
"""

import hashlib
import io
import json
import re
import sys
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from typing import Any

OURS = "cortexd"
_SCRIPT = re.compile(r"cortex/gateway/static/vendor/([^/]+)/[^/]+\.js$")
_HEADER = re.compile(rb"/\*! https://github\.com/[^/]+/(?P<name>\S+) \(v(?P<version>[^)]+)\)")
_SPACE = uuid.UUID("6f1c29a2-4f0b-5d58-9c39-8a2f60d9e6c5")


@dataclass(frozen=True, slots=True)
class Package:
    name: str
    version: str
    license: str
    sha256: str
    """Of its wheel, or of the script; empty where a wheel was unpacked."""
    kind: str = "pypi"

    @property
    def purl(self) -> str:
        return f"pkg:{self.kind}/{self.name}@{self.version}"


def packages(built: Path) -> list[Package]:
    """Every Python package inside, by name."""
    found = {package.purl: package for package in _of_path(built)}
    return [found[purl] for purl in sorted(found)]


def _of_path(path: Path) -> Iterator[Package]:
    if path.is_dir():
        for wheel in sorted(path.rglob("*.whl")):
            yield from _of_zip(wheel.read_bytes())
    else:
        yield from _of_zip(path.read_bytes(), outer=path.suffix != ".whl")


def _of_zip(data: bytes, *, outer: bool = False) -> Iterator[Package]:
    """`outer`: it only carries packages, so its own hash is none of theirs."""
    digest = "" if outer else hashlib.sha256(data).hexdigest()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if name.endswith(".whl"):
                yield from _of_zip(archive.read(name))
            elif name.endswith(".dist-info/METADATA") and _is_top(name):
                yield _package(archive.read(name).decode(), digest)
            elif found := _SCRIPT.search(name):
                said = archive.read(name.rpartition("/")[0] + "/LICENSE").decode()
                yield _script(found[1], archive.read(name), said)


def _is_top(name: str) -> bool:
    """Not the metadata of what a package carries for itself, under `_vendor`."""
    return "_vendor" not in name.split("/")


def _package(metadata: str, sha256: str) -> Package:
    fields = Parser().parsestr(metadata, headersonly=True)
    name = str(fields["Name"]).lower().replace("_", "-").replace(".", "-")
    said = fields["License-Expression"] or fields["License"] or ""
    return Package(name, str(fields["Version"]), str(said).strip().partition("\n")[0], sha256)


def _script(folder: str, data: bytes, said: str) -> Package:
    header = _HEADER.match(data)
    if header is None:
        raise ValueError(f"static/vendor/{folder}: its first line does not say what it is")
    name, version = header["name"].decode().lower(), header["version"].decode()
    title = "MIT" if "MIT" in said.partition("\n")[0] else said.partition("\n")[0].strip()
    return Package(name, version, title, hashlib.sha256(data).hexdigest(), "npm")


def document(built: Path) -> dict[str, Any]:
    """The CycloneDX document of `built`.

    Raises:
        ValueError: There is no package of ours in it, or a script that nobody can name.
    """
    found = packages(built)
    ours = [package for package in found if package.name == OURS]
    if len(ours) != 1:
        raise ValueError(f"{built}: {len(ours)} packages called {OURS} inside")
    others = [package for package in found if package.name != OURS]
    root = _component(ours[0], "application")
    if built.is_file():
        digest = hashlib.sha256(built.read_bytes()).hexdigest()
        root["hashes"] = [{"alg": "SHA-256", "content": digest}]
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": root},
        "components": [_component(package, "library") for package in others],
        "dependencies": [
            {"ref": ours[0].purl, "dependsOn": [package.purl for package in others]}
        ],
    }
    number = uuid.uuid5(_SPACE, json.dumps(body, sort_keys=True))
    return (
        {"$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json"}
        | body
        | {"serialNumber": f"urn:uuid:{number}"}
    )


def _component(package: Package, kind: str) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": kind,
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
    }
    if package.license:
        component["licenses"] = [{"license": {"name": package.license}}]
    if package.sha256:
        component["hashes"] = [{"alg": "SHA-256", "content": package.sha256}]
    return component


def main(argv: list[str]) -> int:
    """Entry point."""
    built = Path(argv[0])
    text = json.dumps(document(built), indent=2) + "\n"
    if len(argv) > 1:
        Path(argv[1]).write_text(text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
