"""The shapes in which a node says no, and the reasons it has to (contract §1.1)."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web


def message(status: int, text: str) -> web.Response:
    """Chat, completions, responses, embeddings, images and speech."""
    return _json({"message": text}, status=status)


def partial(
    status: int, text: str, partial_response: Mapping[str, Any] | None = None
) -> web.Response:
    """The engine failed half-way through an answer that was not streamed."""
    body = {"message": text, "partial_response": partial_response or {}}
    return _json(body, status=status)


def anthropic(status: int, text: str) -> web.Response:
    """`/v1/messages` and `count_tokens`."""
    return _json(anthropic_body(status, text), status=status)


def anthropic_body(status: int, text: str) -> dict[str, Any]:
    """The object of `anthropic`, which streams send as an event."""
    kind = "invalid_request_error" if status < 500 else "api_error"
    return {"type": "error", "error": {"type": kind, "message": text}}


def plain(status: int, text: str) -> web.Response:
    """The body extractor of every JSON route, and bodies that are too large."""
    return web.Response(status=status, text=text)


def empty(status: int, _text: str = "") -> web.Response:
    """Unknown paths and wrong methods."""
    return web.Response(status=status)


def ok_text(_status: int, text: str) -> web.Response:
    """Failures of re_isq, tune and calibration: 200 with a sentence."""
    return web.Response(text=text)


def lifecycle(
    _status: int, error: str, *, model: str = "", status: str = "internal_error"
) -> web.Response:
    """The answer of the three lifecycle calls: 200 whatever happened."""
    body = {"model_id": model, "status": status}
    return _json(body | ({"error": error} if error else {}))


def coded(
    status: int, text: str, *, kind: str = "invalid_request_error", code: str | None = None
) -> web.Response:
    """LoRA (`message`, `type`, `code`); skills have no code, missing files have this shape too."""
    error = {"message": text, "type": kind} | ({"code": code} if code else {})
    return _json({"error": error}, status=status)


SHAPES: Final[Mapping[str, Callable[[int, str], web.Response]]] = {
    "message": message,
    "partial": partial,
    "anthropic": anthropic,
    "plain": plain,
    "empty": empty,
    "ok_text": ok_text,
    "lifecycle": lifecycle,
    "coded": coded,
}


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=_compact(body), status=status, content_type="application/json")


def _compact(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


class PlainRefusalError(Exception):
    """The body could not be taken at all: text/plain on every route."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class RefusalError(Exception):
    """The node says no before or while generating; the route decides the status and the shape."""

    chat_status = 500
    embeddings_status = 500
    anthropic_status = 500


class InvalidError(RefusalError):
    """A field has a value the node does not take."""

    anthropic_status = 400


class UnknownModelError(RefusalError):
    """No model has this id."""

    embeddings_status = 422
    anthropic_status = 400


class VanishedError(RefusalError):
    """It was listed, as a phantom is or as one is that vanished since; there is no such engine."""

    chat_status = 422
    embeddings_status = 422


class ReloadingError(RefusalError):
    """Another request has the model loading."""


class ReloadFailedError(RefusalError):
    """The load this request set off did not work."""


class NoDefaultError(RefusalError):
    """`default` names nothing any more."""


class EngineGoneError(RefusalError):
    """The model was unloaded under the request."""


class AskRefusedError(RefusalError):
    """The engine looked at the request and does not take it."""

    chat_status = 422
    anthropic_status = 400


class InputRefusedError(AskRefusedError):
    """What is asked of an embeddings model is wrong, whatever the model."""

    embeddings_status = 422


class WrongCategoryError(AskRefusedError):
    """A model of another kind: a text model is asked for vectors, or an embedding model for words."""

    def __init__(self) -> None:
        super().__init__("Received a request incompatible for this model's category.")


class EngineFailedError(RefusalError):
    """The engine broke half-way."""


def stream_error(text: str, *, as_json: bool) -> bytes:
    """The in-band error of an OpenAI-style stream: JSON in the newest tree, bare text before."""
    if not as_json:
        return f"data: {text}\n\n".encode()
    error = {"message": text, "type": "server_error", "param": None, "code": None}
    return b"data: " + _compact({"error": error}) + b"\n\n"
