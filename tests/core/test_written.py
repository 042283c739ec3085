"""A node's words are written down without what they repeat of the request."""

import json
import time

import pytest

from cortex.core.written import MAX_REQUEST_BYTES, unquoted, written

SECRET = "My password is Tr0ub4dor&3, keep it."


def asked(content: object = SECRET, **more: object) -> bytes:
    return json.dumps(
        {"model": "org/model-of-some-length", "messages": [content], **more}
    ).encode()


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("out of memory", "out of memory"),
        (
            f"cannot read: {SECRET}",
            "cannot read: ….",
        ),
        (f"cannot read `{SECRET.upper()}` here", "cannot read `….` here"),
        ('bad "My password\\nis   Tr0ub4dor"', 'bad "…"'),
        ("bad My-password_is/Tr0ub4dor", "bad …"),
        ("model org/model-of-some-length is gone", "model org/model-of-some-length is gone"),
        ("My password", "My password"),
        ("", ""),
    ],
)
def test_what_is_repeated_is_left_out(words: str, left: str) -> None:
    assert written(words, asked()) == left


@pytest.mark.parametrize(
    "request_body",
    [
        asked({"role": "user", "content": [{"type": "text", "text": SECRET}]}),
        asked("x", tools=[{"function": {"name": SECRET}}]),
        asked({SECRET: 1}),
        asked(f"before {SECRET} behind"),
        asked("".join(f"\\u{ord(char):04x}" for char in SECRET)).replace(b"\\\\u", b"\\u"),
    ],
)
def test_wherever_it_stands_and_however_it_is_escaped(request_body: bytes) -> None:
    assert "Tr0ub4dor" not in written(f"no: {SECRET}", request_body)


def test_letters_that_grow_in_lower_case_are_counted_right() -> None:
    text = "İstanbul İzmir İncirlik İskenderun"
    assert written(f"no {text}!", asked(text)) == "no …!"


def test_the_largest_request_is_searched_in_a_moment() -> None:
    request = asked("y" + "x" * (MAX_REQUEST_BYTES - 1000))
    began_s = time.thread_time()
    assert written("z" * 150 + "x" * 150, request) == "z" * 150 + "…"
    assert time.thread_time() - began_s < 0.5


def test_a_request_that_cannot_be_read_hides_nothing() -> None:
    assert written("out of memory", b"[" * 100_000) == "out of memory"


@pytest.mark.parametrize(
    ("message", "left"),
    [
        ("model 'my secret' does not exist", "model … does not exist"),
        ('model "it\'s \\"so\\"" does not', "model … does not"),
        ("the node's answer isn't one", "the node's answer isn't one"),
        ("no quotes", "no quotes"),
    ],
)
def test_a_message_of_ours_loses_what_it_quotes(message: str, left: str) -> None:
    assert unquoted(message) == left
