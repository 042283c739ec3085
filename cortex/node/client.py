"""Speaks to one node: control calls with their bodies read, inference calls with theirs untouched.

Deadlines of control calls are the caller's; inference is bounded by the gap between bytes, which the
relay watches.
"""

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import quote, urlsplit

from cortex.core.errors import NodeProtocolError
from cortex.core.fields import Fields
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import LifecycleAnswer, Listing, NodeInfo, Work
from cortex.core.nodefaults import read_message
from cortex.core.traits import Kind
from cortex.node.pool import Pool
from cortex.node.upstream import RequestBody, Upstream
from cortex.node.wire import read_kinds, read_lifecycle, read_listing, read_system_info

T = TypeVar("T")
CONTROL_LIMIT_BYTES = 1024 * 1024
"""Largest answer to a control call that is read."""
_SMALLEST: Mapping[Work, tuple[str, Mapping[str, object]]] = {
    Work.CHAT: (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 1},
    ),
    Work.EMBEDDINGS: ("/v1/embeddings", {"input": "ping"}),
}
"""Route and body of the smallest request of its kind, the model apart."""


_NO_SUCH_ROUTE = frozenset({404, 405, 501})
CACHED_HEADS = 256
CACHED_HEAD_CHARS = 1024
"""A longer one is made anew each time."""
_CHANGES = frozenset({"/v1/models/reload", "/v1/models/unload"})


class NodeClient:
    """One node's HTTP side; owns its connection pool."""

    def __init__(
        self,
        name: NodeName,
        endpoint: str,
        *,
        connect_timeout_s: float,
        api_key: str | None = None,
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        parts = urlsplit(endpoint)
        by_path = parts.scheme == "unix"
        self._prefix = "" if by_path else parts.path.rstrip("/")
        host = "localhost" if by_path else parts.netloc.rpartition("@")[2]
        self._fixed = f"Host: {host}\r\n"
        if api_key:
            self._fixed += f"Authorization: Bearer {api_key}\r\n"
        self._keyed = bool(api_key)
        #: Of the latest requests, as far as they do not differ.
        self._heads: dict[tuple[str, str, Fields], str] = {}
        #: The latest listing, as it came and as it was read: nearly every poll brings the same.
        self._listed: tuple[bytes, Listing] | None = None
        #: All that it was made from.
        self.settings = (name, endpoint, connect_timeout_s, api_key)
        # Without limit: how much a node is given is decided by leases, not by sockets.
        self._pool = Pool(endpoint, connect_timeout_s=connect_timeout_s)

    async def close(self) -> None:
        self._pool.close()

    async def list_models(self) -> Listing:
        """GET /v1/models: the whole residency of the node."""
        return await self._control("GET", "/v1/models", None, self._read_listing)

    def _read_listing(self, body: bytes) -> Listing:
        if self._listed is None or body != self._listed[0]:
            self._listed = body, read_listing(body)
        return self._listed[1]

    async def system_info(self) -> NodeInfo:
        """GET /v1/system/info: expensive on the node, so asked on discovery and after loads only.

        A node without the route (before mistral.rs 0.7.0) has no version and no memory figures.
        """
        return await self._ask("GET", "/v1/system/info", None, self._read_info)

    def _read_info(self, status: int, text: bytes) -> NodeInfo:
        if status in _NO_SUCH_ROUTE:
            return NodeInfo(version=None)
        if status >= 400:
            raise NodeProtocolError(f"{self.name}: /v1/system/info answered HTTP {status}")
        return read_system_info(text)

    async def kinds(self) -> Mapping[ModelId, frozenset[Kind]]:
        """GET /ui/api/list_models: what models are for, where the node has its page (contract §1.5).

        Its list was made at its start, and has chats and speech only; empty where there is none.
        """
        return await self._ask("GET", "/ui/api/list_models", None, self._read_kinds)

    def _read_kinds(self, status: int, text: bytes) -> Mapping[ModelId, frozenset[Kind]]:
        return read_kinds(text) if status == HTTPStatus.OK else {}

    async def model_status(self, model: ModelId) -> LifecycleAnswer:
        return await self._lifecycle("status", model)

    async def reload(self, model: ModelId) -> LifecycleAnswer:
        """Bring a model in; answers when it is loaded.

        Only for a model just read as `unloaded`: a reload of a loaded one poisons it until the
        node restarts (contract §2.4).
        """
        return await self._lifecycle("reload", model)

    async def unload(self, model: ModelId) -> LifecycleAnswer:
        """Take a model out; cuts what it is generating, and answers before memory is free."""
        return await self._lifecycle("unload", model)

    async def wake(self, model: ModelId, work: Work) -> str | None:
        """Ask for the smallest piece of `work`, which has the node load the model first.

        Returns:
            None once it is done; else why the node refused, in its own words.
        """
        path, body = _SMALLEST[work]

        def refusal(status: int, text: bytes) -> str | None:
            return None if status < 400 else read_message(text) or f"HTTP {status}"

        return await self._ask("POST", path, {"model": str(model), **body}, refusal)

    async def probe(self, model: ModelId) -> None:
        """Have the model make one token; a model that cannot chat says so, which is proof enough."""
        path, body = _SMALLEST[Work.CHAT]
        wanted = {"model": str(model), **body}
        await self._control("POST", path, wanted, lambda _: None, refused_from=500)

    def send(
        self,
        method: str,
        path: str,
        headers: Fields,
        body: RequestBody | None,
        *,
        own: str = "",
        once: bool = False,
    ) -> Upstream:
        """What sends the request, once it is entered.

        Args:
            method: Of the request, as the next four.
            path: Without the endpoint.
            headers: Besides those of every request; the same few again and again.
            body: None = there is none.
            own: Header lines of this very request, each with its end.
            once: Open a connection for it, on which nothing is sent twice.

        Raises:
            ValueError: A header has a line break in it.
        """
        head = self._heads.get((method, path, headers)) or self._head(method, path, headers)
        length = "" if body is None else f"Content-Length: {body.size}\r\n"
        raw = f"{head}{own}{length}\r\n".encode()
        return Upstream(self.name, self._pool, method, raw, body, once=once)

    def _head(self, method: str, path: str, headers: Fields) -> str:
        """What the heads of all such requests have in common."""
        lines = [
            f"{name}: {value}\r\n"
            for name, value in headers
            if not (self._keyed and name.lower() == "authorization")
        ]
        text = "".join(lines)
        if text.count("\n") != len(lines) or "\0" in text:
            raise ValueError("a line break in a header")
        head = f"{method} {self._prefix}{_quoted(path)} HTTP/1.1\r\n{self._fixed}{text}"
        if len(head) <= CACHED_HEAD_CHARS:
            if len(self._heads) >= CACHED_HEADS:
                self._heads.clear()
            self._heads[method, path, headers] = head
        return head

    async def _lifecycle(self, verb: str, model: ModelId) -> LifecycleAnswer:
        wanted = {"model_id": str(model)}
        return await self._control("POST", f"/v1/models/{verb}", wanted, read_lifecycle)

    async def _control(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        read: Callable[[bytes], T],
        *,
        refused_from: int = 400,
    ) -> T:
        def read_good(status: int, text: bytes) -> T:
            if status >= refused_from:
                raise NodeProtocolError(f"{self.name}: {path} answered HTTP {status}")
            return read(text)

        return await self._ask(method, path, body, read_good)

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        read: Callable[[int, bytes], T],
    ) -> T:
        """What `read` makes of status and body of the answer to a control call."""
        headers = (("Content-Type", "application/json"),)
        payload = None if body is None else _Json(json.dumps(body).encode())
        # A second `reload` would poison the model (contract §2.4).
        once = path in _CHANGES
        async with self.send(method, path, headers, payload, once=once) as answer:
            text = await answer.read_at_most(CONTROL_LIMIT_BYTES + 1)
            if len(text) > CONTROL_LIMIT_BYTES:
                raise NodeProtocolError(f"{self.name}: {path} answered without end")
            try:
                return read(answer.status, text)
            except NodeProtocolError as exc:
                # It may be the answer to something else, and its own still to come: nobody's next
                # request may be given that. With an error of its own: what is raised leads to this connection,
                # which would hold it until the garbage collector comes.
                answer.fail(NodeProtocolError(exc.message))
                raise


class _Json:
    """The body of a control call."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.size = len(text)

    def payload(self) -> bytes:
        return self._text


_PATH = "/:@!$&'()*+,;=~"
"""What stays as it is in the path of a request."""


def _quoted(path: str) -> str:
    return quote(path, safe=_PATH)
