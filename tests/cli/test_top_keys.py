"""Keys: from bytes to names, and from names to views. No terminal is needed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.cli.top_keys import Extent, Keys, Pane, View, press

EXTENT = Extent(rows=50, visible=10, orders=4)
NAMES = [
    "q", "s", "r", "/", "escape", "enter", "backspace", "kill", "tab", "back tab", "up", "down",
    "page up", "page down", "home", "end", "1", "2", "3", "4", "5", "6", "p", "?", "j", "k", "x", "é",
]  # fmt: skip


def pressed(*keys: str, view: View | None = None, extent: Extent = EXTENT) -> View:
    view = view or View()
    for key in keys:
        view = press(view, key, extent)
    return view


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]),
        (b"\t\r\x7f", ["tab", "enter", "backspace"]),
        (b"\x1b[A\x1b[B\x1bOA", ["up", "down", "up"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[F", ["page up", "page down", "home", "end"]),
        (b"\x1b[Z", ["back tab"]),
        ("é日".encode(), ["é", "日"]),
        (b"\x1b[15~s", ["s"]),
        (b"\x1bq", ["escape", "q"]),
        (b"\x00\x01\x02", []),
        (b"\xff", ["\ufffd"]),
    ],
)
def test_bytes_become_keys(data: bytes, keys: list[str]):
    assert Keys().feed(data) == keys


def test_an_esc_waits_for_what_may_follow():
    keys = Keys()
    assert keys.feed(b"\x1b") == []
    assert keys.waits
    assert keys.flush() == ["escape"]
    assert not keys.waits
    assert keys.flush() == []


@given(st.binary(max_size=40), st.integers(0, 40))
def test_keys_are_the_same_however_the_bytes_are_cut(data: bytes, at: int):
    whole, halves = Keys(), Keys()
    assert halves.feed(data[:at]) + halves.feed(data[at:]) == whole.feed(data)
    assert halves.flush() == whole.flush()


def test_digits_and_tab_choose_a_table():
    assert pressed("3").focus is Pane.REQUESTS
    assert pressed("5", "tab").focus is Pane.NODES
    assert pressed("back tab").focus is Pane.EVENTS
    assert pressed("6") == View()
    assert pressed("0") == View()
    assert pressed("²") == View()


def test_sort_goes_round_for_the_focused_table_only():
    view = pressed("2", "s", "s", "r")
    assert view.sorts == (0, 2, 0, 0, 0)
    assert view.reversed == (False, True, False, False, False)
    assert pressed("s", "s", "s", "s").sorts == (0,) * 5


def place(view: View) -> tuple[int, int]:
    """The first row on show, and the cursor's."""
    return view.tops[0], view.cursors[0]


def test_the_cursor_stays_within_the_rows_and_in_sight():
    assert place(pressed("up")) == (0, 0)
    assert place(pressed("down", "j", "k")) == (0, 1)
    assert place(pressed("page down")) == (0, 9)
    assert place(pressed("page down", "down")) == (1, 10)
    assert place(pressed("end")) == (40, 49)
    assert place(pressed("end", "down", "page down")) == (40, 49)
    assert place(pressed("end", "page up", "up")) == (39, 39)
    assert place(pressed("end", "home")) == (0, 0)
    # Rows that went away in between do not make the next key do nothing.
    fewer = replace(EXTENT, rows=20)
    assert place(press(pressed("end"), "up", fewer)) == (10, 18)


def test_enter_explains_the_model_of_the_row():
    assert pressed("enter") == View()
    chosen = replace(EXTENT, models=("", "org/a") + ("org/b",) * 48)
    assert pressed("enter", extent=chosen) == View()
    # However fast the keys come.
    view = pressed("down", "enter", extent=chosen)
    assert view.why == "org/a"
    back = replace(view, why="")
    assert pressed("x", view=view) == pressed("enter", view=view, extent=chosen) == back
    assert pressed("q", view=view).quit
    # While a filter is typed, Enter ends that.
    assert pressed("/", "enter", extent=chosen).why == ""


def test_a_filter_is_typed_kept_and_cleared():
    assert pressed("/", "q", "s", "backspace").filter == "q"
    kept = pressed("/", "a", "b", "enter")
    assert (kept.filter, kept.typing, kept.quit) == ("ab", False, False)
    assert pressed("escape", view=kept).filter == ""
    assert pressed("/", "a", "escape") == View()
    assert pressed("/", "a", "kill") == View(typing=True)
    assert len(pressed("/", *"x" * 200).filter) == 60
    assert pressed("/", "up", "a").filter == "a"
    assert pressed("end", "/", "a").tops[0] == 0


def test_pause_help_and_quit():
    assert pressed("p").paused
    assert not pressed("p", "p").paused
    assert pressed("?").help
    assert pressed("?", "s") == View()
    assert pressed("?", "q").quit
    assert pressed("q").quit
    assert pressed("x") == View()


@given(st.lists(st.sampled_from(NAMES), max_size=40), st.integers(0, 60), st.integers(0, 60))
def test_no_keys_lead_out_of_bounds(keys: list[str], rows: int, visible: int):
    extent = Extent(rows=rows, visible=min(rows, visible), orders=4)
    view = View()
    for key in keys:
        if view.quit:
            break
        view = press(view, key, extent)
        assert all(0 <= top <= rows - extent.visible for top in view.tops)
        assert all(0 <= cursor <= max(0, rows - 1) for cursor in view.cursors)
        if extent.visible:
            top, cursor = view.tops[view.focus], view.cursors[view.focus]
            assert top <= cursor < top + extent.visible
        assert all(0 <= order < 4 for order in view.sorts)
