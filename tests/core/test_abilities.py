"""What models can do, by all that is said of them, and how long a prompt is at least."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.config.schema import KindName
from cortex.core.abilities import Known, abilities, least_tokens
from cortex.core.ids import ModelId, NodeName
from cortex.core.snapshot import FleetSnapshot, ModelView, NodeView, Weights
from cortex.core.traits import KINDS, Kind, Traits, combined, refused
from cortex.gateway.openai import ROUTES

A = ModelId("a")
CHAT, EMBEDDINGS = frozenset({Kind.CHAT}), frozenset({Kind.EMBEDDINGS})
TOO_LONG = "context_length_exceeded"


def node(name: str, *, size_mib: int | None = None, **said: object) -> NodeView:
    """A node that lists `a`; `said` are its sources by name, each a Traits (files: Weights)."""
    by_model = {source: {A: told} for source, told in said.items()}
    return NodeView(
        name=NodeName(name),
        models={A: ModelView(id=A, size_mib=size_mib)},
        **by_model,  # type: ignore[arg-type]
    )


def fleet(*nodes: NodeView, configured: Traits | None = None) -> FleetSnapshot:
    return FleetSnapshot(
        nodes={one.name: one for one in nodes},
        locations={A: tuple(one.name for one in nodes)},
        traits={} if configured is None else {A: configured},
    )


def test_nobody_says_anything_of_a_model() -> None:
    able = abilities(fleet(node("n0")), A)
    assert (able.context_tokens, able.kinds, able.size_mib, able.longest) == (None,) * 4
    assert able.never == {}


def test_who_is_believed_most() -> None:
    files = Weights(100, None, Traits(4096, CHAT, quantization="Q4_K_M"))
    sources = {
        "weights": files,
        "listed": Traits(8192, CHAT),
        "declined": Traits(2048),
    }
    whole = node("n0", **sources)
    able = abilities(fleet(whole, configured=Traits(1024)), A)
    assert able.context_tokens == Known(1024, "configuration")
    assert able.kinds == Known(CHAT, "node n0")
    assert able.quantization == Known("Q4_K_M", "agent beside n0")
    assert able.size_mib == Known(100, "agent beside n0")
    for left, context in (
        (("weights", "listed", "declined"), Known(2048, "refusal by n0")),
        (("weights", "listed"), Known(8192, "node n0")),
        (("weights",), Known(4096, "agent beside n0")),
    ):
        one = node("n0", **{source: sources[source] for source in left})
        assert abilities(fleet(one), A).context_tokens == context


def test_the_longest_of_all_nodes_counts_and_only_where_all_are_known() -> None:
    short, long = node("n0", listed=Traits(4096)), node("n1", listed=Traits(8192))
    assert abilities(fleet(short, long), A).longest == Known(8192, "node n1")
    able = abilities(fleet(short, node("n1")), A)
    assert able.context_tokens == Known(4096, "node n0")
    assert able.longest is None


def test_it_is_ruled_out_only_where_no_node_may_do_it() -> None:
    chats, unknown = node("n0", listed=Traits(kinds=CHAT)), node("n1")
    assert abilities(fleet(chats), A).never == {
        kind: "node n0" for kind in Kind if kind is not Kind.CHAT
    }
    assert abilities(fleet(chats, unknown), A).never == {}
    declined = node("n1", declined=Traits(not_kinds=EMBEDDINGS))
    assert abilities(fleet(chats, declined), A).never == {Kind.EMBEDDINGS: "node n0"}
    assert abilities(fleet(declined), A).never == {Kind.EMBEDDINGS: "refusal by n1"}


def test_files_of_a_chat_rule_out_no_embeddings() -> None:
    chats = Weights(100, None, Traits(kinds=CHAT))
    never = abilities(fleet(node("n0", weights=chats)), A).never
    assert Kind.EMBEDDINGS not in never
    assert never[Kind.SPEECH] == "agent beside n0"
    embeds = Weights(100, None, Traits(kinds=EMBEDDINGS))
    assert Kind.CHAT in abilities(fleet(node("n0", weights=embeds)), A).never


def test_the_configuration_goes_before_a_refusal() -> None:
    declined = node("n0", declined=Traits(not_kinds=EMBEDDINGS))
    configured = Traits(kinds=CHAT | EMBEDDINGS)
    able = abilities(fleet(declined, configured=configured), A)
    assert Kind.EMBEDDINGS not in able.never
    assert able.never[Kind.SPEECH] == "configuration"


def test_a_measured_size_goes_before_that_of_files() -> None:
    measured = node("n1", size_mib=9000)
    files = node("n0", weights=Weights(7000, None))
    assert abilities(fleet(files, measured), A).size_mib == Known(9000, "memory of n1")
    assert abilities(fleet(files), A).size_mib == Known(7000, "agent beside n0")


@pytest.mark.parametrize(
    ("code", "words", "tokens"),
    [
        (
            TOO_LONG,
            "Prompt sequence length is greater than 8192, perhaps consider using `truncate_sequence`?",
            8192,
        ),
        (
            TOO_LONG,
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
            4096,
        ),
        (TOO_LONG, "the prompt is too long", None),
        (TOO_LONG, "the prompt 'Prompt sequence length is greater than 20' is too long", None),
        (TOO_LONG, "Prompt sequence length is greater than 99999999999999, x", None),
        ("invalid_request", "Prompt sequence length is greater than 8192, x", None),
    ],
)
def test_a_refusal_tells_the_limit(code: str, words: str, tokens: int | None) -> None:
    told = refused(code, words, "chat")
    assert told == (None if tokens is None else Traits(tokens))


def test_a_refusal_tells_what_a_model_is_not_for() -> None:
    words = "Received a request incompatible for this model's category."
    told = refused("invalid_request", words, "embeddings")
    assert told == Traits(not_kinds=EMBEDDINGS)
    # Of a chat it may have been an image: that must not take the model from those who send none.
    assert refused("invalid_request", words, "chat") is None
    # A caller's text that has the words in it is none of them.
    assert refused("invalid_request", f"cannot parse: {words}", "embeddings") is None


def test_the_newest_word_of_a_source_counts() -> None:
    before = Traits(4096, CHAT, frozenset({Kind.IMAGE}), "Q8_0")
    now = Traits(8192, not_kinds=EMBEDDINGS)
    assert combined(before, now) == Traits(8192, CHAT, EMBEDDINGS | {Kind.IMAGE}, "Q8_0")


@pytest.mark.parametrize(
    ("fields", "least"),
    [
        ({"messages": [{"role": "user", "content": "one two three"}]}, 3),
        (
            {
                "system": "be brief",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "what is this"},
                            {"type": "image_url", "image_url": {"url": "data:x y z"}},
                        ],
                    },
                    {"role": "tool", "content": [{"type": "tool_result", "content": "a b"}]},
                ],
            },
            7,
        ),
        # Each is a prompt of its own.
        ({"prompt": ["a b c", "a", "a b"]}, 3),
        ({"input": ["a b c", "a"]}, 3),
        ({"input": [{"role": "user", "content": "a b"}, {"content": "c"}]}, 3),
        ({"input": [[1, 2, 3]]}, 0),
        ({"messages": "nonsense here"}, 2),
        ({"messages": [{"content": "a b"}], "truncate_sequence": True}, 0),
        ({"input": "a b", "truncation": "auto"}, 0),
        ({}, 0),
    ],
)
def test_a_prompt_has_a_token_a_word_at_least(fields: dict[str, object], least: int) -> None:
    assert least_tokens(fields) == least


@given(st.text(max_size=200))
def test_no_text_has_more_words_than_half_its_bytes(text: str) -> None:
    words = least_tokens({"messages": [{"content": text}]})
    assert 2 * words <= len(text.encode("utf-8", "surrogatepass")) + 1


def test_every_route_asks_for_some_kind_and_every_kind_can_be_configured() -> None:
    assert set(KINDS) == {*ROUTES.values(), "messages"}
    assert set(KindName.__args__) == {kind.value for kind in Kind}
