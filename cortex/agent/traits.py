"""What the files of a model say of it: Hugging Face's `config.json`, or the header of a GGUF file; never raises."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cortex.core.traits import NOTHING, Kind, Traits, plausible_context

MOST_CONFIG_BYTES = 4 * 1024 * 1024
MOST_HEADER_BYTES = 1024 * 1024
"""Of a GGUF file: what is said of the model comes before its vocabulary."""
MOST_BITS = 64
"""Of one weight; a configuration that gives it more is not believed."""
_CHAT, _VISION = frozenset({Kind.CHAT}), frozenset({Kind.CHAT, Kind.VISION})
_CONTEXT_KEYS = (
    "max_position_embeddings",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_positions",
    "n_ctx",
)
_EMBEDDING_ARCHITECTURES = ("bert", "nomic-bert", "jina-bert", "gemma-embedding", "t5encoder")

# `enum llama_ftype` of llama.cpp, as `general.file_type` has it.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
    36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip


def traits_of(files: Sequence[Path]) -> Traits:
    """What lies in or beside the files of one model says of it.

    Args:
        files: Its weights, all of one folder.
    """
    if not files:
        return NOTHING
    try:
        if files[0].suffix == ".gguf":
            with files[0].open("rb") as opened:
                return _of_header(gguf_fields(opened.read(MOST_HEADER_BYTES)))
        return _of_folder(files[0].parent, files[0])
    except (OSError, ValueError, RecursionError):
        return NOTHING


def _of_folder(folder: Path, first: Path) -> Traits:
    if (folder / "model_index.json").exists() or (folder.parent / "model_index.json").exists():
        return Traits(kinds=frozenset({Kind.IMAGE}))
    config = _read(folder / "config.json")
    traits = of_config(config)
    if (folder / "modules.json").exists():
        # Sentence Transformers', whatever the model was before.
        traits = traits._replace(kinds=frozenset({Kind.EMBEDDINGS}))
    if first.suffix == ".uqff":
        # mistral.rs names them by the type and the shard: q4k-0.uqff.
        traits = traits._replace(
            quantization=first.stem.rpartition("-")[0][:64] or first.stem[:64]
        )
    return traits


def _read(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as opened:
        text = opened.read(MOST_CONFIG_BYTES + 1)
    fields = json.loads(text) if len(text) <= MOST_CONFIG_BYTES else None
    return fields if isinstance(fields, dict) else {}


def of_config(config: Mapping[str, Any]) -> Traits:
    """What a `config.json` of Hugging Face's transformers says."""
    parts = [config, *(part for key in ("text_config", "llm_config", "language_config")
                       if isinstance(part := config.get(key), dict))]  # fmt: skip
    context = next(
        (
            found
            for part in parts
            for key in _CONTEXT_KEYS
            if (found := plausible_context(part.get(key)))
        ),
        None,
    )
    return Traits(context, _kinds_of(config), quantization=_quantization_of(parts))


def _kinds_of(config: Mapping[str, Any]) -> frozenset[Kind] | None:
    if config.get("model_type") == "dia":
        return frozenset({Kind.SPEECH})
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if any(key in config for key in ("vision_config", "vision_tower", "img_processor")):
        return _VISION
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return _CHAT
    return None  # a word is no proof of what it can do


def _quantization_of(parts: Sequence[Mapping[str, Any]]) -> str | None:
    for part in parts:
        if isinstance(said := part.get("quantization_config"), dict):
            method = str(said.get("quant_method", ""))[:32]
            bits = said.get("bits")
            known = type(bits) is int and 0 < bits <= MOST_BITS
            return f"{method or 'int'}-{bits}bit" if known else method or None
    plain = next((word for part in parts for key in ("dtype", "torch_dtype")
                  if isinstance(word := part.get(key), str)), None)  # fmt: skip
    return plain[:64] if plain else None


def _of_header(fields: Mapping[str, Any]) -> Traits:
    architecture = str(fields.get("general.architecture", ""))
    context = plausible_context(fields.get(f"{architecture}.context_length"))
    pooled = f"{architecture}.pooling_type" in fields
    kinds = None
    if pooled or architecture.startswith(_EMBEDDING_ARCHITECTURES):
        kinds = frozenset({Kind.EMBEDDINGS})
    elif context is not None:
        kinds = _CHAT
    file_type = fields.get("general.file_type")
    return Traits(
        context,
        kinds,
        quantization=_FILE_TYPES.get(file_type) if isinstance(file_type, int) else None,
    )


def gguf_fields(header: bytes) -> dict[str, Any]:
    """The scalars and texts at the beginning of a GGUF file, up to where `header` ends.

    The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

    Args:
        header: The first bytes of the file.

    Raises:
        ValueError: It is no GGUF file of version 2 or 3.
    """
    if len(header) < _START.size:
        raise ValueError("too short")
    magic, version, _, count = _START.unpack_from(header)
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError("not a GGUF file")
    reader, fields = _Reader(header, _START.size), {}
    try:
        for _ in range(count):
            key = reader.text()
            if key.startswith("tokenizer."):
                break  # its vocabulary, which is long; nothing of interest comes after it
            fields[key] = reader.value(reader.number("<I"))
    except (struct.error, EOFError):
        pass  # the rest is beyond what was read
    return fields


_START = struct.Struct("<4sIQQ")
_NUMBERS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_TEXT, _ARRAY = 8, 9


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def number(self, form: str) -> Any:
        [value] = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return value

    def text(self) -> str:
        return self._take(self.number("<Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            self._skip_array()
            return None
        if kind not in _NUMBERS:
            raise ValueError("a kind of value that GGUF has not")
        return self.number(_NUMBERS[kind])

    def _skip_array(self) -> None:
        kind, count = self.number("<I"), self.number("<Q")
        if kind in _NUMBERS:
            self._take(count * struct.calcsize(_NUMBERS[kind]))
        elif kind == _TEXT:
            # Each is eight bytes at least, so that no count makes this long.
            for _ in range(min(count, len(self._data))):
                self._take(self.number("<Q"))
        else:
            raise ValueError("an array of what GGUF has no arrays of")

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise EOFError
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken
