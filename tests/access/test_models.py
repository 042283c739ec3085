"""A key that may use some models only: it can neither use, move nor see the others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.gateway.conftest import chat_body, scripted
from tests.running import Running, running

MODELS = ["acme/small-1b", "acme/large-70b", "other/vision"]
KEYS = """
[aliases]
fast = "acme/small-1b"
eyes = "other/vision"
[[auth.keys]]
name = "acme"
key = "acme"
models = ["acme/*"]
[[auth.keys]]
name = "by-alias"
key = "by-alias"
models = ["eyes"]
[[auth.keys]]
name = "nothing"
key = "nothing"
models = []
[[auth.keys]]
name = "boss"
key = "boss"
role = "admin"
[[auth.keys]]
name = "small-boss"
key = "small-boss"
role = "admin"
models = ["acme/small-*"]
"""
INFERENCE = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/images/generations",
    "/v1/audio/speech",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
)
LIFECYCLE = (
    ("/cortex/v1/models/load", "model"),
    ("/cortex/v1/models/unload", "model"),
    ("/cortex/v1/models/pin", "model"),
    ("/cortex/v1/models/unpin", "model"),
    ("/v1/models/status", "model_id"),
    ("/v1/models/unload", "model_id"),
    ("/v1/models/reload", "model_id"),
)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@asynccontextmanager
async def keyed(folder: Path) -> AsyncIterator[Running]:
    async with scripted(MODELS) as node, running(folder, [node], toml=KEYS) as gateway:
        yield gateway
        assert {m.pinned for m in gateway.services.fleet.node("n0").models.values()} == {False}


async def test_another_model_is_refused_on_every_inference_route(tmp_path: Path) -> None:
    async with keyed(tmp_path) as gateway:
        for path in INFERENCE:
            body = chat_body("other/vision", max_tokens=5)
            reply = await gateway.post(path, body, headers=bearer("acme"))
            assert reply.status == 403, path
            assert "this key may not use 'other/vision'" in reply.text
            assert reply.json["error"]["type"] == "permission_error"
            assert reply.headers["x-should-retry"] == "false"
            if "messages" not in path:
                assert reply.code == "model_not_allowed"
                assert reply.json["error"]["param"] == "model"
        rows = await gateway.get("/cortex/v1/history", headers=bearer("boss"))
        assert {row["error_code"] for row in rows.json["rows"]} <= {"model_not_allowed"}


@pytest.mark.parametrize(
    ("key", "usable"),
    [
        ("acme", {"acme/small-1b", "acme/large-70b", "fast"}),
        ("by-alias", {"other/vision", "eyes"}),
        ("nothing", set()),
        ("boss", {*MODELS, "fast", "eyes"}),
        ("small-boss", {"acme/small-1b", "fast"}),
    ],
)
async def test_what_a_key_sees_is_what_it_may_use(
    tmp_path: Path, key: str, usable: set[str]
) -> None:
    anthropic = bearer(key) | {"anthropic-version": "2023-06-01"}
    async with keyed(tmp_path) as gateway:
        for headers in (bearer(key), anthropic):
            listed = (await gateway.get("/v1/models", headers=headers)).json["data"]
            assert {entry["id"] for entry in listed} == usable
            for name in (*MODELS, "fast", "eyes"):
                shown = await gateway.get(f"/v1/models/{name}", headers=headers)
                assert shown.status == (200 if name in usable else 404)
        for name in (*MODELS, "fast", "eyes"):
            reply = await gateway.post(
                "/v1/chat/completions", chat_body(name), headers=bearer(key)
            )
            assert reply.status == (200 if name in usable else 403), name


async def test_a_near_name_is_one_that_the_key_may_use(tmp_path: Path) -> None:
    async with keyed(tmp_path) as gateway:
        for wanted, key, hint in (
            ("other/visian", "boss", "other/vision"),
            ("other/visian", "acme", None),
            ("eyez", "acme", None),
            ("eyez", "by-alias", "eyes"),
            ("acme/small-2b", "acme", "acme/small-1b"),
        ):
            reply = await gateway.post(
                "/v1/chat/completions", chat_body(wanted), headers=bearer(key)
            )
            assert (reply.status, reply.code) == (404, "model_not_found")
            if hint is None:
                assert "did you mean" not in reply.text
            else:
                assert hint in reply.json["error"]["message"]


async def test_an_admin_of_some_models_leaves_the_others_alone(tmp_path: Path) -> None:
    async with keyed(tmp_path) as gateway:
        for path, field in LIFECYCLE:
            body = {field: "acme/large-70b"}
            refused = await gateway.post(path, body, headers=bearer("small-boss"))
            assert (refused.status, refused.code) == (403, "model_not_allowed"), path
        explained = "/cortex/v1/explain?model="
        refused = await gateway.get(explained + "eyes", headers=bearer("small-boss"))
        assert (refused.status, refused.code) == (403, "model_not_allowed")
        allowed = await gateway.get(explained + "fast", headers=bearer("small-boss"))
        assert allowed.status == 200


async def test_a_clients_status_question_is_about_its_own_models(tmp_path: Path) -> None:
    async with keyed(tmp_path) as gateway:
        for model, status in (("fast", 200), ("acme/large-70b", 200), ("eyes", 403)):
            reply = await gateway.post(
                "/v1/models/status", {"model_id": model}, headers=bearer("acme")
            )
            assert reply.status == status
