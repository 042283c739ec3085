"""mistral.rs's JSON, read leniently: what is missing is unknown, what is wrong is refused."""

import json
import time

import pytest

from cortex.core.errors import NodeProtocolError
from cortex.core.listing import LifecycleAnswer, Listing, NodeInfo, ReportedStatus
from cortex.node.wire import (
    MAX_ID_LENGTH,
    MAX_MODELS,
    MAX_WORDS,
    read_lifecycle,
    read_listing,
    read_system_info,
)

LOADED, UNLOADED = ReportedStatus.LOADED, ReportedStatus.UNLOADED
MIB = 1024 * 1024


def listing(*entries: dict[str, object]) -> Listing:
    return read_listing(json.dumps({"object": "list", "data": entries}).encode())


def test_a_listing_is_read_without_its_default() -> None:
    assert listing(
        {"id": "default", "object": "model", "created": 77, "owned_by": "local"},
        {"id": "org/a", "created": 77, "status": "loaded", "tools_available": True},
        {"id": "b", "created": 77, "status": "unloaded"},
        {"id": "c", "created": 77, "status": "reloading"},
    ) == Listing(
        created_at_s=77,
        models={"org/a": LOADED, "b": UNLOADED, "c": ReportedStatus.RELOADING},
        duplicated=frozenset(),
    )


@pytest.mark.parametrize("first", ["loaded", "reloading"])
def test_of_a_model_listed_twice_the_loaded_one_counts(first: str) -> None:
    second = "reloading" if first == "loaded" else "loaded"
    seen = listing({"id": "a", "status": first}, {"id": "a", "status": second}, {"id": "b"})
    assert seen.models == {"a": LOADED, "b": LOADED}
    assert seen.duplicated == {"a"}


def test_a_listing_of_an_old_version_has_only_loaded_models() -> None:
    seen = listing({"id": "a", "object": "model", "created": 5, "owned_by": "local"})
    assert seen.models == {"a": LOADED}


def test_a_status_that_is_no_word_we_know_is_unloaded() -> None:
    assert listing({"id": "a", "status": "hibernating"}).models == {"a": UNLOADED}


def test_instants_in_milliseconds_are_understood() -> None:
    assert listing({"id": "a", "created": 1_700_000_000_123}).created_at_s == 1_700_000_000
    assert listing({"id": "a", "created": 1_700_000_000}).created_at_s == 1_700_000_000
    assert listing({"id": "a"}).created_at_s is None
    assert listing().created_at_s is None


@pytest.mark.parametrize(
    "bad",
    ["", "x" * (MAX_ID_LENGTH + 1), "a\nb", "a\x00", "\x1b[31mred", "a\u202eb", "a\u200bb"],
)
def test_a_name_that_is_none_is_left_out_and_said(bad: str) -> None:
    seen = listing({"id": bad}, {"id": "good"})
    assert seen.models == {"good": LOADED}
    assert seen.remark == "1 of its model ids is not believed: too long, or not printable"
    assert listing({"id": bad}, {"id": bad}, {"id": "good"}).remark.startswith("2 of its")
    assert listing({"id": "x" * MAX_ID_LENGTH}).remark == ""


def test_a_listing_without_end_is_not_believed() -> None:
    most = [{"id": f"m{n}"} for n in range(MAX_MODELS)]
    assert len(listing(*most).models) == MAX_MODELS
    with pytest.raises(NodeProtocolError, match=f"listed more than {MAX_MODELS} models"):
        listing(*most, {"id": "one more"})


@pytest.mark.parametrize("created", [-1, 10**15, 10**30, 10**4000])
def test_an_instant_that_is_none_is_unknown(created: int) -> None:
    text = f'{{"data":[{{"id":"a","created":{created}}}]}}'
    assert read_listing(text.encode()).created_at_s is None


def test_a_million_wrong_entries_are_one_mistake() -> None:
    began_s = time.process_time()
    with pytest.raises(NodeProtocolError, match="unexpected answer"):
        read_listing(b'{"data":[' + b"{}," * 300_000 + b"{}]}")
    assert time.process_time() - began_s < 1.0


@pytest.mark.parametrize("bytes_said", [-1, 10**30])
def test_memory_that_no_device_has_is_unknown(bytes_said: int) -> None:
    device = {
        "kind": "cuda",
        "total_memory_bytes": bytes_said,
        "available_memory_bytes": bytes_said,
    }
    info = read_system_info(json.dumps({"devices": [device]}).encode())
    assert (info.vram_total_mib, info.free_mib) == (None, None)
    with pytest.raises(NodeProtocolError):
        read_system_info(json.dumps({"devices": [device] * 2000}).encode())


@pytest.mark.parametrize("word", ["v" * 65, "\x1b[31m1", "1\n2", "\u202e1"])
def test_a_version_that_is_none_is_unknown(word: str) -> None:
    body = {"build": {"version": word, "git_revision": word}}
    assert read_system_info(json.dumps(body).encode()) == NodeInfo(version=None)


def test_the_words_of_a_failure_are_cut() -> None:
    body = {"status": "unloaded", "error": "e" * 100_000}
    assert read_lifecycle(json.dumps(body).encode()).error == "e" * MAX_WORDS


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502 Bad Gateway</html>",
        b"null",
        b"[]",
        b"{}",
        b'{"data":null}',
        b'{"data":{"id":"a"}}',
        b'{"data":["a"]}',
        b'{"data":[{"created":1}]}',
        b'{"data":[{"id":null}]}',
        b'{"data":[{"id":"a"}]',
        b'{"data":[{"id":"\xff"}]}',
        b'{"message":"model lock is poisoned"}',
    ],
)
def test_a_listing_that_is_none_is_a_protocol_error_without_the_nodes_text(
    body: bytes,
) -> None:
    with pytest.raises(NodeProtocolError, match="unexpected answer") as caught:
        read_listing(body)
    assert caught.value.code == "node_protocol"
    assert len(caught.value.message) < 200
    assert "Bad Gateway" not in caught.value.message


@pytest.mark.parametrize("word", list(ReportedStatus))
def test_a_lifecycle_answer_is_its_word_and_its_error(word: ReportedStatus) -> None:
    body = {"model_id": "a", "status": word.value, "error": "why"}
    assert read_lifecycle(json.dumps(body).encode()) == LifecycleAnswer(
        status=word, error="why"
    )
    del body["error"]
    assert read_lifecycle(json.dumps(body).encode()).error is None


@pytest.mark.parametrize(
    "body", [b'{"status":"odd"}', b'{"status":1}', b'{"model_id":"a"}', b"OK", b""]
)
def test_a_lifecycle_answer_that_is_none_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(NodeProtocolError):
        read_lifecycle(body)


def test_memory_is_the_sum_over_the_accelerators() -> None:
    body = {
        "cpu": {"brand": "x"},
        "devices": [
            {
                "kind": "cpu",
                "total_memory_bytes": 64_000 * MIB,
                "available_memory_bytes": MIB,
            },
            {
                "kind": "cuda",
                "name": "RTX 6000 Ada",
                "total_memory_bytes": 100 * MIB,
                "available_memory_bytes": 7 * MIB,
            },
            {"kind": "cuda", "total_memory_bytes": 50 * MIB, "available_memory_bytes": 5 * MIB},
        ],
        "build": {"version": "0.9.2", "git_revision": "abc", "cuda": True},
    }
    assert read_system_info(json.dumps(body).encode()) == NodeInfo(
        version="0.9.2",
        git_revision="abc",
        vram_total_mib=150,
        free_mib=12,
        accelerators=("RTX 6000 Ada", "cuda"),
    )


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"devices": [], "build": {}},
        {"devices": [{"kind": "cpu", "total_memory_bytes": MIB, "available_memory_bytes": 1}]},
        {"devices": [{"kind": "cuda"}]},
        {"devices": [{"kind": "metal", "total_memory_bytes": None}]},
    ],
)
def test_memory_that_is_not_reported_is_unknown_and_not_0(body: dict[str, object]) -> None:
    info = read_system_info(json.dumps(body).encode())
    assert (info.version, info.git_revision) == (None, None)
    assert (info.vram_total_mib, info.free_mib) == (None, None)


@pytest.mark.parametrize(
    ("name", "called"),
    [("RTX", "RTX"), (None, "cuda"), ("x\x1b[2J", "cuda"), ("x" * 65, "cuda")],
)
def test_what_accelerators_are_called(name: str | None, called: str) -> None:
    body = {"devices": [{"kind": "cpu", "name": "EPYC"}, {"kind": "cuda", "name": name}]}
    assert read_system_info(json.dumps(body).encode()).accelerators == (called,)


def test_a_full_device_has_0_free() -> None:
    device = {"kind": "cuda", "total_memory_bytes": MIB, "available_memory_bytes": 0}
    info = read_system_info(json.dumps({"devices": [device]}).encode())
    assert (info.vram_total_mib, info.free_mib) == (1, 0)
