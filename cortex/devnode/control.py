"""Health, the listing, the lifecycle calls, system info, and the test node's own two routes."""

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from cortex.devnode import bodies, errors
from cortex.devnode.engine import Device, Json
from cortex.devnode.replies import answer_json
from cortex.devnode.residency import Answer

if TYPE_CHECKING:
    from cortex.devnode.node import Node

GIB: Final = 1 << 30


class Control:
    """Handlers that generate nothing."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    async def health(self, _request: web.Request) -> web.Response:
        """GET / and /health: says nothing about models."""
        return web.Response(text="OK")

    async def models(self, _request: web.Request) -> web.Response:
        """GET /v1/models."""
        node = self._node
        node.stats.listings += 1
        if node.knobs.listing_delay_s > 0:
            await asyncio.sleep(node.knobs.listing_delay_s)
        rows = [self._entry(*entry) for entry in node.residency.entries()]
        if node.knobs.listing_late_s > 0:
            await asyncio.sleep(node.knobs.listing_late_s)
        return answer_json({"object": "list", "data": rows})

    def _entry(self, model: str, status: str | None) -> Json:
        entry: Json = {
            "id": model,
            "object": "model",
            "created": self._node.created_s,
            "owned_by": "local",
        }
        if self._node.profile.has_lora:
            entry["root"] = model
        return entry if status is None else entry | {"status": status}

    async def page_models(self, _request: web.Request) -> web.Response:
        """GET /ui/api/list_models: what chats and speaks, as it was at the start."""
        return answer_json({"models": self._node.page_models})

    async def status(self, request: web.Request) -> web.Response:
        """POST /v1/models/status."""
        name = await self._model_id(request)
        self._node.stats.status_posts[name] += 1
        answer = self._node.residency.status(name)
        return errors.lifecycle(200, answer.error, model=name, status=answer.status)

    async def unload(self, request: web.Request) -> web.Response:
        """POST /v1/models/unload."""
        name = await self._model_id(request)
        self._node.stats.unload_posts[name] += 1
        answer = await self._node.see_through(self._node.residency.unload(name))
        return errors.lifecycle(200, answer.error, model=name, status=answer.status)

    async def reload(self, request: web.Request) -> web.Response:
        """POST /v1/models/reload: answers when the load is over, and goes on without its client."""
        name = await self._model_id(request)
        self._node.stats.reload_posts[name] += 1
        answer = await self._node.see_through(self._reload(name))
        return errors.lifecycle(200, answer.error, model=name, status=answer.status)

    async def _reload(self, name: str) -> Answer:
        residency = self._node.residency
        if not residency.will_load(name):
            return await residency.reload(name)
        with self._node.perhaps_silent():
            return await residency.reload(name)

    async def _model_id(self, request: web.Request) -> str:
        return str((await bodies.read(request, model_id=str))["model_id"])

    async def info(self, _request: web.Request) -> web.Response:
        """GET /v1/system/info: slow, because a real one opens every device."""
        node = self._node
        node.stats.infos += 1
        if node.knobs.info_delay_s > 0:
            await asyncio.sleep(node.knobs.info_delay_s)
        devices = node.engine.devices()
        host = next((d for d in devices if d.kind == "cpu"), None)
        on_cuda = any(d.kind == "cuda" for d in devices)
        cpu: Json = {"brand": "devnode", "logical_cores": 2, "physical_cores": 2}
        features = dict.fromkeys(("avx", "avx2", "fma"), True) | {"avx512": False}
        build: Json = dict.fromkeys(
            ("metal", "cudnn", "flash_attn_v3", "cutile", "accelerate", "mkl"), False
        )
        answer: Json = {
            "os": "linux",
            "kernel": "6.0",
            "cpu": cpu | features,
            "memory": {
                "total_bytes": host.total_bytes if host else 64 * GIB,
                "available_bytes": host.available_bytes if host else 32 * GIB,
            },
            "devices": [_device(device) for device in devices],
            "build": {
                "version": node.profile.version,
                "git_revision": node.profile.git_revision,
                "cuda": on_cuda,
                "flash_attn": on_cuda,
                **build,
            },
            "hf_cache_path": "/var/cache/huggingface",
        }
        return answer_json(answer)

    async def knobs(self, _request: web.Request) -> web.Response:
        """GET /_knobs: all knobs."""
        return answer_json(self._node.knobs.as_dict())

    async def set_knobs(self, request: web.Request) -> web.Response:
        """POST /_knobs: a JSON object of the knobs to change; answers with all of them."""
        try:
            await self._node.set(**await bodies.read(request))
        except ValueError as error:
            return errors.message(400, str(error))
        return answer_json(self._node.knobs.as_dict())

    async def stats(self, _request: web.Request) -> web.Response:
        """GET /_stats: the counters, and what is true now."""
        node = self._node
        devices = [
            {"kind": d.kind, "total_bytes": d.total_bytes, "available_bytes": d.available_bytes}
            for d in node.engine.devices()
        ]
        now = {
            "loaded": list(node.residency.loaded),
            "unloaded": list(node.residency.unloaded),
            "reloading": list(node.residency.reloading),
            "default": node.residency.default,
            "devices": devices,
            "processes": node.engine.processes(),
        }
        return answer_json(node.stats.as_dict() | now)


def _device(device: Device) -> Json:
    # Of the CPU a node says no more than that it is there.
    cpu = device.kind == "cpu"
    row: Json = {
        "kind": device.kind,
        "ordinal": None if cpu else device.ordinal,
        "name": device.name,
        "total_memory_bytes": None if cpu else device.total_bytes,
        "available_memory_bytes": None if cpu else device.available_bytes,
    }
    if device.kind == "cuda":
        row |= {"compute_capability": [8, 9], "flash_attn_compatible": True}
    return row
