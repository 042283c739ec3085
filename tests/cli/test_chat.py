"""`cortex chat`: one question through a pipe, and a conversation on a terminal."""

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pytest

from cortex.cli.text import shown
from tests.cli.conftest import start
from tests.cli.gateway import FakeGateway
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.e2e.processes import Gateway, Processes, eventually, request

CHATS = "/v1/chat/completions"
NASTY = "\x1b]0;owned\x07two\nlines \u202egpj"


class Open(Protocol):
    def __call__(self, *argv: str, **options: Any) -> PseudoTerminal: ...


@pytest.fixture
def chat() -> Iterator[Open]:
    opened: list[PseudoTerminal] = []

    def chat(*argv: str, **options: Any) -> PseudoTerminal:
        opened.append(PseudoTerminal("chat", *argv, **options))
        return opened[-1]

    yield chat
    for terminal in opened:
        terminal.close()


def piped(question: str, *argv: str) -> "subprocess.CompletedProcess[str]":
    """One question through a pipe."""
    asking = start("chat", *argv, stdin=subprocess.PIPE)
    out, err = asking.communicate(question, timeout=30)
    return subprocess.CompletedProcess(argv, asking.returncode, out, err)


def sse(*chunks: Mapping[str, Any], ended: bool = True) -> bytes:
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*events, "data: [DONE]\n\n" if ended else ""]).encode()


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None} | more]}


def listing(*models: str, **more: str) -> dict[str, Any]:
    entries = [{"id": model, "status": "loaded"} for model in models]
    return {"data": entries + [{"id": model, "status": s} for model, s in more.items()]}


@pytest.fixture
def canned(gateway: FakeGateway) -> FakeGateway:
    """Answers every chat with "Hello" and its usage."""
    usage = {"prompt_tokens": 9, "completion_tokens": 2}
    gateway.answers |= {
        "/v1/models": listing("acme/small", "acme/large"),
        CHATS: sse(said("Hel"), said("lo", finish_reason="stop") | {"usage": usage}),
    }
    return gateway


def asked(gateway: FakeGateway) -> list[Any]:
    """The bodies of the chats so far."""
    return [body for _, path, _, body in gateway.requests if path == CHATS]


class TestOneQuestion:
    def test_from_a_real_gateway(self, processes: Processes):
        gateway = processes.serve(processes.node("m1", token_interval_s=0.01, tokens=5))
        plain = piped("hi\n", "--endpoint", gateway.url)
        assert (plain.returncode, plain.stderr) == (0, "")
        assert len(plain.stdout.split()) == 5
        assert plain.stdout.endswith("\n")
        told = json.loads(piped("hi\n", "m1", "--json", "--endpoint", gateway.url).stdout)
        assert len(told["content"].split()) == told["completion_tokens"] == 5
        assert told["model"] == "m1"
        assert told["finish_reason"] == "stop"
        assert 0 < told["ttft_ms"] < told["duration_ms"]
        assert told["tokens_per_s"] > 0

    def test_what_is_sent(self, canned: FakeGateway):
        ran = piped("one\ntwo", "m", "--system", "be terse", "--max-tokens", "7", *at(canned))
        assert ran.stdout == "Hello\n"
        (body,) = asked(canned)
        assert body["messages"] == [
            {"role": "system", "content": "be terse"},
            {"role": "user", "content": "one\ntwo"},
        ]
        assert (body["model"], body["max_tokens"], body["stream"]) == ("m", 7, True)

    def test_a_pipe_gets_what_the_model_wrote(self, canned: FakeGateway):
        canned.answers[CHATS] = sse(said(NASTY, finish_reason="stop"))
        assert piped("hi", "m", *at(canned)).stdout == f"{NASTY}\n"

    def test_thoughts_are_no_part_of_it(self, canned: FakeGateway):
        thought = {"choices": [{"delta": {"reasoning_content": "hm"}}]}
        canned.answers[CHATS] = sse(thought, said("yes", finish_reason="stop"))
        assert piped("hi", "m", *at(canned)).stdout == "yes\n"
        assert json.loads(piped("hi", "m", "--json", *at(canned)).stdout)["reasoning"] == "hm"

    @pytest.mark.parametrize(
        ("answer", "complaint"),
        [
            (sse(said("Hel"), ended=False), "the answer broke off"),
            (
                sse(said("Hel"), {"error": {"message": "out of memory"}}),
                "failed: out of memory",
            ),
            (sse(said("Hel"), {"error": {"code": "node_timeout"}}), "failed: node_timeout"),
            (sse(said("Hel"), {"error": "bare\x1bwords"}), "failed: bare\\x1bwords"),
        ],
    )
    def test_an_answer_that_fails(self, canned: FakeGateway, answer: bytes, complaint: str):
        canned.answers[CHATS] = answer
        ran = piped("hi", "m", *at(canned))
        assert ran.returncode == 1
        assert ran.stdout == "Hel\n"
        assert complaint in ran.stderr
        assert len(ran.stderr.splitlines()) == 1

    def test_rubbish_between_the_chunks(self, canned: FakeGateway):
        rubbish = b'data: {"choices": 5}\n\ndata: nonsense\n\ndata: [1]\n\n: ping\n\n'
        rubbish += b'data: {"choices": []}\n\ndata: {"choices": [{"delta": null}]}\n\n'
        odd = b'data: {"choices": [{"delta": {"content": 7}}], "usage": {"prompt_tokens": "x"}}\n\n'
        canned.answers[CHATS] = rubbish + odd + sse(said("yes"))
        assert piped("hi", "m", *at(canned)).stdout == "yes\n"

    def test_no_question(self, canned: FakeGateway):
        ran = piped(" \n", "m", *at(canned))
        assert ran.returncode == 2
        assert "holds no question" in ran.stderr
        assert asked(canned) == []

    def test_which_model(self, canned: FakeGateway):
        ran = piped("hi", *at(canned))
        assert ran.returncode == 2
        assert "which model? there are acme/small, acme/large" in ran.stderr
        canned.answers["/v1/models"] = listing("acme/small", **{"acme/other": "unloaded"})
        assert piped("hi", *at(canned)).returncode == 0
        assert asked(canned)[0]["model"] == "acme/small"
        canned.answers["/v1/models"] = listing()
        ran = piped("hi", *at(canned))
        assert ran.returncode == 1
        assert "no node lists a model yet" in ran.stderr

    def test_a_key_that_is_refused(self, canned: FakeGateway):
        canned.key = "right"
        assert piped("hi", "m", *at(canned)).returncode == 77

    def test_ctrl_c_ends_it(self, processes: Processes):
        node = processes.node("m1", token_interval_s=0.02, endless=True)
        gateway = processes.serve(node)
        asking = start("chat", "m1", "--endpoint", gateway.url, stdin=subprocess.PIPE)
        assert asking.stdin is not None
        assert asking.stdout is not None
        asking.stdin.write("hi")
        asking.stdin.close()
        assert asking.stdout.read(10)
        asking.send_signal(signal.SIGINT)
        asking.stdin = None
        asking.communicate(timeout=20)
        assert asking.returncode == 130
        eventually(lambda: stopped(node), "the engine to stop")


def at(gateway: FakeGateway) -> tuple[str, str]:
    return "--endpoint", gateway.url


def stopped(node: str) -> bool:
    """Its stream ended because nobody listened any more."""
    return bool(request(f"{node}/_stats").json["streams_stopped"])


@pytest.fixture
def endless(processes: Processes) -> tuple[Gateway, str]:
    node = processes.node("m1", token_interval_s=0.02, endless=True)
    return processes.serve(node), node


def prompted(text: str, after: str) -> bool:
    """Whether the words are there, and a prompt at the end behind them."""
    _, found, behind = text.rpartition(after)
    return bool(found) and behind.rstrip().endswith(">>>")


class TestConversation:
    def test_ctrl_c_stops_the_answer_and_not_the_program(
        self, endless: tuple[Gateway, str], chat: Open
    ):
        gateway, node = endless
        terminal = chat("--endpoint", gateway.url)
        terminal.see_text(">>>")
        terminal.press("tell me\n")
        # Which words they are is the node's to choose.
        terminal.see(lambda text: len(text.split()) > 18, "some of an answer")
        terminal.press("\x03")
        terminal.see_text("(stopped)")
        eventually(lambda: stopped(node), "the engine to stop")
        terminal.press("/stats\n")
        # Before a prompt is there, keys mean something else to the terminal itself.
        terminal.see(lambda text: prompted(text, "in all: 1 answer,"), "a prompt")
        terminal.press("\x03")
        terminal.see(lambda text: prompted(text, "Ctrl-D or /bye ends"), "a prompt")
        terminal.press("\x04")
        assert terminal.end() == 0
        assert terminal.modes == terminal.before

    def test_it_remembers_and_forgets(self, canned: FakeGateway, chat: Open):
        terminal = chat("acme/small", "--system", "be terse", *at(canned))
        terminal.see_text(">>>")
        for count, question in enumerate(("first", "second"), 1):
            terminal.press(f"{question}\n")
            terminal.see(lambda text, n=count: text.count("Hello\n>>>") == n, "an answer")
        system = {"role": "system", "content": "be terse"}
        first = {"role": "user", "content": "first"}
        hello = {"role": "assistant", "content": "Hello"}
        second = {"role": "user", "content": "second"}
        assert asked(canned)[1]["messages"] == [system, first, hello, second]
        terminal.press("/new\n")
        terminal.see_text("forgotten")
        terminal.press("/system -\n")
        terminal.see_text("nothing first")
        terminal.press("second\n")
        terminal.see(lambda text: text.count("Hello\n>>>") == 3, "an answer")
        assert asked(canned)[2]["messages"] == [second]
        terminal.press("/stats\n")
        shown = terminal.see_text("in all: 3 answers, 6 tokens")
        assert "prompt: 9 tokens" in shown
        terminal.press("/bye\n")
        assert terminal.end() == 0

    def test_models(self, canned: FakeGateway, chat: Open):
        terminal = chat(*at(canned))
        terminal.see_text("acme/small at")
        terminal.press("/model\n")
        terminal.see_text("* acme/small  loaded")
        terminal.press("/model acme/larg\n")
        terminal.see_text("no model acme/larg; did you mean acme/large?")
        terminal.press("/model acme/large\n")
        terminal.see_text("from now on acme/large")
        terminal.press("hi\n")
        terminal.see_text("Hello")
        assert asked(canned)[0]["model"] == "acme/large"

    def test_several_lines_and_slashes(self, canned: FakeGateway, chat: Open):
        terminal = chat("m", *at(canned))
        terminal.see_text(">>>")
        terminal.press('"""one\ntwo\n"""\n')
        terminal.see(lambda text: text.count("Hello") == 1, "an answer")
        terminal.press("//etc is a folder\n")
        terminal.see(lambda text: text.count("Hello") == 2, "an answer")
        assert [body["messages"][-1]["content"] for body in asked(canned)] == [
            "one\ntwo",
            "/etc is a folder",
        ]
        terminal.press("/etc\n")
        terminal.see_text("/etc is no command; /help tells them")
        terminal.press("/help\n")
        terminal.see_text("begins one with a slash")

    def test_a_failure_ends_nothing_and_is_forgotten(self, canned: FakeGateway, chat: Open):
        good = canned.answers[CHATS]
        terminal = chat("m", *at(canned))
        terminal.see_text(">>>")
        canned.answers[CHATS] = lambda *_: (503, {"error": {"message": "no room", "code": "x"}})
        terminal.press("first\n")
        terminal.see_text("no room [x]")
        canned.answers[CHATS] = sse(said("Hel"), ended=False)
        terminal.press("second\n")
        terminal.see_text("the answer broke off")
        canned.answers[CHATS] = good
        terminal.press("third\n")
        terminal.see_text("Hello")
        assert [m["content"] for m in asked(canned)[-1]["messages"]] == ["third"]

    def test_what_a_model_writes_cannot_move_the_terminal(
        self, canned: FakeGateway, chat: Open
    ):
        canned.answers[CHATS] = sse(said(NASTY, finish_reason="length"))
        terminal = chat("m", *at(canned))
        terminal.see_text(">>>")
        terminal.press("hi\n")
        terminal.see_text("\\x1b]0;owned\\x07two\nlines \\u202egpj")
        terminal.see_text("as long as an answer may be")

    def test_a_refused_key_ends_it(self, canned: FakeGateway, chat: Open):
        terminal = chat("m", *at(canned))
        terminal.see_text(">>>")
        canned.key = "right"
        terminal.press("hi\n")
        assert terminal.end() == 77
        terminal.see_text("this key is not known")
        assert terminal.modes == terminal.before

    def test_sigterm_gives_the_terminal_back(self, processes: Processes, chat: Open):
        gateway = processes.serve(processes.node("m1", stall=True))
        terminal = chat("m1", "--endpoint", gateway.url)
        terminal.see_text(">>>")
        terminal.press("hi\n")
        terminal.see_text("waiting for m1")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 128 + signal.SIGTERM
        terminal.see(lambda _: terminal.screen.cursor_shown, "the cursor")


def test_shown_keeps_what_joins_letters():
    family = "\N{MAN}\u200d\N{WOMAN}"
    assert shown(f"a\tb\n{family}\r\x1b\u2028") == f"a\tb\n{family}\\x0d\\x1b\\u2028"
