"""Anthropic requests as chat requests: nothing lost that a node could honour, nothing sent that it refuses."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import RequestError
from cortex.core.translate.request import read_messages_request

TOOL = {"name": "f", "input_schema": {"type": "object"}}


def chat(**fields: Any) -> dict[str, Any]:
    wanted = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    return read_messages_request(wanted | fields).chat


def messages(*turns: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat(messages=list(turns), **fields)["messages"]
    return found


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def use(call_id: str, **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "f", "input": given}


def result(call_id: str, content: Any = "ok", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content} | more


def test_results_come_first_and_images_after_them() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    picture = {"type": "image", "source": source}
    made = messages(
        user(text("go")),
        assistant(text("I look"), use("a:1", x=1), use("b")),
        user(text("here"), result("b", [picture, text("seen")]), result("a:1", is_error=True)),
    )
    assert made[1:] == [
        {
            "role": "assistant",
            "content": "I look",
            "tool_calls": [
                {
                    "id": "a_1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"x": 1}'},
                },
                {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "b", "content": "[image]\nseen"},
        {"role": "tool", "tool_call_id": "a_1", "content": "Error: ok"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "text", "text": "here"},
            ],
        },
    ]


def test_system_turns_join_the_head_or_the_users_words() -> None:
    made = messages(
        {"role": "system", "content": "late rules"},
        user(text("go")),
        assistant(use("a")),
        {"role": "system", "content": "new tools"},
        user(result("a")),
        {"role": "system", "content": "be brief"},
        system=[text("x-anthropic-billing-header: 1"), text("rules")],
    )
    assert [(m["role"], m["content"]) for m in made] == [
        ("system", "rules\nlate rules"),
        ("user", "go"),
        ("assistant", ""),
        ("tool", "ok"),
        ("user", "new tools\nbe brief"),
    ]


def test_thoughts_go_back_only_within_a_tool_loop() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    made = messages(
        user(text("one")),
        assistant(thought, text("done")),
        user(text("two")),
        assistant(thought, use("a")),
        user(result("a")),
    )
    assert [m.get("reasoning_content") for m in made if m["role"] == "assistant"] == [
        None,
        "hm",
    ]


block = st.one_of(
    st.builds(text, st.text(max_size=5)),
    st.builds(use, st.sampled_from(["a", "b", "c:1"])),
    st.builds(result, st.sampled_from(["a", "b", "c:1"])),
    st.just({"type": "thinking", "thinking": "x", "signature": "y"}),
    st.just({"type": "redacted_thinking", "data": "z"}),
)
turn = st.builds(
    lambda role, blocks: {"role": role, "content": blocks},
    st.sampled_from(["user", "assistant", "system"]),
    st.lists(block, max_size=3) | st.text(max_size=4),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(turn, min_size=1, max_size=6))
def test_adjacency_holds_for_whatever_is_accepted(turns: list[dict[str, Any]]) -> None:
    try:
        made = messages(*turns)
    except RequestError as refused:
        assert refused.message
        return
    open_calls: list[str] = []
    for number, entry in enumerate(made):
        assert entry["role"] != "system" or number == 0
        if entry["role"] == "tool":
            open_calls.remove(entry["tool_call_id"])
            assert isinstance(entry["content"], str)
        else:
            assert open_calls == []
            open_calls = [c["id"] for c in entry.get("tool_calls", [])]
    assert open_calls == []
    assert made[-1]["role"] in ("user", "tool")


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, {"enable_thinking": False}),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, {"enable_thinking": True, "reasoning_effort": "high"}),
        ({"thinking": {"type": "adaptive"}}, {"enable_thinking": True}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "xhigh"}),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
        ),
        ({"tool_choice": {"type": "any"}}, {}),
        ({"temperature": 0, "top_k": 3, "stop_sequences": ["x"]}, {"temperature": 0, "top_k": 3, "stop": ["x"]}),
        ({"stop_sequences": []}, {}),
        ({"metadata": {"user_id": "u" * 300}, "service_tier": "auto", "betas": ["b"]}, {}),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, {}),
        ({"tools": [TOOL | {"defer_loading": True}], "tool_choice": {"type": "any"}}, {}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"a": 1}}}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "output", "schema": {"a": 1}}}},
        ),
    ],
)  # fmt: skip
def test_fields(fields: dict[str, Any], sent: dict[str, Any]) -> None:
    plain, made = chat(), chat(**fields)
    made.pop("tools", None)
    assert {key: value for key, value in made.items() if plain.get(key) != value} == sent


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [user({"type": "image", "source": {"type": "file"}})]}, "messages.0.content.0"),
        ({"messages": [user(result("a"))]}, "messages.0.content.0"),
        ({"messages": [user(text("x")), assistant(use("a")), user(text("y"))]}, "messages.2.content.0"),
        ({"messages": [user(text("x")), assistant(text("y"))]}, "messages"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"output_config": {"effort": "extreme"}}, "output_config.effort"),
        ({"temperature": "hot"}, "temperature"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ],
)  # fmt: skip
def test_mistakes_name_their_place(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(RequestError) as refused:
        chat(**fields)
    assert refused.value.param == where


def test_a_deferred_tool_is_there_once_a_search_has_named_it() -> None:
    reference = {"type": "tool_reference", "tool_name": "late"}
    tools = [TOOL, TOOL | {"name": "late", "defer_loading": True}]
    history = [user(text("x")), assistant(use("a")), user(result("a", [reference]))]
    made = chat(tools=tools, messages=history)
    assert [tool["function"]["name"] for tool in made["tools"]] == ["f", "late"]
    assert [tool["function"]["name"] for tool in chat(tools=tools)["tools"]] == ["f"]
