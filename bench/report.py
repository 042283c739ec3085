"""Tables, ratios and verdicts from the figures of a run: `python -m bench.report FILE.json`.

Ratios are taken within a round and their median over the rounds is given, since a round is what was
measured side by side.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Results = dict[str, Any]
NOISY_CORES = 0.15


@dataclass(frozen=True)
class Column:
    title: str
    test: str
    figure: str
    form: str = "{:,.0f}"


COLUMNS = (
    Column("start s", "start", "first_answer_s", "{:.2f}"),
    Column("READY s", "start", "ready_s", "{:.2f}"),
    Column("idle MB", "rss", "idle_mb"),
    Column("KB/stream", "rss", "kb_per_stream", "{:.1f}"),
    Column("req/s c1", "c1", "per_s"),
    Column("req/s c32", "c32", "per_s"),
    Column("req/s c256", "c256", "per_s"),
    Column("p50 us c1", "c1", "p50"),
    Column("p50 us c32", "c32", "p50"),
    Column("p99 us c32", "c32", "p99"),
    Column("CPU us/req c32", "c32", "us_per_request", "{:.1f}"),
    Column("CPU us/req c256", "c256", "us_per_request", "{:.1f}"),
    Column("all at once: CPU us/req", "once32", "us_per_request", "{:.1f}"),
    Column("all at once: CPU us/chunk paced", "oncepaced", "us_per_chunk", "{:.1f}"),
    Column("all at once: CPU us/chunk blast", "onceblast", "us_per_chunk", "{:.2f}"),
    Column("any length: CPU us/req c32", "any32", "us_per_request", "{:.0f}"),
    Column("TTFT p50 us", "ttft", "p50"),
    Column("TTFT p99 us", "ttft", "p99"),
    Column("CPU us/chunk paced", "paced", "us_per_chunk", "{:.1f}"),
    Column("chunk delay p50 us", "paced", "p50"),
    Column("chunk delay p99 us", "paced", "p99"),
    Column("chunks/s blast", "blast", "chunks_per_s"),
    Column("CPU us/chunk blast", "blast", "us_per_chunk", "{:.2f}"),
    Column("1,000 held: rate kept", "held", "rate_kept", "{:.3f}"),
    Column("1,000 held: errors", "held", "errors"),
    Column("1,000 held: delay p99 us", "held", "p99"),
    Column("streams at 100/s", "most", "streams"),
    Column("10 MB: MB/s", "body10", "mb_per_s"),
    Column("10 MB: peak MB", "body10", "peak_mb"),
    Column("10 MB: stall ms", "body10", "stall_ms", "{:.1f}"),
    Column("50 MiB: peak MB", "body50", "peak_mb"),
    Column("50 MiB: stall ms", "body50", "stall_ms", "{:.1f}"),
    Column("messages req/s c32", "m32", "per_s"),
    Column("messages CPU us/req", "m32", "us_per_request", "{:.1f}"),
    Column("messages CPU us/chunk paced", "mpaced", "us_per_chunk", "{:.1f}"),
    Column("messages chunks/s blast", "mblast", "chunks_per_s"),
    Column("log: share of CPU", "log", "log_share", "{:.3f}"),
)


def figure(figures: dict[str, Any], gateway: str, test: str, name: str) -> float | None:
    """One figure of one round."""
    value = figures.get(gateway, {}).get(test, {}).get(name)
    return None if value is None else float(value)


Of = Callable[[dict[str, Any]], float | None]


def over_rounds(results: Results, of: Of) -> float | None:
    values = [value for figures in results["rounds"] if (value := of(figures)) is not None]
    return statistics.median(values) if values else None


def medians(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """gateway → test → figure → median over the rounds."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for figures in results["rounds"]:
        for gateway, tests in figures.items():
            for test, taken in tests.items():
                for name in taken:
                    median = over_rounds(
                        results, lambda f, g=gateway, t=test, n=name: figure(f, g, t, n)
                    )
                    if median is not None:
                        found.setdefault(gateway, {}).setdefault(test, {})[name] = median
    return found


@dataclass(frozen=True)
class Goal:
    text: str
    of: Of
    met: Callable[[float], bool]
    form: str = "{:.2f}"


@dataclass(frozen=True)
class Verdict:
    text: str
    value: float | None
    shown: str
    verdict: str


def ratio(a: str, b: str, test: str, name: str) -> Of:
    def of(figures: dict[str, Any]) -> float | None:
        ours, theirs = figure(figures, a, test, name), figure(figures, b, test, name)
        return ours / theirs if ours is not None and theirs else None

    return of


def added(gateway: str, test: str, name: str) -> Of:
    """What a gateway adds to the direct run of the same round."""

    def of(figures: dict[str, Any]) -> float | None:
        through, direct = (figure(figures, g, test, name) for g in (gateway, "direct"))
        return None if through is None or direct is None else through - direct

    return of


def added_ratio(a: str, b: str, name: str) -> Of:
    """The worst over 1, 32 and 256 connections of what `a` adds over what `b` adds."""

    def of(figures: dict[str, Any]) -> float | None:
        ratios = []
        for test in ("c1", "c32", "c256"):
            ours, theirs = added(a, test, name)(figures), added(b, test, name)(figures)
            if ours is not None and theirs:
                ratios.append(ours / theirs)
        return max(ratios, default=None)

    return of


def one(gateway: str, test: str, name: str) -> Of:
    return lambda figures: figure(figures, gateway, test, name)


def scaled(of: Of, factor: float) -> Of:
    def multiplied(figures: dict[str, Any]) -> float | None:
        value = of(figures)
        return None if value is None else value * factor

    return multiplied


def share(gateway: str, test: str, name: str, of_name: str) -> Of:
    def of(figures: dict[str, Any]) -> float | None:
        part, whole = (figure(figures, gateway, test, n) for n in (name, of_name))
        return part / whole if part is not None and whole else None

    return of


def held_well(figures: dict[str, Any]) -> float | None:
    """The share of the rate that was kept; 0 where a stream failed."""
    kept, errors = (figure(figures, "cortex", "held", n) for n in ("rate_kept", "errors"))
    return 0.0 if errors else kept


def many_over_few(figures: dict[str, Any]) -> float | None:
    many, few = (figure(figures, "cortex", test, "per_s") for test in ("c256", "c32"))
    return many / few if many is not None and few else None


def translation(figures: dict[str, Any]) -> float | None:
    messages = figure(figures, "cortex", "mpaced", "us_per_chunk")
    chat = figure(figures, "cortex", "paced", "us_per_chunk")
    return messages / chat if messages is not None and chat else None


def at_least(bound: float) -> Callable[[float], bool]:
    return lambda value: value >= bound


def at_most(bound: float) -> Callable[[float], bool]:
    return lambda value: value <= bound


GOALS = (
    Goal(
        "requests/s at 32: at least 1.9 x bare aiohttp (uvloop)",
        ratio("cortex", "aiohttp-uvloop", "c32", "per_s"),
        at_least(1.9),
    ),
    Goal(
        "without the speed extra: at least 1.2 x bare aiohttp (asyncio)",
        ratio("cortex-plain", "aiohttp", "c32", "per_s"),
        at_least(1.2),
    ),
    Goal(
        "the same by CPU of a request, all gateways at once",
        ratio("aiohttp-uvloop", "cortex", "once32", "us_per_request"),
        at_least(1.9),
    ),
    Goal(
        "without the extra by CPU of a request, all gateways at once: at least 1.2 x",
        ratio("aiohttp", "cortex-plain", "once32", "us_per_request"),
        at_least(1.2),
    ),
    Goal("requests/s at 256: at least 0.9 x those at 32", many_over_few, at_least(0.9)),
    Goal(
        "requests/s at 32: at least 90 x LiteLLM",
        ratio("cortex", "litellm", "c32", "per_s"),
        at_least(90),
        "{:.0f}",
    ),
    Goal(
        "added latency: at most 1/20 of LiteLLM's (worst of 1, 32, 256 connections)",
        added_ratio("cortex", "litellm", "p50"),
        at_most(0.05),
        "{:.3f}",
    ),
    Goal(
        "CPU per paced chunk: no more than sglang-router's",
        ratio("cortex", "sglang-router", "paced", "us_per_chunk"),
        at_most(1),
    ),
    Goal(
        "CPU per paced chunk: no more than vllm-router's",
        ratio("cortex", "vllm-router", "paced", "us_per_chunk"),
        at_most(1),
    ),
    Goal(
        "CPU per paced chunk, all gateways at once: no more than sglang-router's",
        ratio("cortex", "sglang-router", "oncepaced", "us_per_chunk"),
        at_most(1),
    ),
    Goal(
        "CPU per chunk without a pause, all gateways at once: at most 1.2 x bare aiohttp's",
        ratio("cortex", "aiohttp-uvloop", "onceblast", "us_per_chunk"),
        at_most(1.2),
    ),
    Goal(
        "CPU per chunk without a pause: at most 1.2 x bare aiohttp's (uvloop)",
        ratio("cortex", "aiohttp-uvloop", "blast", "us_per_chunk"),
        at_most(1.2),
    ),
    Goal(
        "added TTFT p50: at most 0.35 ms",
        scaled(added("cortex", "ttft", "p50"), 1e-3),
        at_most(0.35),
    ),
    Goal(
        "added TTFT p99: at most 2 ms", scaled(added("cortex", "ttft", "p99"), 1e-3), at_most(2)
    ),
    Goal("memory idle: at most 60 MB", one("cortex", "rss", "idle_mb"), at_most(60), "{:.0f}"),
    Goal(
        "memory per open stream: at most 18 KB",
        one("cortex", "rss", "kb_per_stream"),
        at_most(18),
        "{:.1f}",
    ),
    Goal(
        "1,000 streams at 20 chunks/s: rate kept, no error", held_well, at_least(0.98), "{:.3f}"
    ),
    Goal(
        "longest stall with 50 MiB bodies: at most 20 ms",
        one("cortex", "body50", "stall_ms"),
        at_most(20),
        "{:.1f}",
    ),
    Goal("Anthropic streams: at most 2 x the CPU of pass-through", translation, at_most(2)),
    Goal(
        "request log at 2,000 requests/s: at most 5 % of CPU",
        one("cortex", "log", "log_share"),
        at_most(0.05),
        "{:.3f}",
    ),
)


def verdicts(results: Results) -> list[Verdict]:
    given = []
    for goal in GOALS:
        value = over_rounds(results, goal.of)
        if value is None:
            given.append(Verdict(goal.text, None, "-", "not measured"))
        else:
            met = "met" if goal.met(value) else "MISSED"
            given.append(Verdict(goal.text, value, goal.form.format(value), met))
    return given


def table(head: list[str], lines: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])


@dataclass(frozen=True)
class Line:
    """One figure, beside the most that it may be where it has a goal."""

    what: str
    value: float
    unit: str
    goal: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        return "met" if self.value <= self.goal else "MISSED"


def beside_goals(lines: Iterable[Line]) -> str:
    def shown(value: float, unit: str) -> str:
        form = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        return f"{form} {unit}".strip()

    return table(
        ["what", "value", "goal", "", ""],
        [
            [
                line.what,
                shown(line.value, line.unit),
                "" if line.goal is None else f"at most {shown(line.goal, line.unit)}",
                line.verdict,
                line.note,
            ]
            for line in lines
        ],
    )


def text(results: Results) -> str:
    """Everything, as Markdown."""
    found = medians(results)
    names = list(found)
    shown = [c for c in COLUMNS if any(c.figure in found[n].get(c.test, {}) for n in names)]

    def cell(column: Column, name: str) -> str:
        value = found[name].get(column.test, {}).get(column.figure)
        return "-" if value is None else column.form.format(value)

    def relative(column: Column, name: str) -> str:
        value = over_rounds(results, ratio("cortex", name, column.test, column.figure))
        return "-" if value is None else f"{value:.2f}"

    about = results["machine"]
    taken = f"{len(results['rounds'])} x {results['options']['seconds']:g} s a test"
    parts = [
        f"{taken}; {about['placement']}; Linux {about['kernel']}, Python {about['python']}",
        "Medians:",
        table(["", *names], [[c.title, *(cell(c, n) for n in names)] for c in shown]),
    ]
    others = [name for name in names if name != "cortex"]
    if "cortex" in names and others:
        parts += [
            "cortex over each other gateway:",
            table(["", *others], [[c.title, *(relative(c, n) for n in others)] for c in shown]),
        ]
    lines = [[v.text, v.shown, v.verdict] for v in verdicts(results)]
    parts += ["Goals:", table(["goal", "value", ""], lines)]
    parts += [f"{name} took no part: {why}" for name, why in results["absent"].items()]
    if noise := noisy(results):
        parts.append("Disturbed by others (more than 0.15 cores): " + ", ".join(noise))
    return "\n\n".join(parts) + "\n"


BEGIN, END = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"


def put_into(page: Path, results: Results) -> None:
    """Replace the tables of a page, which stand between two marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{page} has no place for tables: {BEGIN.strip()} … {END.strip()}")
    page.write_text(before + BEGIN + "\n" + text(results) + "\n" + END + after)


def noisy(results: Results) -> list[str]:
    return [
        f"{gateway} {test} in round {number} ({taken['noise']:.2f})"
        for number, figures in enumerate(results["rounds"], 1)
        for gateway, tests in figures.items()
        for test, taken in tests.items()
        if taken.get("noise", 0) > NOISY_CORES
    ]


if __name__ == "__main__":
    *names, last = sys.argv[1:]
    if names and last.endswith(".md"):
        # As a run with `--into`, from its file.
        put_into(Path(last), json.loads(Path(names[0]).read_text()))
    else:
        for name in (*names, last):
            print(text(json.loads(Path(name).read_text())))
