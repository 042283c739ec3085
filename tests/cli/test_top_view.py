"""What `cortex top` draws, at many sizes, from pictures made by hand."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from cortex.adminapi import (
    ConsideredBody,
    EventRow,
    ExplainBody,
    HealthBody,
    ModelOnNode,
    QueueBody,
)
from cortex.cli.tables import Column
from cortex.cli.top_bar import ASCII, UNICODE, bar
from cortex.cli.top_keys import Extent, Pane, View
from cortex.cli.top_layout import allot, grid
from cortex.cli.top_picture import Picture
from cortex.cli.top_rows import TABLES, Drawn, chosen
from cortex.cli.top_view import Lost, Scene, full, page
from cortex.liveapi import LiveFleet, LiveFrame, LiveNode, LiveRequest

NOW_MS = 1_800_000_000_000
NASTY = "evil\x1b]0;owned\x07\x1b[2J\r\n[red]x[/red]\u202egpj\u200b"
SIZES = [(60, 15), (61, 16), (80, 24), (100, 30), (132, 43), (200, 60), (400, 120)]


def node(name: str, **more: Any) -> LiveNode:
    memory = {"vram_total_mib": 40_960, "vram_used_mib": 20_480, "vram_known_mib": 16_384}
    return LiveNode(
        **(
            {"name": name, "endpoint": "x", "health": "up", **memory, "vram_outside_mib": 4096}
            | more
        )
    )


def model(name: str, at: str, status: str = "loaded", **more: Any) -> ModelOnNode:
    return ModelOnNode(model=name, node=at, status=status, **({"size_mib": 8192} | more))


def request(name: str, age_s: float, **more: Any) -> LiveRequest:
    fields = {"request_id": "r", "route": "/v1/chat/completions", "dialect": "openai"}
    at_ms = NOW_MS - round(age_s * 1000)
    return LiveRequest(
        **(fields | {"state": "answering", "model": name, "started_at_ms": at_ms} | more)
    )


def fleet(**more: Any) -> LiveFleet:
    fields = {
        "version": "0.1.0",
        "health": HealthBody(status="ok"),
        "started_at_ms": NOW_MS - 60_000,
    }
    return LiveFleet(**(fields | more))


def frame(at_ms: int = NOW_MS, **more: Any) -> LiveFrame:
    return LiveFrame(at_ms=at_ms, **more)


def picture(names: tuple[str, str] = ("big", "small"), *, rows: int = 1) -> Picture:
    one, two = names
    whole = frame(
        fleet=fleet(in_flight=3, queued=2, requests_total=7),
        nodes={str(i): node(f"n{i}") for i in range(rows)},
        models={
            "a": model(one, "n0", pinned=True, tokens_per_s=48.2, in_flight=2),
            "b": model(two, "n0", "draining"),
            "c": model("coming", "n0", "loading"),
            "d": model("absent", "n0", "unloaded", size_mib=None),
        },
        requests={
            "1": request(one, 3.0, node="n0", client="ann", stream=True, events=40, events_per_s=13.3),
            "2": request(two, 9.0, state="waiting", client="bob"),
        },
        queues={"q": QueueBody(model=two, waiting=2, oldest_at_ms=NOW_MS - 9000, clients={"bob": 2}, reason="n0 is full")},
        events=[
            EventRow(id=1, at_ms=NOW_MS, kind="load", reason="asked for", node="n0", model=one),
            EventRow(id=2, at_ms=NOW_MS, kind="evict", reason="oldest", node="n0", model=two),
        ],
    )  # fmt: skip
    return Picture().after(whole, whole=True)


def drawn(scene: Scene, width: int, height: int) -> tuple[list[str], Extent]:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    shown, extent = full(scene, width, height)
    with console.capture() as capture:
        console.print(shown)
    return capture.get().splitlines(), extent


def names(pane: Pane, view: View, of: Picture | None = None) -> list[str]:
    rows = chosen(pane, of or picture(), view, Drawn(NOW_MS))
    return [row.cells()[0].plain for row in rows]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", [1, 500])
@pytest.mark.parametrize(
    "view", [View(), View(help=True), View(focus=Pane.EVENTS, typing=True)]
)
def test_every_size_is_filled_exactly(size: tuple[int, int], rows: int, view: View):
    width, height = size
    for lost in (None, Lost(NOW_MS, 3.0, "connection refused " * 9)):
        lines, _ = drawn(Scene(picture(rows=rows), NOW_MS, view, lost), width, height)
        assert len(lines) == height
        assert {len(line) for line in lines} == {width}


def test_the_smallest_size_has_rows_of_the_focused_table_and_a_title_for_each():
    for pane in Pane:
        lines, extent = drawn(Scene(picture(rows=30), NOW_MS, View(focus=pane)), 60, 15)
        assert extent.visible >= 1
        for other in Pane:
            assert any(f" {other + 1} {TABLES[other].title} " in line for line in lines)


def test_what_is_shown():
    text = "\n".join(drawn(Scene(picture(), NOW_MS), 140, 40)[0])
    assert "up 1m00s" in text
    assert "3 in flight  2 queued  7 done" in text
    assert "resident" in text
    assert "loading" in text
    assert "draining" in text
    assert "pinned" in text
    for words in (["big", "n0", "ann", "answering", "3.0s", "40", "13.3"], ["bob", "waiting", "9.0s"]):  # fmt: skip
        assert any(all(word in line for word in words) for line in text.splitlines())
    assert any("bob x2" in line and "n0 is full" in line for line in text.splitlines())
    assert text.index("oldest") < text.index("asked for")


def test_names_from_elsewhere_move_nothing():
    nasty = picture((NASTY, NASTY))
    scene = Scene(nasty, NOW_MS, View(filter="evil"), Lost(NOW_MS, 1.0, NASTY))
    lines, _ = drawn(scene, 200, 60)
    lines += [line.plain for line in page(scene, 10_000)]
    assert any("evil\\x1b]0;owned" in line for line in lines)
    assert not any(char in line for line in lines for char in "\x1b\x07\r\n\u202e\u200b")


def test_before_the_first_answer_and_after_the_last():
    lines, _ = drawn(Scene(Picture(), 0), 80, 24)
    assert "waiting for the gateway" in lines[1]
    lines, _ = drawn(Scene(Picture(), 0, lost=Lost(NOW_MS, 2.0, "refused")), 80, 24)
    assert "no answer at" in lines[1]
    lines, _ = drawn(Scene(picture(), NOW_MS, lost=Lost(NOW_MS, 2.0, "refused")), 80, 24)
    assert "stale: as it was at" in lines[2]
    assert "2.0s ago; refused" in lines[2]


def test_sorting_and_reversing():
    def models(order: int, *, reverse: bool = False) -> list[str]:
        view = View(sorts=(0, order, 0, 0, 0), reversed=(False, reverse, False, False, False))
        return names(Pane.MODELS, view)

    assert models(0) == ["coming", "small", "big", "absent"]
    assert models(0, reverse=True) == ["absent", "big", "small", "coming"]
    assert models(1) == ["absent", "big", "coming", "small"]
    assert models(3)[0] == "big"
    # What is unknown comes last both ways.
    assert models(4) == ["big", "absent", "coming", "small"]
    assert models(4, reverse=True) == ["big", "absent", "coming", "small"]
    assert names(Pane.REQUESTS, View()) == ["small", "big"]


def test_the_filter_looks_at_every_table():
    assert names(Pane.MODELS, View(filter="PINNED")) == ["big"]
    assert names(Pane.REQUESTS, View(filter="ann")) == ["big"]
    assert names(Pane.QUEUE, View(filter="bob")) == ["small"]
    assert names(Pane.NODES, View(filter="nowhere")) == []
    lines, _ = drawn(Scene(picture(), NOW_MS, View(filter="nowhere")), 100, 30)
    assert any("no row with the filter's text" in line for line in lines)


def test_scrolling_shows_other_rows_and_says_which():
    tops = (20, 0, 0, 0, 0)
    lines, extent = drawn(
        Scene(picture(rows=100), NOW_MS, View(tops=tops, cursors=tops)), 80, 24
    )
    assert any(f"21-{20 + extent.visible} of 100" in line for line in lines)
    far = (1000, 0, 0, 0, 0)
    beyond = View(tops=far, cursors=far)
    lines, _ = drawn(Scene(picture(rows=100), NOW_MS, beyond), 80, 24)
    assert any("-100 of 100" in line for line in lines)


def test_the_cursor_is_seen_without_colour_and_names_its_model():
    view = View(focus=Pane.MODELS, sorts=(0, 1, 0, 0, 0), cursors=(0, 2, 0, 0, 0))
    shown, extent = full(Scene(picture(), NOW_MS, view), 100, 40)
    assert extent.models == ("absent", "big", "coming", "small")
    reversed_ = [
        str(line)
        for line in shown.renderables
        for span in line.spans
        if isinstance(line, Text) and "reverse" in str(span.style)
    ]
    assert any(line.startswith("coming") for line in reversed_)
    assert not any(line.startswith("big") for line in reversed_)
    assert full(Scene(picture(), NOW_MS, View()), 100, 40)[1].models == ("",)


def test_why_a_model_is_where_it_is():
    body = ExplainBody(
        model=NASTY,
        decision="load",
        node=NASTY,
        reason=NASTY,
        evict=[NASTY],
        load_eta_s=31.4,
        considered=[
            ConsideredBody(node=NASTY, verdict="chosen", detail=NASTY, need_mib=8192),
            ConsideredBody(node="n1", verdict="no_room"),
        ],
    )
    for why in (body, NASTY, None):
        scene = Scene(picture(), NOW_MS, View(why=NASTY), why=why)
        for width, height in SIZES:
            lines, _ = drawn(scene, width, height)
            assert len(lines) == height
            assert {len(line) for line in lines} == {width}
            assert not any(char in "".join(lines) for char in "\x1b\x07\u202e")
    text = "\n".join(drawn(Scene(picture(), NOW_MS, View(why="m"), why=body), 200, 40)[0])
    assert "the load takes about 31.4s" in text
    assert "no room" in text
    asking = drawn(Scene(picture(), NOW_MS, View(why="m")), 100, 20)[0]
    assert any("asking the gateway" in line for line in asking)


def test_a_load_shows_its_time_and_a_drain_what_it_waits_for():
    since = {"loading_since_ms": NOW_MS - 12_900}
    models = {
        "a": model("a", "n0", "loading", **since),
        "b": model("b", "n0", "loading", load_s=31.4, **since),
        "c": model("c", "n0", "draining", in_flight=2),
        "d": model("d", "n0", "draining"),
    }
    whole = Picture().after(frame(models=models), whole=True)
    rows = chosen(Pane.MODELS, whole, View(sorts=(0, 1, 0, 0, 0)), Drawn(NOW_MS))
    assert [row.cells()[3].plain for row in rows] == [
        "loading 12s",
        "loading 12s/31s",
        "draining, 2 to go",
        "draining",
    ]


def test_a_bar_has_a_letter_for_each_model_and_a_sign_for_each_kind():
    held = [model("y", "n", size_mib=8192), model("x", "n", size_mib=8192)]
    shown = bar(node("n", vram_reserved_mib=8192), held, width=20, glyphs=UNICODE)
    assert shown.plain == "a███b███▒▒▒▒▚▚······"
    shown = bar(node("n", vram_reserved_mib=8192), held, width=20, glyphs=ASCII)
    assert shown.plain == "a###b###====xx......"
    unknown = node("n", sizes_known=False, vram_known_mib=0)
    assert bar(unknown, [], width=10, glyphs=UNICODE).plain == "?·········"
    wedged = [model("x", "n", "wedged")]
    assert bar(node("n"), wedged, width=10, glyphs=UNICODE).plain == "+███▚·····"
    assert bar(node("n", vram_total_mib=None), [], width=10, glyphs=UNICODE).plain == "–"


@given(
    st.lists(st.integers(0, 90_000), max_size=40),
    st.integers(0, 90_000),
    st.integers(0, 90_000),
    st.integers(1, 60),
)
def test_a_bar_is_as_wide_as_it_should_be(
    sizes: list[int], reserved: int, outside: int, width: int
):
    held = [model(f"m{i:02}", "n", size_mib=mib) for i, mib in enumerate(sizes)]
    host = node(
        "n", vram_reserved_mib=reserved, vram_outside_mib=outside, vram_known_mib=sum(sizes)
    )
    assert bar(host, held, width=width, glyphs=UNICODE).cell_len == width


@given(
    st.lists(st.integers(0, 30), min_size=5, max_size=5), st.integers(0, 4), st.integers(-5, 80)
)
def test_rooms_are_shared_out_whole(wanted: list[int], focus: int, room: int):
    given_rows = allot(wanted, focus, room)
    assert sum(given_rows) == max(0, min(room, sum(wanted)))
    assert all(has <= wants for has, wants in zip(given_rows, wanted, strict=True))
    if room > 0 and wanted[focus]:
        assert given_rows[focus] >= 1


def test_columns_shrink_where_they_may():
    from rich.text import Text

    columns = (Column("name", elastic=True), Column("number", right=True))
    layout = grid(columns, [[Text("x" * 50), Text("7")]], 30)
    assert layout.line([Text("x" * 50), Text("7")], columns).plain == "x" * 22 + "… " + "     7"


def test_frames_make_pictures():
    first = picture()
    changed = first.after(
        frame(NOW_MS + 500, models={"a": None, "e": model("new", "n0")}, requests={"2": None}),
        whole=False,
    )
    assert set(changed.models) == {"b", "c", "d", "e"}
    assert set(changed.requests) == {"1"}
    assert changed.fleet == first.fleet
    assert len(changed.events) == 2
    again = changed.after(frame(NOW_MS + 900, fleet=fleet()), whole=True)
    assert (dict(again.models), again.events, len(again.samples)) == ({}, (), 1)
    assert Picture().after(changed.frame(), whole=True).models == changed.models


def test_rates_are_taken_over_the_last_seconds():
    seen = Picture()
    assert seen.requests_per_s(NOW_MS) is None
    for step in range(60):
        told = frame(
            NOW_MS + step * 500,
            fleet=fleet(requests_total=100 + step),
            requests={"1": request("m", 0, stream=True, events=1000 + 10 * step)},
        )
        seen = seen.after(told, whole=step == 0)
    assert len(seen.samples) < 30
    now_ms = NOW_MS + 59 * 500
    assert seen.requests_per_s(now_ms) == pytest.approx(2.0)
    assert seen.tokens_per_s(now_ms) == pytest.approx(20.0)
    assert seen.requests_per_s(now_ms + 60_000) == 0.0
    assert picture().tokens_per_s(NOW_MS + 100) is None


def test_a_picture_on_a_pipe_has_every_row():
    lines = [line.plain for line in page(Scene(picture(rows=300), NOW_MS), 10_000)]
    assert sum(line.startswith("n") and " up " in line for line in lines) == 300
