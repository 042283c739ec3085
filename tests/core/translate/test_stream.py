"""Chat completions streams as Anthropic events: valid sequences, the same however they are cut."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.translate.reading import ComplaintError, TruncatedError
from cortex.core.translate.stream import MessageStream, WholeMessage, encoded

Delta = dict[str, Any]


def line(delta: Delta | None = None, finish: str | None = None, usage: Any = None) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"id": "3", "choices": choices, "usage": usage}
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 9, "completion_tokens": 4}


def call(index: int | None, call_id: str | None, name: str | None, arguments: str) -> Delta:
    fragment: Delta = {"function": {"arguments": arguments}}
    if index is not None:
        fragment["index"] = index
    if call_id is not None:
        fragment["id"] = call_id
    if name is not None:
        fragment["function"]["name"] = name
    return fragment


def run(data: bytes, sizes: list[int] | None = None, **options: Any) -> list[dict[str, Any]]:
    stream = MessageStream("msg_1", "m", **options)
    events = stream.start()
    at = 0
    for size in [*(sizes or []), len(data)]:
        events += stream.feed(data[at : at + size])
        at += size
    return events + stream.end()


def message(data: bytes, **options: Any) -> dict[str, Any]:
    whole = WholeMessage()
    for event in run(data, **options):
        whole.take(event)
    return whole.message


def check(events: list[dict[str, Any]]) -> None:
    """The invariants of a sequence: one open block, indices in order, the end last and once."""
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("message_start") == kinds.count("message_stop") == 1
    open_block: dict[str, Any] | None = None
    expected = 0
    said = 0
    fits = {
        "text": {"text_delta"},
        "thinking": {"thinking_delta", "signature_delta"},
        "tool_use": {"input_json_delta"},
    }
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert open_block is None
                assert event["index"] == expected
                open_block, said = event["content_block"], 0
            case "content_block_delta":
                assert open_block is not None
                assert event["index"] == expected
                assert event["delta"]["type"] in fits[open_block["type"]]
                said += 1
            case "content_block_stop":
                assert open_block is not None
                # No empty text block: it would be refused when the history comes back.
                assert said or open_block["type"] != "text"
                open_block, expected = None, expected + 1
            case "message_delta":
                assert open_block is None
                assert event["delta"]["stop_reason"]
                assert event["usage"]["input_tokens"] >= 0
            case _:
                pass


words = st.text(min_size=0, max_size=6)
deltas = st.one_of(
    st.builds(lambda t: {"role": "assistant", "content": t}, words | st.none()),
    st.builds(lambda t: {"reasoning_content": t}, words),
    st.builds(
        lambda i, n, a: {"tool_calls": [call(i, f"c:{i}" if n else None, n, a)]},
        st.integers(0, 2),
        st.sampled_from(["f", "g", None]),
        st.sampled_from(["", "{", '{"a":1}', "null", "é"]),
    ),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(deltas, max_size=8),
    st.sampled_from(["stop", "length", "tool_calls", "generated_image"]),
    st.lists(st.integers(0, 12), max_size=40),
    st.booleans(),
    st.booleans(),
)
def test_every_sequence_is_valid_and_the_same_however_it_is_cut(
    made: list[Delta], finish: str, sizes: list[int], crlf: bool, packed: bool
) -> None:
    lines = [line(delta) for delta in made]
    # The end, and with it the usage, in a chunk with content or in one of its own.
    if packed and made:
        lines[-1] = line(made[-1], finish, USAGE)
    else:
        lines.append(line({}, finish) + line(usage=USAGE))
    data = b":\n\n".join(lines) + DONE
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    whole = run(data)
    check(whole)
    assert run(data, sizes) == whole
    assert run(data, [1] * len(data)) == whole
    told = whole[-2]
    assert told["usage"]["input_tokens"] == 9
    assert told["usage"]["output_tokens"] == 4
    texts = "".join(delta.get("content") or "" for delta in made)
    said = "".join(
        event["delta"].get("text", "")
        for event in whole
        if event["type"] == "content_block_delta"
    )
    # Blanks behind a tool call are not worth a block of their own.
    called = any("tool_calls" in delta for delta in made)
    assert texts == said or (
        called and texts.startswith(said) and not texts[len(said) :].strip()
    )


def test_text_call_end_and_usage_in_one_chunk() -> None:
    data = line(
        {"content": "so", "tool_calls": [call(0, "call-1", "f", '{"x": 1}')]},
        "tool_calls",
        USAGE,
    )
    answer = message(data + DONE)
    assert answer["content"] == [
        {"type": "text", "text": "so"},
        {"type": "tool_use", "id": "call-1", "name": "f", "input": {"x": 1}},
    ]
    assert answer["stop_reason"] == "tool_use"


def test_interleaved_calls_come_apart() -> None:
    data = (
        line({"tool_calls": [call(0, "a:1", "f", '{"x"')]})
        + line({"tool_calls": [call(1, "b", "g", '{"y"')]})
        + line({"tool_calls": [call(0, None, None, ":1}")]})
        + line({"tool_calls": [call(1, None, None, ":2}")]}, "stop")
        + DONE
    )
    blocks = message(data)["content"]
    assert [(b["id"], b["name"], b["input"]) for b in blocks] == [
        ("a_1", "f", {"x": 1}),
        ("b", "g", {"y": 2}),
    ]
    # A call is one, whatever the node gave as its reason.
    assert message(data)["stop_reason"] == "tool_use"
    assert len(message(data, one_call=True)["content"]) == 1


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("", {}),
        ("null", {}),
        ("{", {"_raw": "{"}),
        ("[1]", {"_raw": "[1]"}),
        ('{"a":2}', {"a": 2}),
    ],
)
def test_arguments_are_always_an_object(arguments: str, given: dict[str, Any]) -> None:
    data = line({"tool_calls": [call(0, "i", "f", arguments)]}, "tool_calls") + DONE
    assert message(data)["content"][0]["input"] == given


def test_thoughts_can_be_left_out() -> None:
    data = line({"reasoning_content": "hm"}) + line({"content": "so"}, "stop") + DONE
    shown, hidden = message(data), message(data, hides_thinking=True)
    assert shown["content"][0]["thinking"] == "hm"
    assert hidden["content"][0]["thinking"] == ""
    assert hidden["content"][0]["signature"]
    assert hidden["content"][1] == {"type": "text", "text": "so"}


@pytest.mark.parametrize(
    "said",
    [
        b'data: {"error": {"message": "boom"}}\n\n',
        b"data: boom\n\n",
        b'data: {"error": "boom"}\n\n',
    ],
)
def test_a_complaint_is_raised_with_its_words(said: bytes) -> None:
    with pytest.raises(ComplaintError, match="boom"):
        run(line({"content": "a"}) + said)


def test_an_end_that_was_not_told_is_none() -> None:
    with pytest.raises(TruncatedError):
        run(line({"content": "a"}))
    # Without [DONE], but with a reason: mistral.rs may end so.
    check(run(line({"content": "a"}, "stop")))


def test_a_stop_string_that_the_node_names_is_told() -> None:
    choice = {
        "index": 0,
        "delta": {"content": "a"},
        "finish_reason": "stop",
        "stop_reason": "###",
    }
    data = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n" + DONE
    answer = message(data)
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "###")


def test_cached_tokens_are_not_counted_twice() -> None:
    usage = USAGE | {"prompt_tokens_details": {"cached_tokens": 6}}
    counted = message(line({"content": "a"}, "stop", usage) + DONE)["usage"]
    assert (counted["input_tokens"], counted["cache_read_input_tokens"]) == (3, 6)


def test_every_event_has_its_name() -> None:
    for block in encoded(run(line({"content": "ü\n"}, "stop") + DONE)).decode().split("\n\n"):
        if block:
            name, data = block.split("\n")
            assert name == f"event: {json.loads(data[6:])['type']}"


def test_a_terminator_is_an_end_without_a_reason() -> None:
    answer = message(line({"content": "hello"}) + line({}) + DONE)
    assert (answer["stop_reason"], answer["content"]) == (
        "end_turn",
        [{"type": "text", "text": "hello"}],
    )
    made = message(line({"tool_calls": [call(0, "i", "f", "{}")]}) + DONE)
    assert made["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    "data",
    [
        line({"content": "a"}, "error") + DONE,
        line({"content": "a"}, "abort") + DONE,
        line({"content": "a"}, "canceled"),
        line({"content": "a"}, ""),
        line({"tool_calls": [call(0, "i", "f", '{"command": "rm -rf b')]}) + DONE,
        line({"content": "a"}) + b"data: [DO",
    ],
    ids=["error", "abort", "canceled", "an empty reason", "half a call", "half an end"],
)
def test_an_answer_that_was_cut_is_never_whole(data: bytes) -> None:
    with pytest.raises(TruncatedError):
        run(data)


@pytest.mark.parametrize(
    "between",
    [
        {"content": "\n"},
        {"content": "I look it up."},
        {"reasoning_content": "hm"},
        {"content": ""},
        {"role": "assistant"},
    ],
)
def test_nothing_between_its_fragments_breaks_a_call(between: Delta) -> None:
    data = (
        line({"tool_calls": [call(0, "i", "f", '{"x"')]})
        + line(between)
        + line({"tool_calls": [call(0, None, None, ": 1}")]})
        + line({}, "tool_calls", USAGE)
        + DONE
    )
    check(run(data))
    blocks = message(data)["content"]
    assert blocks[-1] == {"type": "tool_use", "id": "i", "name": "f", "input": {"x": 1}}
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    assert texts == ([between["content"]] if (between.get("content") or "").strip() else [])


def test_what_is_heard_is_more_than_what_is_told() -> None:
    stream = MessageStream("msg_1", "m", hides_thinking=True)
    for number in range(1, 4):
        told = stream.feed(line({"reasoning_content": "hm"}))
        assert bool(told) is (number == 1)
        assert stream.heard == number
    for number in range(4, 6):
        assert stream.feed(line({"tool_calls": [call(0, "i", "f", "{")]})) == []
        assert stream.heard == number
    for nothing in (b": keep-alive\n\n", b"data:\n\n", b'data: {"type": "ping"}\n\n'):
        assert stream.feed(nothing) == []
        assert stream.heard == 5


@pytest.mark.parametrize(
    "beside", [{"error": None}, {"error": ""}, {"error": False}, {"type": "chunk"}]
)
def test_an_error_that_is_none_is_none(beside: dict[str, Any]) -> None:
    chunk = {**beside, "choices": [{"index": 0, "delta": {"content": "a"}}]}
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n" + DONE
    assert message(data)["content"] == [{"type": "text", "text": "a"}]
