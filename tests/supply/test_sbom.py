"""The SBOM says what is inside, and nothing else."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from tools.sbom import document, main


def metadata(name: str, version: str, license_line: str = "License-Expression: MIT") -> str:
    return f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{license_line}\n\nText\n"


def wheel(name: str, version: str, *, more: dict[str, str] | None = None) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        folder = f"{name}-{version}.dist-info"
        archive.writestr(f"{folder}/METADATA", metadata(name, version))
        for path, text in (more or {}).items():
            archive.writestr(path, text)
    return held.getvalue()


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "cortexd-1.2.whl").write_bytes(wheel("cortexd", "1.2"))
    vendored = {"setuptools/_vendor/hidden-1.dist-info/METADATA": metadata("hidden", "1")}
    (folder / "Some_Lib-3.0.whl").write_bytes(wheel("Some_Lib", "3.0", more=vendored))
    return folder


def test_a_folder_of_wheels(wheels: Path) -> None:
    bom = document(wheels)
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.5")
    assert bom["metadata"]["component"]["purl"] == "pkg:pypi/cortexd@1.2"
    [library] = bom["components"]
    digest = hashlib.sha256((wheels / "Some_Lib-3.0.whl").read_bytes()).hexdigest()
    assert library == {
        "type": "library",
        "bom-ref": "pkg:pypi/some-lib@3.0",
        "name": "some-lib",
        "version": "3.0",
        "purl": "pkg:pypi/some-lib@3.0",
        "licenses": [{"license": {"name": "MIT"}}],
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
    assert bom["dependencies"][0]["dependsOn"] == [library["purl"]]


@pytest.mark.parametrize("unpacked", [True, False])
def test_an_executable_with_its_packages_inside(
    tmp_path: Path, wheels: Path, unpacked: bool
) -> None:
    built = tmp_path / "cortex"
    with zipfile.ZipFile(built, "w") as archive:
        for path in wheels.iterdir():
            if not unpacked:
                archive.write(path, f".deps/{path.name}")
                continue
            with zipfile.ZipFile(path) as inner:
                for name in inner.namelist():
                    archive.writestr(f".deps/{path.name}/{name}", inner.read(name))
    bom = document(built)
    assert [component["name"] for component in bom["components"]] == ["some-lib"]
    whole = hashlib.sha256(built.read_bytes()).hexdigest()
    assert bom["metadata"]["component"]["hashes"][0]["content"] == whole


def test_the_same_input_gives_the_same_output_and_another_does_not(
    tmp_path: Path, wheels: Path
) -> None:
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    assert main([str(wheels), str(first)]) == main([str(wheels), str(second)]) == 0
    assert first.read_bytes() == second.read_bytes()
    (wheels / "more-1.whl").write_bytes(wheel("more", "1"))
    main([str(wheels), str(second)])
    assert (
        json.loads(first.read_text())["serialNumber"]
        != (json.loads(second.read_text())["serialNumber"])
    )


def test_without_us_inside_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other-1.whl").write_bytes(wheel("other", "1"))
    with pytest.raises(ValueError, match="0 packages called cortexd"):
        document(tmp_path)


VENDOR = "cortex/gateway/static/vendor/chart"
HEADER = "/*! https://github.com/someone/Chart (v1.2.3) */\nvar chart;\n"


def test_scripts_of_others_in_the_page_are_inside_too(tmp_path: Path) -> None:
    more = {f"{VENDOR}/chart.js": HEADER, f"{VENDOR}/LICENSE": "The MIT License\n\nText"}
    built = tmp_path / "cortexd-1.whl"
    built.write_bytes(wheel("cortexd", "1", more=more))
    [script] = document(built)["components"]
    assert script["purl"] == "pkg:npm/chart@1.2.3"
    assert script["licenses"] == [{"license": {"name": "MIT"}}]
    assert script["hashes"][0]["content"] == hashlib.sha256(HEADER.encode()).hexdigest()


def test_a_script_that_does_not_say_what_it_is_is_refused(tmp_path: Path) -> None:
    more = {f"{VENDOR}/chart.js": "var chart;\n", f"{VENDOR}/LICENSE": "MIT"}
    built = tmp_path / "cortexd-1.whl"
    built.write_bytes(wheel("cortexd", "1", more=more))
    with pytest.raises(ValueError, match="vendor/chart"):
        document(built)
