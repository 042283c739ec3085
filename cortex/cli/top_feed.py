"""The live feed read on the event loop, over restarts of the gateway.

`Client` blocks, and keys must be heard while nothing comes; so this is the one place where a command
speaks aiohttp. What failures mean is still the client's to say.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from cortex.adminapi import ExplainBody
from cortex.cli.client import TIMEOUT_S, Client, StreamEndedError, not_cortex, why
from cortex.cli.failures import CliError, KeyRefusedError, UnreachableError
from cortex.cli.sse import SseEvent, parse_sse
from cortex.cli.text import safe
from cortex.cli.trust import context_of
from cortex.liveapi import LiveFrame

PATH = "/cortex/v1/live"
EXPLAIN = "/cortex/v1/explain"
GAP_S = 40.0
"""Silence after which the feed counts as lost; a quiet one is pinged every 15 s."""
RETRY_S = 0.5
MOST_RETRY_S = 4.0
MOST_BYTES = 64 << 20
"""Of one event: a state of thousands of models is a few MiB."""
_END = b"\n\n"


async def frames(client: Client) -> AsyncGenerator[tuple[LiveFrame, bool], None]:
    """Every frame, and whether it is the whole state.

    Raises:
        UnreachableError: No connection, or it broke.
        KeyRefusedError: 401 or 403.
        CliError: Any other failure, with the gateway's own words.
    """
    async with aclosing(_blocks(client)) as blocks:
        async for block in blocks:
            for event in parse_sse([*block.split(b"\n"), b""]):
                yield _frame(event, client), event.event == "state"


async def follow(
    client: Client,
    take: Callable[[LiveFrame, bool], None],
    lost: Callable[[CliError], None],
) -> CliError:
    """Tell frames and failures until one that will not pass, which is returned."""
    pause_s = RETRY_S
    while True:
        try:
            async with aclosing(frames(client)) as coming:
                async for frame, whole in coming:
                    pause_s = RETRY_S
                    take(frame, whole)
            lost(StreamEndedError("the gateway ended the feed"))
        except KeyRefusedError as error:
            return error
        except CliError as error:
            lost(error)
        await asyncio.sleep(pause_s)
        pause_s = min(MOST_RETRY_S, pause_s * 2)


async def explained(client: Client, model: str) -> ExplainBody:
    """What would be done with a request for `model`; raises as `frames` does."""
    limits = aiohttp.ClientTimeout(total=TIMEOUT_S)
    query = urlencode({"model": model})
    async with _asked(client, f"{EXPLAIN}?{query}", "application/json", limits) as answer:
        try:
            return ExplainBody.model_validate_json(await answer.read())
        except ValueError as error:
            raise not_cortex(client.endpoint, "unexpected ExplainBody") from error


async def _blocks(client: Client) -> AsyncGenerator[bytes, None]:
    """The events as they were sent, each without the blank line at its end."""
    limits = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=GAP_S)
    async with _asked(client, PATH, "text/event-stream", limits) as answer:
        if answer.content_type != "text/event-stream":
            raise not_cortex(client.endpoint, f"no events from {PATH}")
        async with aclosing(_cut(answer.content)) as blocks:
            async for block in blocks:
                yield block


@asynccontextmanager
async def _asked(
    client: Client, path: str, accept: str, limits: aiohttp.ClientTimeout
) -> AsyncGenerator[aiohttp.ClientResponse, None]:
    """A successful answer to a GET; how it fails, then or later, is a `CliError`."""
    endpoint = client.endpoint
    # Addresses of the same scheme and host as `Client` uses, so that a prefix works here too.
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    scheme = "https" if endpoint.secure else "http"
    url = f"{scheme}://{host}:{endpoint.port}{endpoint.prefix}{path}"
    headers = client.identity() | {"Accept": accept}
    tls = context_of(endpoint) if endpoint.secure else True
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=limits) as session,
            session.get(URL(url, encoded=True), allow_redirects=False, ssl=tls) as answer,
        ):
            if answer.status != 200:
                raise client.refusal(answer.status, await answer.read(), path)
            yield answer
    except TimeoutError as error:
        raise UnreachableError(
            f"cannot reach cortex at {endpoint}: no answer in time"
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise UnreachableError(f"cannot reach cortex at {endpoint}: {_why(error)}") from error


async def _cut(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    unread = bytearray()
    async for piece in content.iter_any():
        # The blank line may be split between the last piece and this one.
        looked = max(0, len(unread) - 1)
        unread += piece
        while (end := unread.find(_END, looked)) >= 0:
            yield bytes(unread[:end])
            del unread[: end + len(_END)]
            looked = 0
        if len(unread) > MOST_BYTES:
            raise StreamEndedError("an event of the feed is endless")


def _frame(event: SseEvent, client: Client) -> LiveFrame:
    try:
        return LiveFrame.model_validate_json(event.data)
    except ValueError as error:
        raise not_cortex(client.endpoint, "unexpected LiveFrame") from error


def _why(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    if isinstance(error, ssl.SSLError):
        return why(error)
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return safe(getattr(error, "strerror", None) or str(error) or type(error).__name__)
