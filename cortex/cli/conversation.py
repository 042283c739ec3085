"""`cortex chat` on a terminal: questions, answers as they come, and commands in between."""

import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import Protocol

from rich.text import Text

from cortex.cli.answer import Answer, Kind, Message, hear, messages_of
from cortex.cli.chat import listed
from cortex.cli.client import Client
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import CliError, KeyRefusedError
from cortex.cli.progress import progress, unwind_at_sigterm
from cortex.cli.tables import Screen
from cortex.cli.text import counted, rate, safe, shown, span
from cortex.core.nearness import near_names

QUOTES = '"""'
PROMPT = ">>> "
MORE = "... "
HELP = """\
/model [ID]     the models; with an id, that one from now on
/system [TEXT]  what the model is told first; `/system -` takes it back
/stats          time to first token, tokens and pace: the last answer, and all
/new            forget what was said
/help           this
/bye            end, as Ctrl-D does

Ctrl-C stops an answer. \"\"\" begins and ends a message of several lines,
// begins one with a slash."""


class Ask(Protocol):
    def __call__(self, prompt: str, /) -> str: ...


class Conversation:
    """What was said so far; nothing of it outlives the program."""

    def __init__(
        self,
        client: Client,
        model: str,
        *,
        system: str | None,
        options: Mapping[str, object],
    ) -> None:
        self._client = client
        self._model = model
        self._system = system
        self._options = options
        self._screen = Screen()
        self._said: list[Message] = []
        self._answers: list[Answer] = []
        self._commands: Mapping[str, Callable[[str], None]] = {
            "model": self._change_model,
            "system": self._change_system,
            "stats": lambda _: self._stats(),
            "new": lambda _: self._forget(),
            "help": lambda _: print(HELP),
        }

    def talk(self, ask: Ask = input) -> int:
        """Until Ctrl-D or /bye.

        Raises:
            KeyRefusedError: Asking again would not help.
        """
        # With it, a line can be edited and earlier ones come back; they are kept in no file.
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
        unwind_at_sigterm()
        self._note(f"{safe(self._model)} at {self._client.endpoint.url}; /help, Ctrl-D ends")
        while True:
            try:
                question = _read(ask)
            except KeyboardInterrupt:
                self._note("\nCtrl-D or /bye ends")
                continue
            except EOFError:
                print()
                return Exit.OK
            if question.strip() in {"/bye", "/exit", "/quit"}:
                return Exit.OK
            self._react(question)

    def _react(self, line: str) -> None:
        if not line.strip():
            return
        if not line.startswith("/") or line.startswith("//"):
            self._ask(line[1:] if line.startswith("//") else line)
            return
        word, _, rest = line[1:].partition(" ")
        command = self._commands.get(word.strip())
        if command is None:
            self._complain(f"/{safe(word)} is no command; /help tells them")
            return
        try:
            command(rest.strip())
        except KeyRefusedError:
            raise
        except CliError as error:
            self._complain(str(error))

    def _ask(self, question: str) -> None:
        """Put a question; an answer that was stopped stays in the conversation, one that failed does not."""
        messages = messages_of(self._system, self._said, question)
        answer = Answer(self._model)
        try:
            with contextlib.ExitStack() as waiting:
                waiting.enter_context(progress(f"waiting for {safe(self._model)}"))

                def show(piece: str, kind: Kind) -> None:
                    waiting.close()
                    self._write(piece, kind)

                hear(self._client, messages, answer, show, self._options)
        except KeyboardInterrupt:
            self._note("\n(stopped)" if answer.pieces else "(stopped)")
        except KeyRefusedError:
            raise
        except CliError as error:
            self._complain(f"\n{error}" if answer.pieces else str(error))
            return
        else:
            self._finish(answer)
        if answer.text:
            self._answers.append(answer)
            self._said += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer.text},
            ]

    def _finish(self, answer: Answer) -> None:
        print()
        if answer.finish_reason == "length":
            self._note("(as long as an answer may be)")
        elif not answer.text:
            self._note("(it said nothing)")

    def _change_model(self, wanted: str) -> None:
        known = listed(self._client)
        if not wanted:
            for model, status in known.items():
                mark = "*" if model == self._model else " "
                print(f"{mark} {safe(model)}  {safe(status)}".rstrip())
            return
        if wanted not in known:
            near = near_names(wanted, list(known))
            hint = f"; did you mean {safe(near[0])}?" if near else "; /model tells them"
            raise CliError(f"there is no model {safe(wanted)}{hint}")
        self._model = wanted
        self._note(f"from now on {safe(wanted)}")

    def _change_system(self, text: str) -> None:
        if text:
            self._system = None if text == "-" else text
        print(safe(self._system) if self._system else "the model is told nothing first")

    def _stats(self) -> None:
        if not self._answers:
            print("no answer yet")
            return
        last = self._answers[-1]
        print(f"last: {safe(last.model)}, {_took(last)}")
        if last.prompt_tokens is not None:
            cached = f", {last.cached_tokens} of them cached" if last.cached_tokens else ""
            print(f"prompt: {last.prompt_tokens} tokens{cached}")
        tokens = sum(answer.completion_tokens or answer.pieces for answer in self._answers)
        took = span(sum(answer.duration_s for answer in self._answers))
        answers = counted(len(self._answers), "answer")
        print(f"in all: {answers}, {tokens} tokens in {took}")

    def _forget(self) -> None:
        self._said.clear()
        self._note("forgotten")

    def _write(self, piece: str, kind: Kind) -> None:
        text = Text(shown(piece), style="dim" if kind is Kind.THOUGHT else "")
        self._screen.console.print(text, end="", soft_wrap=True)

    def _note(self, text: str) -> None:
        self._screen.console.print(Text(text, style="dim"))

    def _complain(self, text: str) -> None:
        self._screen.console.print(Text(text, style="red"), soft_wrap=True)


def _took(answer: Answer) -> str:
    tokens = answer.completion_tokens or answer.pieces
    return (
        f"{tokens} tokens in {span(answer.duration_s)}, first after {span(answer.ttft_s)},"
        f" {rate(answer.tokens_per_s)} tokens/s"
    )


def _read(ask: Ask) -> str:
    """One message: a line, or what stands between two times three quotes."""
    line = ask(PROMPT)
    if not line.lstrip().startswith(QUOTES):
        return line
    lines = [line.lstrip().removeprefix(QUOTES)]
    while QUOTES not in lines[-1]:
        lines.append(ask(MORE))
    lines[-1] = lines[-1].partition(QUOTES)[0]
    sys.stdout.flush()
    return "\n".join(lines).strip("\n")
