"""Posts reports to the gateway. Every exception of aiohttp ends here, as a `NoReply`."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

from cortex import __version__
from cortex.agent.settings import read_token
from cortex.agentapi import AgentReply, AgentReport

PATH = "/cortex/v1/agents/report"
LIMIT_BYTES = 1024 * 1024
"""Largest reply that is read."""


@dataclass(frozen=True, slots=True)
class NoReply:
    """A report that was not answered, as far as the agent knows."""

    reason: str
    refused: bool = False
    """The gateway is there and does not want this agent: 401 or 403."""
    answered: bool = False
    """Something is there, and this is what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long to wait before the next try."""

    first_s: float = 1.0
    most_s: float = 60.0
    refused_s: float = 30.0

    def wait_s(self, failures: int, fraction: float) -> float:
        """After `failures` lost reports in a row: full jitter, so that agents do not come back at once.

        Args:
            failures: At least 1.
            fraction: Random, from 0 to 1.
        """
        # The exponent is bounded, for a gateway may stay away for months.
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30)) * fraction

    def slow_s(self, fraction: float) -> float:
        """After a refusal: somebody must change something first. Spread over twice the time."""
        return self.refused_s * (1 + fraction)


class Uplink:
    """The gateway's HTTP side as the agent sees it; `async with`."""

    def __init__(self, gateway: str, token_file: Path | None, *, timeout_s: float) -> None:
        self._url = gateway + PATH
        self._token_file = token_file
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"cortex-agent/{__version__}"},
        )
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._session.close()

    async def post(self, report: AgentReport) -> AgentReply | NoReply:
        """Send a report. The token is read each time: it may be replaced without a restart."""
        headers = {"Content-Type": "application/json"}
        if self._token_file is not None:
            token = read_token(self._token_file)
            if token is None:
                return NoReply(f"no token can be read from {self._token_file}", refused=True)
            headers["Authorization"] = f"Bearer {token}"
        try:
            async with asyncio.timeout(self._timeout_s):
                # A redirect is not followed: the token is for this address only.
                async with self._session.post(
                    self._url,
                    data=report.model_dump_json().encode(),
                    headers=headers,
                    allow_redirects=False,
                ) as response:
                    body = await _read(response)
        except TimeoutError:
            return NoReply(f"no answer within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as exc:
            return NoReply(_why(exc))
        return _understood(response.status, body)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    while len(body) <= LIMIT_BYTES and (chunk := await response.content.readany()):
        body += chunk
    return body


def _understood(status: int, body: bytes) -> AgentReply | NoReply:
    if status in {401, 403}:
        return NoReply(f"HTTP {status}{_complaint(body)}", refused=True, answered=True)
    if status != 200:
        return NoReply(f"HTTP {status}{_complaint(body)}", answered=True)
    if len(body) > LIMIT_BYTES:
        return NoReply("a reply without end", answered=True)
    try:
        return AgentReply.model_validate_json(body)
    except ValueError:
        return NoReply("a reply that is none; is this the gateway's address?", answered=True)


def _complaint(body: bytes) -> str:
    """The message of an error envelope, where there is one."""
    try:
        found: Any = json.loads(body)
        message = found["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {_line(message)}" if isinstance(message, str) else ""


def _why(exc: Exception) -> str:
    """The system's own words, where a connection could not be made."""
    cause = getattr(exc, "os_error", exc)
    return _line(getattr(cause, "strerror", None) or str(exc)) or type(exc).__name__


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
