"""`cortex chat`: one question from a pipe, or a conversation on a terminal."""

import argparse
import json
import sys

from cortex.cli.answer import Answer, Kind, hear, messages_of
from cortex.cli.client import STREAM_GAP_S, Client
from cortex.cli.endpoint import resolve
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import CliError, UsageError
from cortex.cli.models import PATH, entries_of
from cortex.cli.text import shown, some

_MOST_NAMED = 8


def run(args: argparse.Namespace) -> int:
    """A conversation where both ends are a terminal, else one question."""
    client = Client(resolve(args), timeout_s=STREAM_GAP_S)
    options = {} if args.max_tokens is None else {"max_tokens": args.max_tokens}
    if args.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _once(args, client, options)
    # A terminal's needs are not a pipe's.
    from cortex.cli.conversation import Conversation

    known = listed(client)
    model = args.model or _first(known)
    return Conversation(client, model, system=args.system, options=options).talk()


def listed(client: Client) -> dict[str, str]:
    """Every model and alias that may be asked for, with its status."""
    entries = entries_of(client.get(PATH), client)
    return {str(entry["id"]): str(entry.get("status") or "") for entry in entries}


def _once(args: argparse.Namespace, client: Client, options: dict[str, object]) -> int:
    """Ask what standard input holds."""
    model = args.model or _only(listed(client))
    if sys.stdin.isatty():
        print("the question, then Ctrl-D:", file=sys.stderr)
    question = sys.stdin.buffer.read().decode(errors="replace")
    if not question.strip():
        raise UsageError("chat: standard input holds no question")
    messages = messages_of(args.system, [], question)
    answer = Answer(model)
    on_terminal = sys.stdout.isatty()

    def show(piece: str, kind: Kind) -> None:
        if kind is Kind.SAID and not args.json:
            # Whoever reads from a pipe wants what the model wrote.
            print(shown(piece) if on_terminal else piece, end="", flush=True)

    try:
        hear(client, messages, answer, show, options)
    finally:
        if answer.text and not (args.json or answer.text.endswith("\n")):
            print(flush=True)
    if args.json:
        print(json.dumps(figures(answer), indent=2))
    return Exit.OK


def figures(answer: Answer) -> dict[str, object]:
    """What `--json` prints; null is what nobody counted."""
    pace = answer.tokens_per_s
    return {
        "model": answer.model,
        "content": answer.text,
        "reasoning": answer.thinking or None,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "cached_tokens": answer.cached_tokens,
        "completion_tokens": answer.completion_tokens,
        "ttft_ms": None if answer.ttft_s is None else round(answer.ttft_s * 1000, 1),
        "duration_ms": round(answer.duration_s * 1000, 1),
        "tokens_per_s": None if pace is None else round(pace, 1),
    }


def _first(known: dict[str, str]) -> str:
    """The one to begin a conversation with.

    Raises:
        CliError: There is none.
    """
    if not known:
        raise CliError("no node lists a model yet: `cortex status` says why")
    return next(
        (model for model, status in known.items() if status == "loaded"), next(iter(known))
    )


def _only(known: dict[str, str]) -> str:
    """The one that a question without a name must mean: the only one, or the only one loaded.

    Raises:
        CliError: It may mean several.
    """
    first = _first(known)
    loaded = [model for model, status in known.items() if status == "loaded"]
    if len(known) == 1 or len(loaded) == 1:
        return first
    raise UsageError(f"chat: which model? there are {some(list(known), _MOST_NAMED)}")
