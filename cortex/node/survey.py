"""Looks at a node once: what it lists, what it is, what time it thinks it is. Changes nothing there."""

import asyncio
import time
from email.utils import parsedate_to_datetime

from cortex.core.errors import NodeError, NodeProtocolError, NodeTimeoutError
from cortex.core.listing import NodeInfo
from cortex.core.survey import Survey, Trouble
from cortex.node.client import CONTROL_LIMIT_BYTES, NodeClient
from cortex.node.wire import read_listing

_KEY_WANTED = frozenset({401, 403})
_DATE_STEP_S = 1.0
"""A `Date` has whole seconds (RFC 9110, 5.6.7)."""


async def survey(client: NodeClient, *, timeout_s: float) -> Survey:
    """Ask for the models, then for what the node says of itself; raises nothing that a node can cause.

    Args:
        client: Of the node.
        timeout_s: For each of the two questions.
    """
    try:
        async with asyncio.timeout(timeout_s):
            seen = await _listed(client)
    except (NodeTimeoutError, TimeoutError):
        return Survey(trouble=Trouble.SILENT, said=f"no answer within {timeout_s:g} s")
    except NodeProtocolError as error:
        return Survey(trouble=Trouble.STRANGE, said=_plainly(error, client))
    except NodeError as error:
        return Survey(trouble=Trouble.UNREACHABLE, said=_plainly(error, client))
    if seen.trouble is not None:
        return seen
    info, reason = await _info(client, timeout_s)
    return Survey(
        listing=seen.listing,
        answer_s=seen.answer_s,
        skew_s=seen.skew_s,
        info=info,
        no_info_reason=reason,
    )


async def _listed(client: NodeClient) -> Survey:
    asked_s, asked_at_s = time.monotonic(), time.time()
    async with client.send("GET", "/v1/models", (), None) as answer:
        body = await answer.read_at_most(CONTROL_LIMIT_BYTES + 1)
        status, headers, date = answer.status, answer.headers, answer.head.date
    answer_s = time.monotonic() - asked_s
    if status in _KEY_WANTED:
        return Survey(trouble=Trouble.KEY, said=f"it answers HTTP {status}")
    if headers.get("Server") == "cortex":
        return Survey(trouble=Trouble.GATEWAY, said="a cortex gateway answers there, no node")
    if status >= 400:
        return Survey(trouble=Trouble.STRANGE, said=f"HTTP {status} for /v1/models")
    try:
        if len(body) > CONTROL_LIMIT_BYTES:
            return Survey(trouble=Trouble.STRANGE, said="its listing has no end")
        listing = read_listing(body)
    except NodeError as error:
        return Survey(trouble=Trouble.STRANGE, said=_plainly(error, client))
    skew_s = _skew_s(date, asked_at_s + answer_s / 2)
    return Survey(listing=listing, answer_s=answer_s, skew_s=skew_s)


async def _info(client: NodeClient, timeout_s: float) -> tuple[NodeInfo | None, str]:
    try:
        async with asyncio.timeout(timeout_s):
            return await client.system_info(), ""
    except TimeoutError:
        return None, f"no answer within {timeout_s:g} s"
    except NodeError as error:
        return None, _plainly(error, client)


def _skew_s(date: str, at_s: float) -> float | None:
    """How far `date` is ahead of `at_s`; what its whole seconds leave open counts as none."""
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return None
    if theirs.tzinfo is None:
        return None
    ahead_s = theirs.timestamp() - at_s
    if -_DATE_STEP_S <= ahead_s <= 0:
        return 0.0
    return ahead_s if ahead_s > 0 else ahead_s + _DATE_STEP_S


def _plainly(error: NodeError, client: NodeClient) -> str:
    """The words of the failure, without the node's name before them."""
    return str(error).removeprefix(f"{client.name}: ")
