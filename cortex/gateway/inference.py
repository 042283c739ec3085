"""The inference routes, and what is around each of their requests: the caller, and what fails."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web

from cortex.core.errors import CapacityError, CortexError
from cortex.core.plan import RETRY_AFTER_S
from cortex.gateway import cors, messages, openai
from cortex.gateway.auth import Caller
from cortex.gateway.call import Call, of_aiohttp
from cortex.gateway.errors import error_answer, is_anthropic
from cortex.gateway.reply import Sent, header_lines
from cortex.gateway.services import SERVICES, Services

log = logging.getLogger("cortex.gateway")

Handler = Callable[[Call, Caller, Services], Awaitable[None]]

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(openai.ROUTES, openai.infer),
    messages.MESSAGES: messages.messages,
}
PATHS = frozenset(HANDLERS)


async def serve(call: Call, svc: Services) -> None:
    """Answer one request, whatever happens."""
    origin = call.facts.origin
    if origin is not None and svc.shares_with(origin):
        call.reply.add(cors.answer_headers(origin))
    try:
        caller = _admitted(call, svc)
        if caller.limits is not None:
            call.reply.signed = partial(
                svc.quotas.headers, caller, anthropic=is_anthropic(call)
            )
        await HANDLERS[call.path](call, caller, svc)
    except CortexError as exc:
        # Kept beyond this block, it would keep this frame, and with it the body it refused.
        answer = error_answer(call, exc, call.request_id)
    except Exception:
        log.exception(
            "bug", extra={"fields": {"request_id": call.request_id, "path": call.path}}
        )
        answer = error_answer(call, CortexError("an internal error"), call.request_id)
    else:
        return
    finally:
        svc.room.leave(call.source)
    if svc.draining:
        call.reply.keep_alive = False
    if call.reply.begun:
        call.reply.cut()
    else:
        status, headers, body = answer
        call.reply.send(status, header_lines(headers), body)


def _admitted(call: Call, svc: Services) -> Caller:
    if svc.draining:
        refuse_while_draining(svc)
    if call.facts.by_page:
        svc.refuse_foreign_page(call.headers)
    return svc.keyring.caller(call)


async def by_aiohttp(request: web.Request) -> web.StreamResponse:
    """The same for a request that aiohttp had to read."""
    call = of_aiohttp(request)
    await serve(call, request.app[SERVICES])
    return Sent(call.reply)


def refuse_while_draining(svc: Services) -> None:
    """Raise 503 once the gateway has begun to stop."""
    if svc.draining:
        raise CapacityError(
            "this gateway is shutting down", code="draining", retry_after_s=RETRY_AFTER_S
        )
