"""What pyproject.toml cannot say: packages are found, and what is built knows its revision."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

SOURCE = Path(__file__).with_name("cortex") / "telemetry" / "revision.py"


def stamp(tree: str) -> None:
    """Write the revision of this source into the copy of `revision.py` in `tree`."""
    source = runpy.run_path(str(SOURCE))
    if revision := source["revision"]():
        copy = Path(tree) / "cortex/telemetry/revision.py"
        text = copy.read_text().replace(source["STAMPED"], revision, 1)
        # An sdist is made of hard links: written in place, the source itself would change.
        copy.unlink()
        copy.write_text(text)


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            stamp(self.build_lib)


class Sdist(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        stamp(base_dir)


setup(
    packages=[*find_packages(include=["cortex", "cortex.*"]), "cortex.migrations"],
    cmdclass={"build_py": BuildPy, "sdist": Sdist},
)
