"""Bodies that a node refuses, in the form it takes."""

from typing import Any

import pytest

from cortex.core.amend import Amendment, amended, wish

LIMIT, TEXT = Amendment.ONE_LIMIT, Amendment.JOINED_TEXT
REFUSED_PARTS = "Role for an image message must be `user`, but it is system"
DUPLICATE = "duplicate field `max_tokens` at line 1 column 40"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (DUPLICATE, LIMIT),
        (f"Failed to deserialize the JSON body into the target type: {DUPLICATE}", LIMIT),
        (REFUSED_PARTS, TEXT),
        ("Role for an image message must be user, but it is tool", TEXT),
        ("duplicate field `temperature` at line 1 column 40", None),
        ("max_tokens must be at least 1.", None),
        (f"my prompt says: {REFUSED_PARTS}", None),
    ],
)
def test_the_words_say_what_the_node_would_take(words: str, wanted: Amendment | None) -> None:
    assert wish(words) is wanted


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"max_tokens": 4, "max_completion_tokens": 9}, {"max_completion_tokens": 9}),
        ({"max_tokens": 4, "max_completion_tokens": None}, {"max_tokens": 4}),
        ({"max_tokens": None, "max_completion_tokens": 0}, {"max_completion_tokens": 0}),
        ({"max_tokens": None, "max_completion_tokens": None}, {"max_tokens": None}),
    ],
)
def test_one_limit_is_left_and_the_newer_name_wins(
    limits: dict[str, Any], left: dict[str, Any]
) -> None:
    assert amended({"model": "m", **limits}, {LIMIT}) == {"model": "m", **left}


def text(*texts: str, **more: str) -> dict[str, Any]:
    return {"role": "system", "content": [{"type": "text", "text": t} for t in texts], **more}


def test_text_parts_are_joined_save_for_a_users_and_for_what_is_no_text() -> None:
    mixed = {"role": "tool", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    untouched = [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": []},
        mixed,
        "no message",
    ]
    body = {"messages": [text("one", "two", name="n"), *untouched]}
    assert amended(body, {TEXT}) == {
        "messages": [{"role": "system", "content": "one\ntwo", "name": "n"}, *untouched]
    }
    assert body["messages"][0] == text("one", "two", name="n"), "the original is as it was"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"max_tokens": 3, "messages": "a string"},
        {
            "max_completion_tokens": 3,
            "messages": [{"role": "user", "content": [{"text": "a"}]}],
        },
    ],
)
def test_nothing_to_change_is_said(body: dict[str, Any]) -> None:
    assert amended(body, {LIMIT, TEXT}) is None
