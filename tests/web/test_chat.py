"""The chat of the page in a real Chromium: streamed, stopped, measured, and kept in the tab."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.gateway.conftest import scripted
from tests.node.rawnode import LAST_CHUNK, STREAM_HEAD, Got, RawNode, chunk, streaming
from tests.running import Running, running, until
from tests.web.conftest import Visits
from tests.web.test_live import KEYS

NASTY = "<img src=x onerror=alert(1)><b>bold</b>"


def said(text: str, **more: Any) -> bytes:
    piece = {
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    } | more
    return f"data: {json.dumps(piece)}\n\n".encode()


END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


async def ask(page: Any, question: str) -> Any:
    """Send a message; its answer's place."""
    await page.get_by_label("Your message").fill(question)
    await page.get_by_role("button", name="Send").click()
    return page.locator(".talk .theirs").last


async def test_an_answer_as_it_comes(tmp_path: Path, visit: Visits) -> None:
    node = scripted(["org/a"], token_interval_s=0.03, tokens=20)
    async with node, running(tmp_path, [node]) as gateway:
        page = await visit(gateway, "#/models")
        await page.get_by_role("button", name="Details of org/a").click()
        await page.get_by_role("dialog").get_by_role("link", name="Chat").click()
        answer = await ask(page, "first")
        figures = answer.locator(".figures")
        await figures.filter(has_text="first token after").wait_for()
        await page.get_by_role("button", name="Stop").wait_for()
        await figures.filter(has_text="20 tokens").wait_for()
        told = await figures.inner_text()
        assert "first token after" in told
        assert "tokens/s" in told
        assert len((await answer.locator(".words").last.inner_text()).split()) == 20
        await page.get_by_role("button", name="Send").wait_for()
        # What was said goes along, and is gone with a new conversation.
        await page.get_by_text("System prompt").first.click()
        await page.get_by_label("System prompt").fill("be terse")
        await ask(page, "second")
        await page.get_by_text("20 tokens").nth(1).wait_for()
        rows = await history(gateway)
        assert [row["stream"] for row in rows] == [True, True]
        assert rows[0]["prompt_tokens"] > rows[1]["prompt_tokens"] + 20
        await page.get_by_role("button", name="New conversation").click()
        assert await page.locator(".talk article").count() == 0
        stored = await page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
        assert "second" not in stored


async def history(gateway: Running) -> list[Any]:
    """Newest first."""

    async def rows() -> list[Any]:
        return list((await gateway.get("/cortex/v1/history")).json["rows"])

    async def both() -> bool:
        return len(await rows()) == 2

    await until(both, "the history")
    return await rows()


async def test_stop_stops_the_engine(tmp_path: Path, visit: Visits) -> None:
    node = scripted(["org/a"], token_interval_s=0.02, endless=True)
    async with node, running(tmp_path, [node]) as gateway:
        page = await visit(gateway, "#/chat")
        for way in ("button", "key"):
            answer = await ask(page, "go on")
            await answer.locator(".figures").filter(has_text="first token after").wait_for()
            if way == "button":
                await page.get_by_role("button", name="Stop").click()
            else:
                await page.keyboard.press("Escape")
            await answer.get_by_text("· stopped").wait_for()
        await until(lambda: node.stats.streams_stopped == 2, "the engine to stop")
        # A page that is left stops it, too.
        answer = await ask(page, "go on")
        await answer.locator(".figures").filter(has_text="first token after").wait_for()
        await page.close()
        await until(lambda: node.stats.streams_stopped == 3, "the engine to stop")


async def test_what_it_waits_for_is_told(tmp_path: Path, visit: Visits) -> None:
    node = scripted(["org/a", "org/b"], unloaded=["org/b"], load_s=5.0)
    async with node, running(tmp_path, [node]) as gateway:
        page = await visit(gateway, "#/chat?model=org/b")
        answer = await ask(page, "hello")
        await (
            answer.locator(".figures")
            .filter(has_text="waiting for")
            .filter(has_text="load")
            .wait_for()
        )
        await answer.locator(".figures").filter(has_text="tokens/s").wait_for()


async def test_failures_are_told_and_forgotten(tmp_path: Path, visit: Visits) -> None:
    visit.expected.append("the server responded with a status of 404")
    seen = asyncio.Event()

    async def half(_: Got, to: asyncio.StreamWriter) -> None:
        to.write(STREAM_HEAD + chunk(said("half")))
        await seen.wait()
        to.write(LAST_CHUNK)

    answers = [half, streaming(said("good"), END)]
    raw = RawNode(["org/a"], answer=lambda got, to: answers.pop(0)(got, to))
    async with raw as node, running(tmp_path, [node]) as gateway:
        page = await visit(gateway, "#/chat?model=org/other")
        answer = await ask(page, "who?")
        await answer.get_by_role("alert").filter(has_text="org/other").wait_for()
        await page.get_by_label("Model or alias").fill("org/a")
        await page.get_by_label("Model or alias").press("Tab")
        answer = await ask(page, "cut")
        await answer.get_by_text("half").wait_for()
        seen.set()
        await answer.get_by_role("alert").wait_for()
        answer = await ask(page, "again")
        await answer.get_by_text("good").wait_for()
        await answer.locator(".figures").filter(has_text="first token").wait_for()
        sent = json.loads(node.got[-1].body)["messages"]
        # The half of an answer is part of what was said; what was refused is not.
        assert [message["content"] for message in sent] == ["cut", "half", "again"]


async def test_what_a_model_writes_is_only_text(tmp_path: Path, visit: Visits) -> None:
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": NASTY}}]}
    # This node ends its lines as mail does.
    events = [f"data: {json.dumps(thought)}\n\n".encode(), said(NASTY), END]
    events = [event.replace(b"\n", b"\r\n") for event in events]
    raw = RawNode(["org/a"], answer=streaming(*events))
    async with raw as node, running(tmp_path, [node]) as gateway:
        page = await visit(gateway, "#/chat")
        answer = await ask(page, NASTY)
        await answer.locator(".figures").filter(has_text="first token").wait_for()
        assert await answer.locator(".words").last.inner_text() == NASTY
        await answer.get_by_text("Thoughts").click()
        assert await answer.locator(".thoughts .words").inner_text() == NASTY
        assert await page.locator("main img, main .words b").count() == 0


async def test_it_asks_with_the_key_of_the_page(tmp_path: Path, visit: Visits) -> None:
    visit.expected.append("Failed to load resource: the server responded with a status of 40")
    node = scripted(["org/a"])
    async with node, running(tmp_path, [node], toml=KEYS) as gateway:
        page = await visit(gateway, "#/chat")
        gate = page.get_by_role("dialog", name="This gateway has keys")
        await gate.get_by_label("Key").fill("admin-key")
        await page.keyboard.press("Enter")
        model = page.get_by_label("Model or alias")

        async def chosen() -> bool:
            return bool(await model.input_value() == "org/a")

        await until(chosen, "a model to be proposed")
        await page.get_by_label("Your message").fill("one\ntwo")
        await page.get_by_label("Your message").press("Shift+Enter")
        await page.get_by_label("Your message").press("Enter")
        await page.get_by_text("tokens/s ·").wait_for()
        mine = await page.locator(".talk .mine .words").inner_text()
        assert mine == "one\ntwo"
