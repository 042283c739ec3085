"""The remaining routes, as far as a gateway can tell them apart: their shapes, not their work."""

from typing import TYPE_CHECKING

from aiohttp import web

from cortex.devnode import bodies, errors
from cortex.devnode.engine import Json
from cortex.devnode.replies import answer_json, now_s

if TYPE_CHECKING:
    from cortex.devnode.node import Node


class Extras:
    """LoRA, skills, files, sessions, calibration, re_isq, tune and doctor."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    def routes(self) -> list[web.RouteDef]:
        """The routes this version has."""
        profile = self._node.profile
        found = [
            web.post("/v1/models/tune", self.tune),
            web.post("/v1/system/doctor", self.doctor),
            web.post("/re_isq", self.re_isq),
        ]
        if profile.has_sessions:
            found += [
                web.get("/v1/sessions/{id}", self.session),
                web.get("/v1/files", self.files),
                web.post("/v1/files", self.upload),
                web.get("/v1/files/{id}", self.file),
            ]
        if profile.has_messages:
            found += [
                web.get("/v1/skills", self.skills),
                web.get("/v1/skills/{id}/versions", self.skill),
                web.post("/calibration/start", self.calibration),
                web.get("/calibration/status", self.calibration),
                web.post("/calibration/apply", self.calibration),
            ]
        if profile.has_lora:
            found.append(web.get("/v1/lora_adapters", self.lora))
        return found

    async def lora(self, request: web.Request) -> web.Response:
        """GET /v1/lora_adapters: no node here has a LoRA runtime."""
        model = request.query.get("model", self._node.residency.default or "")
        if model not in self._node.residency.loaded:
            text = f"model `{model}` is not loaded"
            return errors.coded(404, text, code="model_not_found")
        text = f"model `{model}` has no dynamic LoRA runtime"
        return errors.coded(409, text, code="lora_runtime_unavailable")

    async def skills(self, _request: web.Request) -> web.Response:
        return answer_json({"object": "list", "data": []})

    async def skill(self, request: web.Request) -> web.Response:
        return errors.coded(404, f"skill `{request.match_info['id']}` not found")

    async def files(self, _request: web.Request) -> web.Response:
        return answer_json({"object": "list", "data": list(self._node.files.values())})

    async def upload(self, request: web.Request) -> web.Response:
        """POST /v1/files: kept by the default model's engine, so it needs one."""
        content = await request.read()
        if self._node.residency.default is None:
            return answer_json({"error": "engine state lock is poisoned"}, status=500)
        file: Json = {
            "id": self._node.new_id("file-"),
            "object": "file",
            "bytes": len(content),
            "created_at": now_s(),
            "filename": "upload",
            "purpose": "user_data",
        }
        self._node.files[file["id"]] = file
        return answer_json(file)

    async def file(self, request: web.Request) -> web.Response:
        found = self._node.files.get(request.match_info["id"])
        if found is not None:
            return answer_json(found)
        text = f"File '{request.match_info['id']}' not found or expired"
        return errors.coded(404, text, code="file_not_found")

    async def session(self, request: web.Request) -> web.Response:
        return errors.plain(404, f"Session {request.match_info['id']} not found")

    async def re_isq(self, request: web.Request) -> web.Response:
        """POST /re_isq: default model only; without one the handler dies with the connection."""
        body = await bodies.read(request, ggml_type=str)
        if self._node.residency.default is None:
            _panic(request)
        return errors.ok_text(200, f'Re ISQ: "{body["ggml_type"]}"')

    async def calibration(self, request: web.Request) -> web.Response:
        """The calibration routes: default model only, 200 with a sentence when they fail."""
        if self._node.residency.default is None:
            _panic(request)
        return errors.ok_text(200, "calibration is not running")

    async def tune(self, request: web.Request) -> web.Response:
        await bodies.read(request, model_id=str)
        return errors.ok_text(200, "cannot estimate a scripted model")

    async def doctor(self, _request: web.Request) -> web.Response:
        check = {"name": "hf_connectivity", "status": "warn", "message": "not probed"}
        return answer_json({"system": {}, "checks": [check]})


def _panic(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
