"""A small file system of our own, to be filled, frozen and taken away; root makes one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE_BYTES = 24 * 1024 * 1024


class Disk:
    def __init__(self, image: Path, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.missing = self._mount(image)
        """Why there is none; then `folder` is a plain one."""

    def _mount(self, image: Path) -> str:
        if os.geteuid():
            return "only root can mount a disk"
        with image.open("wb") as file:
            file.truncate(SIZE_BYTES)
        for command in (
            ["mkfs.ext4", "-q", "-F", image],
            ["mount", "-o", "loop", image, self.folder],
        ):
            try:
                ran = subprocess.run(command, capture_output=True, text=True, timeout=20)
            except OSError as exc:
                return f"{command[0]}: {exc.strerror}"
            if ran.returncode:
                return f"{command[0]}: {ran.stderr.strip()}"
        return ""

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a block is left."""
        ballast = self.folder / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file:
                for size in (1 << 20, 1 << 12, 1):
                    try:
                        while file.write(bytes(size)):
                            pass
                    except OSError:
                        os.sync()
            yield
        finally:
            ballast.unlink()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Whoever writes waits."""
        subprocess.run(["fsfreeze", "-f", self.folder], check=True, timeout=20)
        try:
            yield
        finally:
            subprocess.run(["fsfreeze", "-u", self.folder], check=True, timeout=20)

    def end(self) -> None:
        if not self.missing:
            subprocess.run(["umount", self.folder], check=False, timeout=20)
