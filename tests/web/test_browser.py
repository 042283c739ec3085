"""The page in a real Chromium, used as an operator would: by mouse, by keyboard, with and without keys."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from cortex.core.health import Pauses
from cortex.fleet.waits import Waits
from tests.gateway.conftest import chat_body, scripted, stream
from tests.node.rawnode import RawNode, saying, whole
from tests.running import running, until
from tests.web.conftest import Visits
from tests.web.test_live import KEYS

SIZED = """[models]
[models."org/a"]
vram_mb = 5000
[models."org/b"]
vram_mb = 4000
"""
REFUSALS = "Failed to load resource: the server responded with a status of 40"


def two(**more: Any) -> Any:
    """A node with room for one of its two models."""
    knobs = {"unloaded": ["org/b"], "load_s": 0.5, "vram_total_mib": 8192} | more
    return scripted({"org/a": 5000, "org/b": 4000}, **knobs)


async def confirmed(page: Any, title: str, verb: str) -> None:
    """Answer the question that every change asks."""
    dialog = page.get_by_role("dialog", name=title)
    await dialog.wait_for()
    await dialog.get_by_role("button", name=verb, exact=True).click()
    await dialog.wait_for(state="hidden")


def row_of(page: Any, model: str) -> Any:
    return page.locator(".models-table tbody tr", has=page.locator(f'[title="{model}"]'))


def card_of(page: Any, node: str) -> Any:
    return page.locator("li.node", has=page.get_by_role("heading", name=node, exact=True))


async def test_a_load_by_click_is_watched_until_the_model_is_there(
    tmp_path: Path, visit: Visits
) -> None:
    """The other model gives way: the page shows it leave, the bar change, and the reason."""
    async with two() as node, running(tmp_path, [node], toml=SIZED) as gateway:
        page = await visit(gateway, "#/models")
        row = row_of(page, "org/b")
        await row.get_by_text("unloaded").wait_for()
        await row.get_by_role("button", name="Load org/b").click()
        dialog = page.get_by_role("dialog", name="Load org/b?")
        # What will happen is said before it does.
        await (
            dialog.get_by_text("It is loaded on n0")
            .filter(has_text="org/a is let go of for it")
            .wait_for()
        )
        await confirmed(page, "Load org/b?", "Load")
        await row.get_by_text("loading", exact=True).wait_for()
        await row.get_by_text("loaded", exact=True).wait_for()
        await row.get_by_text("n0", exact=True).wait_for()
        await row_of(page, "org/a").get_by_text("unloaded").wait_for()
        await page.get_by_text("org/b is loaded").wait_for()

        await page.get_by_role("link", name="Timeline").click()
        events = page.locator(".events li")
        evicted = events.filter(has_text="evict").filter(has_text="org/a")
        await evicted.first.wait_for()
        assert "org/b" in await evicted.first.inner_text()  # for whom it had to go

        await page.get_by_role("link", name="Fleet", exact=True).click()
        card = card_of(page, "n0")
        bar = card.get_by_role("img")
        await card.get_by_text("3.9 of 8.0 GiB").wait_for()
        assert "org/b, 3.9 GiB" in str(await bar.get_attribute("aria-label"))
        assert "org/a" not in str(await bar.get_attribute("aria-label"))
        view = gateway.services.fleet.model("n0", "org/b")
        assert view.resident


async def test_a_load_shows_its_time_and_a_drain_what_it_waits_for(
    tmp_path: Path, visit: Visits
) -> None:
    node = scripted(["m1", "m2", "m3"], unloaded=["m2"], load_s=3.5, endless=True)
    async with node, running(tmp_path, [node]) as gateway:
        page = await visit(gateway)
        card = card_of(page, "n0")
        await card.get_by_text("m1").wait_for()
        await gateway.post("/cortex/v1/models/load", {"model": "m2"})
        await gateway.post("/cortex/v1/models/unload", {"model": "m2"})
        async with asyncio.TaskGroup() as group:
            load = group.create_task(gateway.post("/cortex/v1/models/load", {"model": "m2"}))
            # The second load has the time of the first beside its own.
            resident = card.locator(".resident", has_text="m2")
            told = resident.get_by_text(re.compile(r"loading \d of [34] s"))
            first = await told.inner_text()

            async def goes_on() -> bool:
                return bool(await told.inner_text() > first)

            await until(goes_on, "the seconds to go on")
            await load
        async with asyncio.TaskGroup() as group:
            body = chat_body("m3", stream=True)
            answer = group.create_task(stream(gateway.http, gateway.url, body))
            await (
                card.locator(".resident", has_text="m3").get_by_text("1", exact=True).wait_for()
            )
            unload = group.create_task(
                gateway.post("/cortex/v1/models/unload", {"model": "m3"})
            )
            await card.get_by_text("draining, 1 to finish").wait_for()
            answer.cancel()
            await unload


async def test_why_a_model_failed_last_stays_to_be_read(tmp_path: Path, visit: Visits) -> None:
    quick = Waits(breaker=Pauses(first_s=0.05, longest_s=0.05))
    node = two(load_fail={"org/b": "bad weights"}, vram_total_mib=16_384)
    async with node, running(tmp_path, [node], toml=SIZED, waits=quick) as gateway:
        page = await visit(gateway, "#/models?model=org%2Fb")
        await gateway.post("/v1/chat/completions", chat_body("org/b"))
        drawer = page.get_by_role("dialog", name="org/b")
        await drawer.get_by_text("Failed last: ").filter(has_text="bad weights").wait_for()


async def test_what_unloads_left_behind_is_a_part_of_its_own(
    tmp_path: Path, visit: Visits
) -> None:
    node = two(leak_pct=20.0, vram_total_mib=16_384)
    async with node, running(tmp_path, [node], toml=SIZED) as gateway:
        page = await visit(gateway)
        for verb in ("load", "unload"):
            reply = await gateway.post(f"/cortex/v1/models/{verb}", {"model": "org/b"})
            assert reply.status == 200
        card = card_of(page, "n0")
        await card.get_by_text("800 MiB not given back").wait_for()
        label = str(await card.get_by_role("img").get_attribute("aria-label"))
        assert label.endswith("org/a, 4.9 GiB; not given back by unloads, 800 MiB")
        assert "outside" not in await card.inner_text()


async def test_unload_and_pin_by_click(tmp_path: Path, visit: Visits) -> None:
    async with two() as node, running(tmp_path, [node], toml=SIZED) as gateway:
        page = await visit(gateway)
        card = card_of(page, "n0")
        await card.get_by_role("button", name="Pin org/a on n0").click()
        await confirmed(page, "Pin org/a?", "Pin")
        await card.get_by_role("button", name="Unpin org/a on n0").wait_for()
        assert await card.get_by_role("button", name="Unload org/a from n0").is_disabled()
        assert gateway.services.fleet.model("n0", "org/a").pinned
        await card.get_by_role("button", name="Unpin org/a on n0").click()
        await confirmed(page, "Unpin org/a?", "Unpin")
        await card.get_by_role("button", name="Pin org/a on n0").wait_for()
        await card.get_by_role("button", name="Unload org/a from n0").click()
        await confirmed(page, "Unload org/a?", "Unload")
        await card.get_by_text("Nothing is loaded.").wait_for()
        assert not gateway.services.fleet.model("n0", "org/a").resident


async def test_a_change_that_is_not_confirmed_does_not_happen(
    tmp_path: Path, visit: Visits
) -> None:
    async with two() as node, running(tmp_path, [node], toml=SIZED) as gateway:
        page = await visit(gateway)
        drain = card_of(page, "n0").get_by_role("button", name="Drain")
        await drain.click()
        await page.get_by_role("button", name="Cancel").click()
        await drain.click()
        await page.keyboard.press("Escape")
        await page.get_by_role("dialog").wait_for(state="hidden")
        # Where it came from: a keyboard's place is not lost.
        assert await drain.evaluate("one => one === document.activeElement")
        assert not gateway.services.fleet.node("n0").draining


async def test_a_node_is_drained_and_put_back(tmp_path: Path, visit: Visits) -> None:
    async with two() as node, running(tmp_path, [node]) as gateway:
        page = await visit(gateway)
        card = card_of(page, "n0")
        await card.get_by_role("button", name="Drain").click()
        await confirmed(page, "Drain n0?", "Drain")
        await card.get_by_text("draining").wait_for()
        assert gateway.services.fleet.node("n0").draining
        # Nobody beside the node could restart it.
        assert await card.get_by_role("button", name="Defrag").is_disabled()
        await card.get_by_role("button", name="Put back").click()
        await confirmed(page, "Put n0 back?", "Put back")
        await card.get_by_role("button", name="Drain").wait_for()
        assert not gateway.services.fleet.node("n0").draining


async def test_a_refused_change_says_why(tmp_path: Path, visit: Visits) -> None:
    visit.expected.append(REFUSALS)
    async with two(load_fail="no such tensor") as node, running(tmp_path, [node]) as gateway:
        page = await visit(gateway, "#/models")
        await row_of(page, "org/b").get_by_role("button", name="Load org/b").click()
        visit.expected.append("the server responded with a status of 50")
        await confirmed(page, "Load org/b?", "Load")
        await page.locator(".toast.failure").wait_for()
        assert "org/b" in await page.locator(".toast.failure").inner_text()


async def test_what_runs_and_what_waits(tmp_path: Path, visit: Visits) -> None:
    toml = "[limits]\nmax_in_flight_per_model = 1\n"
    async with (
        scripted(["org/a"], token_interval_s=0.02) as node,
        running(tmp_path, [node], toml=toml) as gateway,
    ):
        page = await visit(gateway)
        await card_of(page, "n0").wait_for()
        body = chat_body("org/a", stream=True, max_tokens=120)
        body["messages"][0]["content"] = "nobody-else-may-read-this"
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(stream(gateway.http, gateway.url, body))
            running_panel = page.locator(
                ".panel", has=page.get_by_role("heading", name="In flight")
            )
            waiting_panel = page.locator(
                ".panel", has=page.get_by_role("heading", name="Waiting")
            )
            await running_panel.get_by_text("tok/s").first.wait_for()
            await waiting_panel.get_by_text("1 waiting").wait_for()
            await waiting_panel.get_by_text("limit").wait_for()
            assert "nobody-else-may-read-this" not in await page.content()
        await page.get_by_text("Nothing is running.").wait_for()
        await page.get_by_text("Nobody waits.").wait_for()


async def test_history_is_read_filtered_and_charted(tmp_path: Path, visit: Visits) -> None:
    async with two(token_interval_s=0.002) as node, running(tmp_path, [node]) as gateway:
        for _ in range(3):
            await stream(gateway.http, gateway.url, chat_body("org/a", stream=True))
        assert (await gateway.chat("org/a", max_tokens="many")).status == 400
        await gateway.flushed()
        page = await visit(gateway, "#/history")
        rows = page.get_by_role("region", name="Requests").locator("tbody tr")
        await rows.nth(3).wait_for()
        assert await rows.count() == 4
        for title in ("Time to first token", "Tokens per second"):
            await page.get_by_role("figure").filter(has_text=title).locator("canvas").wait_for()
        figures = page.get_by_role("region", name="Figures per model").locator("tbody tr")
        assert "org/a" in await figures.first.inner_text()
        await page.get_by_label("Outcome").select_option("error")
        await rows.filter(has_text="invalid request").wait_for()
        await until(lambda: _count(rows, 1), "the filter to be applied")
        await page.get_by_label("Outcome").select_option("")
        await page.get_by_label("Slower than, s").fill("100")
        await page.keyboard.press("Enter")
        await page.get_by_text("No request is like that.").wait_for()


async def _count(rows: Any, wanted: int) -> bool:
    return bool(await rows.count() == wanted)


async def test_a_decision_is_explained(tmp_path: Path, visit: Visits) -> None:
    async with two() as node, running(tmp_path, [node], toml=SIZED) as gateway:
        page = await visit(gateway, "#/explain")
        await page.get_by_role("button", name="org/a").click()
        await page.get_by_text("It is served at once by n0").wait_for()
        await page.get_by_label("Model or alias").fill("org/b")
        await page.keyboard.press("Enter")
        await page.get_by_text("The model is loaded first on n0").wait_for()
        await page.get_by_text("letting go of org/a").wait_for()
        table = page.get_by_role("region", name="Nodes that were looked at")
        assert "chosen" in await table.inner_text()
        # It follows the fleet.
        await gateway.post("/cortex/v1/nodes/n0/drain", {})
        await table.get_by_text("draining").wait_for()


async def test_a_model_in_detail_leads_on_and_lets_go(tmp_path: Path, visit: Visits) -> None:
    """Its dialog holds the whole page; a link out of it, or the way back, gives the page back."""
    async with two() as node, running(tmp_path, [node], toml=SIZED) as gateway:
        page = await visit(gateway, "#/models")
        await row_of(page, "org/b").get_by_role("button", name="Details of org/b").click()
        drawer = page.get_by_role("dialog", name="org/b")
        await drawer.get_by_role("button", name="Pin wherever it is").click()
        asked = page.get_by_role("dialog", name="Pin org/b?")
        await asked.get_by_text("org/a is let go of for it").wait_for()
        await confirmed(page, "Pin org/b?", "Pin")
        await drawer.get_by_role("button", name="Unpin").wait_for()
        assert (None, "org/b") in gateway.services.fleet._state._pins
        await drawer.get_by_role("button", name="Unpin").click()
        await confirmed(page, "Unpin org/b?", "Unpin")
        await drawer.get_by_role("button", name="Pin here").wait_for()
        assert not gateway.services.fleet._state._pins
        await drawer.get_by_role("link", name="Explain a request").click()
        await page.get_by_role("heading", name="org/b", level=2).wait_for()
        await page.go_back()
        await drawer.wait_for()
        await page.keyboard.press("Escape")
        await drawer.wait_for(state="hidden")
        await row_of(page, "org/a").get_by_role("button", name="Details of org/a").click()
        await (
            page.get_by_role("dialog", name="org/a").get_by_role("button", name="Close").click()
        )
        await page.get_by_role("link", name="Fleet", exact=True).click()
        await card_of(page, "n0").get_by_role("button", name="Drain").click()
        await page.get_by_role("dialog", name="Drain n0?").wait_for()


async def test_without_keys_it_says_why_it_shows_nothing_elsewhere(
    tmp_path: Path, visit: Visits
) -> None:
    """No key would help: there are none."""
    visit.expected.append(REFUSALS)
    async with two() as node, running(tmp_path, [node]) as gateway:
        page = await visit(gateway, extra_http_headers={"X-Forwarded-For": "10.0.0.9"})
        gate = page.get_by_role("dialog", name="Not from here")
        await gate.get_by_text("no keys are configured; `cortex keys add` makes one").wait_for()
        assert not await gate.get_by_label("Key").is_visible()
        await page.context.set_extra_http_headers({})
        await gate.get_by_role("button", name="Try again").click()
        await card_of(page, "n0").wait_for()


async def test_a_wrong_key_is_refused_and_the_right_one_opens(
    tmp_path: Path, visit: Visits
) -> None:
    visit.expected.append(REFUSALS)
    async with two() as node, running(tmp_path, [node], toml=KEYS) as gateway:
        page = await visit(gateway)
        gate = page.get_by_role("dialog", name="This gateway has keys")
        await gate.wait_for()
        assert "n0" not in await page.locator("main").inner_text()
        await page.keyboard.press("Escape")
        await page.keyboard.press("Escape")
        await gate.wait_for()
        for typed, says in (
            ("wrong", "not known here"),
            ("client-key", "takes an admin's key"),
        ):
            await gate.get_by_label("Key").fill(typed)
            await gate.get_by_role("button", name="Open").click()
            await gate.get_by_role("alert").filter(has_text=says).wait_for()
        await gate.get_by_label("Key").fill("admin-key")
        await page.keyboard.press("Enter")
        await card_of(page, "n0").wait_for()

        # In this tab only: not in the page, the address, cookies, or what outlives the session.
        assert "admin-key" not in await page.content()
        assert "admin-key" not in page.url
        assert await page.context.cookies() == []
        assert "admin-key" not in await page.evaluate("JSON.stringify({...localStorage})")
        await page.reload()
        await card_of(page, "n0").wait_for()
        other = await page.context.new_page()
        await other.goto(gateway.url)
        await other.get_by_role("dialog", name="This gateway has keys").wait_for()

        # It acts with it, too.
        await card_of(page, "n0").get_by_role("button", name="Drain").click()
        await confirmed(page, "Drain n0?", "Drain")
        await card_of(page, "n0").get_by_text("draining").wait_for()
        await page.get_by_role("button", name="Forget the key").click()
        await gate.wait_for()
        assert "n0" not in await page.locator("main").inner_text()


async def test_a_page_of_another_site_changes_nothing(tmp_path: Path, visit: Visits) -> None:
    """No keys, and a browser on the gateway's own machine: the weakest place there is."""
    visit.expected += ["blocked by CORS policy", "Failed to load resource"]
    async with two() as node, two() as other_node:
        (tmp_path / "other").mkdir()
        async with (
            running(tmp_path, [node]) as gateway,
            running(tmp_path / "other", [other_node]) as evil,
        ):
            page = await visit(evil)
            # The browser has a guard of its own, which is not what is tried here.
            await page.context.grant_permissions(["local-network-access"])
            await page.context.route("**/*", _without_policy)
            await page.goto(evil.url)
            visit.allow(gateway)
            got = await page.evaluate(
                """async (url) => {
                    const tries = [];
                    for (const [mode, type] of [["no-cors", "text/plain"], ["cors", "application/json"]]) {
                        try {
                            const answer = await fetch(url + "/cortex/v1/nodes/n0/drain", {
                                method: "POST", mode, headers: {"Content-Type": type}, body: "{}"});
                            tries.push(answer.type);
                        } catch { tries.push("failed"); }
                    }
                    try { tries.push(await (await fetch(url + "/cortex/v1/status")).text()); }
                    catch { tries.push("failed"); }
                    return tries;
                }""",
                gateway.url,
            )
            # Sent blindly by the first; nobody may read an answer.
            assert got == ["opaque", "failed", "failed"]
            assert not gateway.services.fleet.node("n0").draining


async def _without_policy(route: Any) -> None:
    """The same page, as if its author had set no policy."""
    if "/cortex/" in route.request.url:
        await route.continue_()
        return
    response = await route.fetch()
    headers = {k: v for k, v in response.headers.items() if k != "content-security-policy"}
    await route.fulfill(response=response, headers=headers)


async def test_the_keyboard_alone_is_enough(tmp_path: Path, visit: Visits) -> None:
    """From the address line to a drained node without a mouse, seeing at each step where one is."""
    async with two() as node, running(tmp_path, [node]) as gateway:
        page = await visit(gateway)
        await card_of(page, "n0").wait_for()
        await page.keyboard.press("Tab")
        assert await _focused(page) == "Skip to the content"
        await page.keyboard.press("Enter")
        await _tab_to(page, "Drain")
        assert await page.evaluate(
            "getComputedStyle(document.activeElement).outlineStyle"
        ) not in {"none", ""}
        await page.keyboard.press("Enter")
        await page.get_by_role("dialog", name="Drain n0?").wait_for()
        # The question holds the focus until it is answered.
        for _ in range(6):
            await page.keyboard.press("Tab")
            assert await page.evaluate(
                "document.activeElement === document.body"
                " || document.activeElement.closest('dialog') !== null"
            )
        await _tab_to(page, "Drain")
        await page.keyboard.press("Enter")
        await until(lambda: gateway.services.fleet.node("n0").draining, "the drain")
        await page.get_by_text("draining", exact=True).wait_for()

        await page.locator("#views a").first.focus()
        for name in ("Models", "Timeline", "History", "Explain"):
            await _tab_to(page, name)
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Explain", level=1).wait_for()
        # A change of view is a change of place.
        assert await page.evaluate("document.activeElement.id") == "main"


async def _focused(page: Any) -> str:
    return str(
        await page.evaluate(
            "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
        )
    )


async def _tab_to(page: Any, name: str) -> None:
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await _focused(page) == name:
            return
    raise AssertionError(f"no Tab leads to {name!r}")


async def test_names_of_nodes_and_models_are_only_text(tmp_path: Path, visit: Visits) -> None:
    name = '<img src=x onerror="document.title=1">'
    async with (
        scripted([name, "org/<script>b</script>"]) as node,
        running(tmp_path, [node]) as gateway,
    ):
        page = await visit(gateway)
        await page.get_by_text(name).first.wait_for()
        for view in ("models", "timeline", "explain", "history"):
            await page.goto(f"{gateway.url}/#/{view}")
            await page.locator(f".view.{view}").wait_for()
        await page.get_by_role("link", name="Models").click()
        await row_of(page, "org/<script>b</script>").wait_for()
        assert await page.locator("main img[src], main script").count() == 0


async def test_words_of_nodes_are_only_text_and_what_is_not_believed_is_said(
    tmp_path: Path, visit: Visits
) -> None:
    long = Waits(breaker=Pauses(60.0))
    words = '<img src=x onerror="document.title=1">\x1b[2J\u202e'
    names = ["m1", "<b>cold</b>", "x" * 300_000, "a\u202eb"]
    entries = [{"id": name, "created": 1, "status": "unloaded"} for name in names]
    routes = {
        "/v1/models": {"data": entries},
        "/v1/models/status": {"status": "unloaded"},
        "/v1/models/reload": {"status": "unloaded", "error": words + "e" * 100_000},
        "/v1/system/info": {"build": {"version": words}},
    }
    node = RawNode(
        routes={path: saying(whole(json.dumps(body).encode())) for path, body in routes.items()}
    )
    async with node, running(tmp_path, [node], waits=long) as gateway:
        assert (await gateway.chat("<b>cold</b>")).code == "model_failing"
        page = await visit(gateway)
        await card_of(page, "n0").get_by_text("2 of its model ids are not believed").wait_for()
        await page.get_by_role("link", name="Models").click()
        row = row_of(page, "<b>cold</b>")
        await row.get_by_role("button", name="Details of <b>cold</b>").click()
        failing = page.get_by_role("dialog", name="<b>cold</b>").get_by_text("Failing: ")
        await failing.wait_for()
        assert '<img src=x onerror="document.title=1">' in await failing.inner_text()
        assert await page.locator("main img[src], main script, main b").count() == 0
        assert await page.title() != "1"


async def test_a_lost_connection_is_told_and_found_again(tmp_path: Path, visit: Visits) -> None:
    visit.expected += ["ERR_", "Failed to load resource"]
    async with two() as node, running(tmp_path, [node]) as gateway:
        page = await visit(gateway)
        link = page.locator("#link")
        await link.filter(has_text="live").wait_for()
        await page.context.set_offline(True)
        gateway.services.keyring = type(gateway.services.keyring)([])  # ends the stream
        await link.filter(has_text="connection lost").wait_for()
        await page.context.set_offline(False)
        await link.filter(has_text="live").wait_for()
        await card_of(page, "n0").wait_for()


async def test_what_is_wrong_is_said_and_moves_nothing(tmp_path: Path, visit: Visits) -> None:
    async with two() as node, running(tmp_path, [node], toml=SIZED) as gateway:
        page = await visit(gateway)
        card = card_of(page, "n0")
        at = await card.bounding_box()
        await node.stop()
        await card.get_by_text("down", exact=True).wait_for()
        await page.get_by_text("impaired").wait_for()
        await page.locator("summary", has_text="reasons").click()
        reasons = page.locator(".trouble li")
        await reasons.filter(has_text="node n0 is down").wait_for()
        assert await card.bounding_box() | {"height": 0} == at | {"height": 0}
        await page.keyboard.press("Escape")
        await reasons.first.wait_for(state="hidden")
