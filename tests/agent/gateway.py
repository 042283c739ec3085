"""The one route of a gateway that agents use, over a real socket, with ways to misbehave."""

import asyncio
import time
from typing import Self

from aiohttp import web

from cortex.agentapi import AgentCommand, AgentReply, AgentReport, CommandAck
from tests.running import until

REFUSAL = {"error": {"message": "no such agent token", "code": "invalid_api_key"}}


class TinyGateway:
    """`async with TinyGateway() as gateway: gateway.url`. Records reports and serves commands."""

    def __init__(self, *, token: str | None = None) -> None:
        self.token = token
        self.reports: list[AgentReport] = []
        self.acks: dict[str, CommandAck] = {}
        self.tries = 0
        """Reports that came, those refused or left without a reply too."""
        self.interval_s = 0.1
        self.drop_acks = 0
        """So many reports with acks are lost: their connection is closed without a reply."""
        self.ageless = False
        """Every command is said to be 0 s old."""
        self.answer: web.Response | None = None
        """Sent instead of a reply, once."""
        self.delay_s = 0.0
        self.port = 0
        self._commands: dict[str, tuple[AgentCommand, float]] = {}
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/cortex/v1/agents/report", self._report)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def command(
        self, id_: str, action: str = "restart", *, age_s: float = 0.0, max_age_s: float = 60.0
    ) -> None:
        """Serve a command from now on, until it is acknowledged."""
        now_ms = time.time_ns() // 1_000_000
        command = AgentCommand(id=id_, action=action, issued_at_ms=now_ms, max_age_s=max_age_s)
        self._commands[id_] = (command, time.monotonic() - age_s)

    async def acked(self, id_: str, timeout_s: float = 10.0) -> CommandAck:
        await until(lambda: id_ in self.acks, f"an ack of {id_}", timeout_s)
        return self.acks[id_]

    async def reported(self, count: int = 1, timeout_s: float = 10.0) -> AgentReport:
        """Wait for `count` more reports; returns the last."""
        wanted = len(self.reports) + count
        await until(lambda: len(self.reports) >= wanted, f"{wanted} reports", timeout_s)
        return self.reports[-1]

    async def _report(self, request: web.Request) -> web.StreamResponse:
        self.tries += 1
        sent = request.headers.get("Authorization")
        if self.token is not None and sent != f"Bearer {self.token}":
            return web.json_response(REFUSAL, status=401)
        report = AgentReport.model_validate_json(await request.read())
        self.reports.append(report)
        if report.acks and self.drop_acks > 0:
            self.drop_acks -= 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        answer, self.answer = self.answer, None
        if answer is not None:
            return answer
        for ack in report.acks:
            self.acks[ack.id] = ack
            self._commands.pop(ack.id, None)
        now_s = time.monotonic()
        reply = AgentReply(
            commands=[
                command.model_copy(update={"age_s": 0.0 if self.ageless else now_s - issued_s})
                for command, issued_s in self._commands.values()
            ],
            interval_s=self.interval_s,
        )
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        return web.Response(body=reply.model_dump_json(), content_type="application/json")
