"""What a client reads when its request cannot be served: one envelope, one id, honest statuses."""

import re
from pathlib import Path

import pytest

from tests.gateway.conftest import chat_body, scripted
from tests.node.rawnode import RawNode
from tests.running import Reply, free_port, running, until

CHAT = "/v1/chat/completions"
ANTHROPIC = {"anthropic-version": "2023-06-01"}

MISTAKES = [
    (b"", 400, "invalid_json", None),
    (b"{", 400, "invalid_json", None),
    (b"nonsense", 400, "invalid_json", None),
    (b"[]", 400, "invalid_json", None),
    (b'"m1"', 400, "invalid_json", None),
    (b'{"model":"m1"} {}', 400, "invalid_json", None),
    (b'{"model":"\xff\xfe"}', 400, "invalid_json", None),
    (b'{"model":' + b"[" * 100_000, 400, "invalid_json", None),
    (b"{}", 400, "invalid_request", "model"),
    (b'{"model":null}', 400, "invalid_request", "model"),
    (b'{"model":""}', 400, "invalid_request", "model"),
    (b'{"model":7}', 400, "invalid_request", "model"),
    (b'{"model":["m1"]}', 400, "invalid_request", "model"),
    (b'{"model":"m1","stream":"yes"}', 400, "invalid_request", "stream"),
    (b'{"model":"m1","previous_response_id":1}', 400, "invalid_request", "previous_response_id"),
    (b'{"model":"m1\\u0000"}', 404, "model_not_found", "model"),
    (b'{"model":"' + b"m" * 200_000 + b'"}', 404, "model_not_found", "model"),
]  # fmt: skip


def check_envelope(reply: Reply, status: int, code: str, param: str | None = None) -> None:
    assert (reply.status, reply.code) == (status, code), reply.text
    error = reply.json["error"]
    assert set(reply.json) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert 0 < len(error["message"]) < 600
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["x-request-id"]


async def test_every_mistake_in_a_body_is_named(tmp_path: Path) -> None:
    async with RawNode(["m1"]) as node, running(tmp_path, [node]) as gateway:
        for body, status, code, param in MISTAKES:
            reply = await gateway.post(CHAT, json=None, data=body)
            check_envelope(reply, status, code, param)
            assert reply.headers["x-should-retry"] == "false"
        assert node.got == []
        rows = await gateway.history()
        assert [(row["status"], row["error_code"]) for row in reversed(rows)] == [
            (status, code) for _, status, code, _ in MISTAKES
        ]
        assert {row["model"] for row in rows} == {None}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", CHAT, 405, "method_not_allowed"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/v1/chat/completion", 404, "not_found"),
        ("GET", "/metrics", 404, "not_found"),
        ("GET", "/v1/%2e%2e/metrics", 404, "not_found"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
        ("GET", "/v1/responses/resp_none", 404, "response_not_found"),
        ("DELETE", "/v1/responses/resp_none", 404, "response_not_found"),
        ("POST", "/v1/responses/resp_none/cancel", 404, "response_not_found"),
    ],
)
async def test_a_wrong_address_is_answered_in_the_envelope(
    tmp_path: Path, method: str, path: str, status: int, code: str
) -> None:
    async with RawNode(["m1"]) as node, running(tmp_path, [node]) as gateway:
        reply = await gateway.send(method, path)
        check_envelope(reply, status, code)
        if status == 405:
            assert method not in reply.headers["Allow"]
            assert reply.headers["Allow"].split(",")[0] in {"GET", "HEAD", "POST", "DELETE"}


async def test_errors_of_anthropics_routes_have_anthropics_envelope(tmp_path: Path) -> None:
    async with RawNode(["m1"]) as node, running(tmp_path, [node]) as gateway:
        for path, headers in (
            ("/v1/models/none", ANTHROPIC),
            ("/v1/messages/none", {}),
        ):
            reply = await gateway.get(path, headers=headers | {"x-request-id": "mine"})
            assert reply.status == 404
            assert reply.json["type"] == "error"
            assert reply.json["error"]["type"] == "not_found_error"
            assert reply.json["request_id"] == reply.headers["x-request-id"] == "mine"


async def test_an_inbound_request_id_is_kept_everywhere(tmp_path: Path) -> None:
    async with RawNode(["m1"]) as node, running(tmp_path, [node]) as gateway:
        mine = {"x-request-id": "trace/7:a+b=c@d.e_f-g"}
        for path, body in ((CHAT, chat_body()), (CHAT, {}), ("/nowhere", {})):
            reply = await gateway.post(path, body, headers=mine)
            assert reply.headers["x-request-id"] == mine["x-request-id"]
        assert (await gateway.get("/health", headers=mine)).headers.getall("x-request-id") == [
            mine["x-request-id"]
        ]
        assert node.got[0].headers["x-request-id"] == mine["x-request-id"]
        rows = await gateway.history()
        assert [row["request_id"] for row in rows] == [mine["x-request-id"]] * 2


async def test_a_missing_or_strange_request_id_is_replaced_by_one_of_ours(
    tmp_path: Path,
) -> None:
    async with RawNode(["m1"]) as node, running(tmp_path, [node]) as gateway:
        seen = []
        for strange in (None, "", "a b", "x" * 129, "<script>", "\xe9"):
            headers = {} if strange is None else {"x-request-id": strange}
            reply = await gateway.post(CHAT, chat_body(), headers=headers)
            seen.append(reply.headers["x-request-id"])
        assert all(re.fullmatch(r"req_[0-9a-f]{24}", request_id) for request_id in seen)
        assert len(set(seen)) == len(seen)
        assert [got.headers["x-request-id"] for got in node.got] == seen


async def test_a_model_nobody_could_ask_about_is_a_503_and_no_404(tmp_path: Path) -> None:
    silent = RawNode(port=free_port())
    # It is not found down meanwhile, however slow this is.
    patient = "[polling]\nfailures_before_down = 100\n"
    async with (
        RawNode(["m1"]) as node,
        running(tmp_path, [node, silent], toml=patient) as gateway,
    ):
        reply = await gateway.chat("m2")
        check_envelope(reply, 503, "starting")
        assert int(reply.headers["Retry-After"]) >= 1
        assert "n1" in reply.json["error"]["message"]
        assert (await gateway.chat("m1")).status == 200
        async with silent:
            silent.models.append("m2")

            async def heard() -> bool:
                return (await gateway.chat("m2")).status == 200

            await until(heard, "the node to be heard")
            check_envelope(await gateway.chat("m3"), 404, "model_not_found", "model")


async def test_a_wait_that_is_too_long_is_a_503_with_a_time_to_wait(tmp_path: Path) -> None:
    toml = "[limits]\nmax_in_flight_per_model = 1\nqueue_timeout_s = 0.1"
    async with (
        scripted(["m1"], endless=True, token_interval_s=0.01) as node,
        running(tmp_path, [node], toml=toml) as gateway,
        gateway.http.post(gateway.url + CHAT, json=chat_body(stream=True)),
    ):
        reply = await gateway.chat("m1")
        check_envelope(reply, 503, "queue_timeout")
        assert int(reply.headers["Retry-After"]) >= 1
        [row] = await gateway.history()
        assert 80 <= row["queue_ms"] < 5000 or row["duration_ms"] >= 80


async def test_a_load_that_fails_says_so_and_names_the_wait(tmp_path: Path) -> None:
    async with (
        scripted(["m1", "m2"], unloaded=["m2"], load_fail="broken weights") as node,
        running(tmp_path, [node]) as gateway,
    ):
        reply = await gateway.chat("m2")
        check_envelope(reply, 503, "model_failing")
        assert "broken weights" not in reply.text
        explained = await gateway.get("/cortex/v1/explain", params={"model": "m2"})
        assert "broken weights" in explained.text
        assert int(reply.headers["Retry-After"]) >= 1
        assert node.stats.loads == {"m2": 1}


async def test_while_draining_only_the_probes_are_answered(tmp_path: Path) -> None:
    async with RawNode(["m1"]) as node, running(tmp_path, [node]) as gateway:
        gateway.services.draining = True
        for reply in (await gateway.chat("m1"), await gateway.get("/v1/models")):
            check_envelope(reply, 503, "draining")
            assert reply.headers["Retry-After"] == "5"
            assert reply.headers["Connection"] == "close"
        assert (await gateway.get("/health")).json["reasons"] == ["draining"]
        ready = await gateway.get("/ready")
        assert (ready.status, ready.json) == (503, {"ready": False, "reason": "draining"})
        assert node.got == []
        gateway.services.draining = False


async def test_a_bug_is_a_500_that_tells_nothing_of_itself(tmp_path: Path) -> None:
    async with RawNode(["m1"]) as node, running(tmp_path, [node]) as gateway:
        gateway.services.recent.node_of_response = None  # what a bug might leave behind
        reply = await gateway.post(
            "/v1/responses", {"model": "m1", "previous_response_id": "r"}
        )
        check_envelope(reply, 500, "internal_error")
        assert "NoneType" not in reply.text
        [row] = await gateway.history()
        assert (row["outcome"], row["error_code"]) == ("error", "internal_error")
