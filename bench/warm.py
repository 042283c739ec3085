"""Is a second load of the same file faster? A real engine loads a file of over a GiB, from disk and from memory.

`python -m bench.warm [--loads N] [--layers TIMES] [--folder DIR]`. The file is made of the demo's model, with its layers many
times over. Before a cold load the kernel is told to forget the file; how much the load then reads from
storage says whether it had.
"""

import argparse
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from cortex.devnode.real import find_gguf
from cortex.devnode.real_engine import default_python

LOAD_S = 300.0
ALIGNMENT = 32
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
            11: "<q", 12: "<d"}  # fmt: skip
_STRING, _ARRAY = 8, 9
_BLOCK = re.compile(rb"blk\.(\d+)\.(.*)")
_CHILD = """
import sys, time, mistralrs
folder, name = sys.argv[1:]
began = time.perf_counter()
which = mistralrs.Which.GGUF(quantized_model_id=folder, quantized_filename=name)
mistralrs.Runner(which=which, max_seqs=1)
took = time.perf_counter() - began
read = next(int(l.split()[1]) for l in open("/proc/self/io") if l.startswith("read_bytes"))
print(f'{{"load_s": {took:.3f}, "read_bytes": {read}}}', flush=True)
import os
os._exit(0)
"""


@dataclass(frozen=True)
class Tensor:
    name: bytes
    shape: bytes
    """Dimensions and type, as they are in the file."""
    data: memoryview


class Reader:
    """A GGUF file from its beginning; the format is that of ggml's docs/gguf.md."""

    def __init__(self, content: memoryview) -> None:
        self.content, self.at = content, 0

    def take(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.content, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def string(self) -> bytes:
        length = self.take("<Q")
        self.at += length
        return bytes(self.content[self.at - length : self.at])

    def skip(self, kind: int) -> None:
        if kind == _STRING:
            self.string()
        elif kind == _ARRAY:
            inner, count = self.take("<I"), self.take("<Q")
            for _ in range(count):
                self.skip(inner)
        else:
            self.at += struct.calcsize(_SCALARS[kind])


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def enlarged(content: bytes, times: int) -> list[bytes | memoryview]:
    """The parts of a GGUF file whose layers come so many times."""
    reader = Reader(memoryview(content))
    magic, version = bytes(reader.content[:4]), struct.unpack_from("<I", content, 4)[0]
    assert magic == b"GGUF", "no GGUF file"
    reader.at = 8
    tensor_count, pair_count = reader.take("<Q"), reader.take("<Q")
    pairs, blocks = b"", 0
    for _ in range(pair_count):
        began = reader.at
        key, kind = reader.string(), reader.take("<I")
        value_at = reader.at
        reader.skip(kind)
        pair = content[began : reader.at]
        if key.endswith(b".block_count"):
            blocks = struct.unpack_from("<I", content, value_at)[0]
            pair = pair[: value_at - began] + struct.pack("<I", blocks * times)
        pairs += pair
    tensors = _tensors(reader, tensor_count)
    copies = [
        Tensor(b"blk.%d.%s" % (int(found[1]) + blocks * copy, found[2]), t.shape, t.data)
        for copy in range(1, times)
        for t in tensors
        if (found := _BLOCK.fullmatch(t.name))
    ]
    return _written(version, pair_count, pairs, [*tensors, *copies])


def _tensors(reader: Reader, count: int) -> list[Tensor]:
    heads: list[tuple[bytes, bytes, int]] = []
    for _ in range(count):
        name = reader.string()
        began = reader.at
        dimensions = reader.take("<I")
        reader.at += 8 * dimensions + struct.calcsize("<I")
        heads.append((name, bytes(reader.content[began : reader.at]), reader.take("<Q")))
    data = reader.content[-(-reader.at // ALIGNMENT) * ALIGNMENT :]
    ends = sorted([*(offset for *_, offset in heads), len(data)])
    after = dict(pairwise(ends))
    return [Tensor(name, shape, data[at : after[at]]) for name, shape, at in heads]


def _written(
    version: int, pair_count: int, pairs: bytes, tensors: Sequence[Tensor]
) -> list[bytes | memoryview]:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), pair_count) + pairs
    parts: list[bytes | memoryview] = []
    at = 0
    for tensor in tensors:
        head += _string(tensor.name) + tensor.shape + struct.pack("<Q", at)
        padding = bytes(-len(tensor.data) % ALIGNMENT)
        parts += [tensor.data, padding]
        at += len(tensor.data) + len(padding)
    return [head + bytes(-len(head) % ALIGNMENT), *parts]


def forget(path: Path) -> None:
    """Have the kernel drop what it keeps of the file in memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load(path: Path) -> dict[str, float]:
    """One load in a process of its own: seconds, and bytes read from storage."""
    done = subprocess.run(
        [default_python(), "-c", _CHILD, str(path.parent), path.name],
        capture_output=True,
        text=True,
        timeout=LOAD_S,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the engine did not load it: {done.stderr[-500:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.warm", description=__doc__)
    parser.add_argument("--loads", type=int, default=5, help="of each kind (default: 5)")
    parser.add_argument(
        "--layers", type=int, default=16, metavar="TIMES", help="how often they are in the file"
    )
    parser.add_argument(
        "--folder", type=Path, help="where the file is made, on the disk in question"
    )
    args = parser.parse_args()
    model = find_gguf()
    if model is None:
        raise SystemExit("there is no model: `make setup`, or CORTEX_DEMO_GGUF")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "enlarged.gguf"
        with path.open("wb") as file:
            file.writelines(enlarged(model.read_bytes(), args.layers))
        size = path.stat().st_size
        print(f"{size / 2**30:.2f} GiB in {args.folder or tempfile.gettempdir()}")
        load(path)
        kinds: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
        for _ in range(args.loads):
            forget(path)
            for kind in kinds:
                kinds[kind].append(load(path))
                newest = kinds[kind][-1]
                share = newest["read_bytes"] / size
                print(
                    f"{kind}: {newest['load_s']:.2f} s, {share:.0%} read from storage",
                    flush=True,
                )
    cold, warm = (median(each["load_s"] for each in kinds[kind]) for kind in kinds)
    print(f"cold {cold:.2f} s, warm {warm:.2f} s: {cold / warm:.2f} times as long")
    return 0


if __name__ == "__main__":
    sys.exit(main())
