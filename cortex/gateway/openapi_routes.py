"""The routes that `/openapi.json` tells of."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from cortex.adminapi import (
    EventQuery,
    EventsBody,
    ExplainBody,
    HealthBody,
    HistoryBody,
    HistoryQuery,
    LoadBody,
    ModelStatusBody,
    NodeChange,
    PinBody,
    StatsBody,
    StatusBody,
    UnloadBody,
)
from cortex.agentapi import AgentReply, AgentReport
from cortex.gateway.openapi_shapes import EVENT, LIVE_EVENT, OBJECT, TEXT, Json, Shape


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    summary: str
    content: tuple[tuple[str, Shape], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    path: str
    name: str
    summary: str
    tag: str
    answers: tuple[Answer, ...]
    errors: tuple[int, ...]
    body: Shape | None = None
    query: type[BaseModel] | str | None = None
    headers: tuple[Json, ...] = ()
    dialect: str = "openai"
    is_open: bool = False
    """Asked without a key."""

    def models(self) -> Iterator[type[BaseModel]]:
        shapes = [self.body, self.query]
        shapes += [shape for answer in self.answers for _, shape in answer.content]
        for shape in shapes:
            if isinstance(shape, type):
                yield shape


_JSON = "application/json"
_EVENTS = "text/event-stream"
_ANTHROPIC_VERSION: Json = {
    "name": "anthropic-version",
    "in": "header",
    "required": False,
    "schema": TEXT,
    "description": "Asks for Anthropic's shapes.",
}
_LAST_EVENT: Json = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "schema": TEXT,
    "description": "Begin behind this event.",
}
_ADMIN = (400, 401, 403, 503)
_CHANGE = (400, 401, 403, 404, 408, 409, 413, 415, 429, 431, 502, 503, 504)
_INFER = (400, 401, 403, 404, 408, 413, 415, 429, 431, 502, 503, 504)


def _ok(shape: Shape, summary: str = "Done.", status: int = 200) -> tuple[Answer, ...]:
    return (Answer(status, summary, ((_JSON, shape),)),)


def _infer(path: str, name: str, summary: str) -> Route:
    content: tuple[tuple[str, Shape], ...] = ((_JSON, {}), (_EVENTS, EVENT))
    if name == "speech":
        content = (*content, ("audio/*", TEXT))
    return Route(
        method="post",
        path=path,
        name=name,
        summary=summary,
        tag="openai",
        body="Inference",
        answers=(Answer(200, "The node's answer, whole or as a stream.", content),),
        errors=_INFER,
    )


def _change(path: str, name: str, summary: str, body: Shape | None, shape: Shape) -> Route:
    status = 202 if name == "defrag" else 200
    return Route(
        method="post",
        path=path,
        name=name,
        summary=summary,
        tag="openai" if path.startswith("/v1") else "admin",
        body=body,
        answers=_ok(shape, status=status),
        errors=_CHANGE,
    )


def _stored(method: str, path: str, name: str, summary: str) -> Route:
    return Route(
        method=method,
        path=path,
        name=name,
        summary=summary,
        tag="openai",
        answers=_ok({}, "The node's answer."),
        errors=(*_INFER, 409),
    )


def _read(
    path: str,
    name: str,
    summary: str,
    shape: Shape,
    query: type[BaseModel] | str | None = None,
) -> Route:
    return Route(
        method="get",
        path=path,
        name=name,
        summary=summary,
        tag="admin",
        query=query,
        answers=_ok(shape),
        errors=(*_ADMIN, 404) if name == "explain" else _ADMIN,
    )


def _plain(
    path: str, name: str, summary: str, *answers: Answer, errors: tuple[int, ...] = ()
) -> Route:
    return Route(
        method="get",
        path=path,
        name=name,
        summary=summary,
        tag="service",
        answers=answers,
        errors=(400, *errors),
        is_open=True,
    )


_MODEL_ANY: Json = {
    "anyOf": [
        {"$ref": "#/components/schemas/Model"},
        {"$ref": "#/components/schemas/AnthropicModel"},
    ]
}
_MODELS_ANY: Json = {
    "anyOf": [
        {"$ref": "#/components/schemas/ModelList"},
        {"$ref": "#/components/schemas/AnthropicModelList"},
    ]
}
_WORD = Answer(200, "A word.", (("text/plain", TEXT),))

ROUTES: tuple[Route, ...] = (
    _infer("/v1/chat/completions", "chat", "A chat, whole or streamed."),
    _infer("/v1/completions", "completions", "A completion, whole or streamed."),
    _infer("/v1/embeddings", "embeddings", "Embeddings."),
    _infer("/v1/images/generations", "images", "Images."),
    _infer("/v1/audio/speech", "speech", "Speech."),
    _infer("/v1/responses", "responses", "A response, whole or streamed."),
    _stored("get", "/v1/responses/{id}", "read_response", "A stored response."),
    _stored("delete", "/v1/responses/{id}", "delete_response", "Forget a stored response."),
    _stored("post", "/v1/responses/{id}/cancel", "cancel_response", "Cancel a response."),
    Route(
        method="post",
        path="/v1/messages",
        name="messages",
        summary="A message in Anthropic's dialect, whole or streamed.",
        tag="anthropic",
        body="Messages",
        answers=(Answer(200, "The answer.", ((_JSON, OBJECT), (_EVENTS, EVENT))),),
        errors=_INFER,
        dialect="anthropic",
    ),
    Route(
        method="post",
        path="/v1/messages/count_tokens",
        name="count_tokens",
        summary="An estimate of a prompt's tokens; no node is asked.",
        tag="anthropic",
        body="CountTokens",
        answers=_ok("TokenCount"),
        errors=(400, 401, 403, 404, 408, 413, 503),
        dialect="anthropic",
    ),
    Route(
        method="get",
        path="/v1/models",
        name="models",
        summary="Every model of every node, once.",
        tag="openai",
        query="ModelPage",
        headers=(_ANTHROPIC_VERSION,),
        answers=_ok(_MODELS_ANY),
        errors=(400, 401, 503),
        dialect="either",
    ),
    Route(
        method="get",
        path="/v1/models/{id}",
        name="model",
        summary="One model; its id may hold slashes.",
        tag="openai",
        headers=(_ANTHROPIC_VERSION,),
        answers=_ok(_MODEL_ANY),
        errors=(400, 401, 404, 503),
        dialect="either",
    ),
    _change("/v1/models/status", "model_status", "Where a model is.", "ModelOrder", "ModelState"),
    _change("/v1/models/unload", "model_unload", "Unload a model.", "ModelOrder", "ModelState"),
    _change("/v1/models/reload", "model_reload", "Load a model.", "ModelOrder", "ModelState"),
    _plain("/health", "health", "What is wrong, if anything.", *_ok(HealthBody)),
    _plain(
        "/ready",
        "ready",
        "Whether requests are welcome.",
        *_ok("Ready", "They are."),
        *_ok("Ready", "Not yet, or no longer.", 503),
    ),
    _plain("/", "page", "The page for browsers, a word for others.",
           Answer(200, "The page, or a word.", (("text/plain", TEXT), ("text/html", TEXT))),
           Answer(304, "Unchanged.")),
    _plain("/web/{file}", "file", "A file of the page.", Answer(200, "The file.", (("*/*", TEXT),)),
           Answer(304, "Unchanged."), errors=(404,)),
    _plain("/api/hello", "hello", "Whether somebody is there.", _WORD),
    _plain("/openapi.json", "openapi", "This document.", *_ok(OBJECT)),
    _read("/cortex/v1/status", "status", "The fleet.", StatusBody),
    _read("/cortex/v1/history", "history", "Finished requests.", HistoryBody, HistoryQuery),
    _read("/cortex/v1/history/stats", "stats", "Figures by model.", StatsBody, HistoryQuery),
    _read("/cortex/v1/events", "events", "Changes of the fleet.", EventsBody, EventQuery),
    _read("/cortex/v1/explain", "explain", "What would be done with a request.", ExplainBody, "Explain"),
    Route(
        method="get",
        path="/cortex/v1/events/stream",
        name="event_stream",
        summary="Every change of the fleet as it is committed.",
        tag="admin",
        headers=(_LAST_EVENT,),
        answers=(Answer(200, "Events without end.", ((_EVENTS, EVENT),)),),
        errors=_ADMIN,
    ),
    Route(
        method="get",
        path="/cortex/v1/live",
        name="live",
        summary="The fleet as a stream of states.",
        tag="admin",
        answers=(Answer(200, "Events without end; the data of each is a LiveFrame.", ((_EVENTS, LIVE_EVENT),)),),
        errors=_ADMIN,
    ),
    _change("/cortex/v1/models/load", "load", "Load a model.", LoadBody, ModelStatusBody),
    _change("/cortex/v1/models/unload", "unload", "Unload a model.", UnloadBody, ModelStatusBody),
    _change("/cortex/v1/models/pin", "pin", "Pin a model.", PinBody, ModelStatusBody),
    _change("/cortex/v1/models/unpin", "unpin", "Undo a pin.", PinBody, ModelStatusBody),
    _change("/cortex/v1/nodes/{name}/drain", "drain", "Drain a node.", None, NodeChange),
    _change("/cortex/v1/nodes/{name}/undrain", "undrain", "Undo a drain.", None, NodeChange),
    _change("/cortex/v1/nodes/{name}/defrag", "defrag", "Restart a node when safe.", None, NodeChange),
    _change("/cortex/v1/agents/report", "agent_report", "What an agent saw.", AgentReport, AgentReply),
)  # fmt: skip
