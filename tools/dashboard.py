"""Writes Grafana's dashboard, contrib/grafana/cortex.json: `make dashboard`.

What a panel asks for and tells is here, in the order in which it is drawn; the rest of the JSON is the same for all
panels of a kind. In queries `{}` stands for the labels that are chosen at the top of the dashboard: `{G}` the gateway,
`{N}` the node as well, `{M}` the model as well; `[r]` is Grafana's interval for rates.

No panel is empty in front of a fleet that nobody has asked anything yet: what has not happened is drawn as 0.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = {
    "G": 'instance=~"$gateway"',
    "N": 'instance=~"$gateway", node=~"$node"',
    "M": 'instance=~"$gateway", node=~"$node", model=~"$model"',
    "Q": 'instance=~"$gateway", model=~"$model"',
}
"""By the letter in the braces; `Q` is for what has a model and no node."""
NO = "text", None
NAMES = {
    "bargauge": "Bar gauge",
    "stat": "Stat",
    "state-timeline": "State timeline",
    "table": "Table",
    "timeseries": "Time series",
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel, but for its place."""

    kind: str
    title: str
    about: str
    queries: Mapping[str, str]
    """By legend."""
    unit: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    overrides: Sequence[Any] = ()
    transformations: Sequence[Any] = ()
    instant: bool = False

    def drawn(self, number: int, place: Mapping[str, int]) -> dict[str, Any]:
        drawn = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.about,
            "gridPos": place,
            "datasource": SOURCE,
            "fieldConfig": {
                "defaults": {"unit": self.unit, **self.defaults},
                "overrides": list(self.overrides),
            },
            "options": self.options,
            "targets": [
                self._target(chr(ord("A") + place), legend, query)
                for place, (legend, query) in enumerate(self.queries.items())
            ],
        }
        if self.transformations:
            drawn["transformations"] = list(self.transformations)
        return drawn

    def _target(self, reference: str, legend: str, query: str) -> dict[str, Any]:
        target = {
            "refId": reference,
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": filled(query),
            "legendFormat": legend,
            "instant": self.instant,
            "range": not self.instant,
        }
        return target | ({"format": "table"} if self.kind == "table" else {})


def filled(query: str) -> str:
    """The query as Prometheus reads it, once Grafana has put in what was chosen."""
    chosen = re.sub(
        r"([,{])([GNMQ])}",
        lambda found: ("{" if found[1] == "{" else ", ") + CHOSEN[found[2]] + "}",
        query,
    )
    return chosen.replace("[r]", "[$__rate_interval]")


def thresholds(*steps: tuple[str, float | None]) -> dict[str, Any]:
    return {
        "mode": "absolute",
        "steps": [{"color": color, "value": value} for color, value in steps],
    }


def mapping(states: Mapping[str, tuple[str, str]]) -> list[Any]:
    options = {
        value: {"color": color, "index": index, "text": text}
        for index, (value, (text, color)) in enumerate(states.items())
    }
    return [{"type": "value", "options": options}]


LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def stat(
    title: str,
    about: str,
    query: str | Mapping[str, str],
    *steps: tuple[str, float | None],
    unit: str = "none",
    empty: str = "idle",
    text: str = "value",
    **more: Any,
) -> Panel:
    """One number, coloured from each step on; `empty` is said where there is none."""
    return Panel(
        kind="stat",
        title=title,
        about=about,
        queries={title: query} if isinstance(query, str) else query,
        unit=unit,
        instant=True,
        defaults={
            "color": {"mode": "thresholds"},
            "noValue": empty,
            "thresholds": thresholds(*(steps or [NO])),
            **more,
        },
        options={
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "reduceOptions": LAST,
            "textMode": text,
        },
    )


def lines(  # noqa: PLR0913
    title: str,
    about: str,
    queries: Mapping[str, str],
    unit: str = "none",
    *,
    style: str = "line",
    fill: int = 8,
    step: str = "linear",
    stacked: bool = False,
    **more: Any,
) -> Panel:
    custom: dict[str, Any] = {
        "drawStyle": style,
        "fillOpacity": fill,
        "lineInterpolation": step,
        "lineWidth": 1,
        "showPoints": "always" if style == "points" else "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
    }
    if style == "points":
        custom["pointSize"] = 6
    return Panel(
        kind="timeseries",
        title=title,
        about=about,
        queries=queries,
        unit=unit,
        defaults={"color": {"mode": "palette-classic"}, "custom": custom, "min": 0, **more},
        options={
            "legend": {
                "calcs": ["lastNotNull", "max"],
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def area(title: str, about: str, queries: Mapping[str, str], unit: str, **more: Any) -> Panel:
    return lines(title, about, queries, unit, fill=40, stacked=True, **more)


def bars(title: str, about: str, queries: Mapping[str, str], unit: str = "cpm") -> Panel:
    return lines(title, about, queries, unit, style="bars", fill=40)


def counts(title: str, about: str, queries: Mapping[str, str], **more: Any) -> Panel:
    return lines(title, about, queries, decimals=0, **more)


def states(
    title: str, about: str, queries: Mapping[str, str], shown: Mapping[str, tuple[str, str]]
) -> Panel:
    """Bars over time, by what each value means: its word and its colour."""
    return Panel(
        kind="state-timeline",
        title=title,
        about=about,
        queries=queries,
        unit="none",
        defaults={
            "color": {"mode": "thresholds"},
            "custom": {"fillOpacity": 70, "lineWidth": 0},
            "mappings": mapping(shown),
            "thresholds": thresholds(NO),
        },
        options={
            "alignValue": "left",
            "legend": {
                "calcs": [],
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": False,
            },
            "mergeValues": True,
            "rowHeight": 0.8,
            "showValue": "never",
            "tooltip": {"mode": "single", "sort": "none"},
        },
    )


def gauge(title: str, about: str, queries: Mapping[str, str]) -> Panel:
    """Shares as bars."""
    return Panel(
        kind="bargauge",
        title=title,
        about=about,
        queries=queries,
        unit="percentunit",
        instant=True,
        defaults={
            "color": {"mode": "thresholds"},
            "max": 1,
            "min": 0,
            "thresholds": thresholds(("green", None), ("orange", 0.98)),
        },
        options={
            "displayMode": "basic",
            "minVizHeight": 10,
            "minVizWidth": 0,
            "orientation": "horizontal",
            "reduceOptions": LAST,
            "showUnfilled": True,
            "valueMode": "color",
        },
    )


def table(
    title: str,
    about: str,
    queries: Mapping[str, str],
    columns: Sequence[str],
    shown: Mapping[str, tuple[str, str]],
) -> Panel:
    """The newest value of each series, as a word."""
    return Panel(
        kind="table",
        title=title,
        about=about,
        queries=queries,
        unit="none",
        instant=True,
        defaults={
            "color": {"mode": "thresholds"},
            "custom": {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False},
            "thresholds": thresholds(NO),
        },
        overrides=[
            {
                "matcher": {"id": "byName", "options": "Value"},
                "properties": [
                    {"id": "displayName", "value": "state"},
                    {"id": "mappings", "value": mapping(shown)},
                    {"id": "custom.cellOptions", "value": {"type": "color-text"}},
                ],
            }
        ],
        options={
            "cellHeight": "sm",
            "footer": {"countRows": False, "reducer": ["sum"], "show": False},
            "showHeader": True,
        },
        transformations=[
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True},
                    "indexByName": {name: at for at, name in enumerate([*columns, "Value"])},
                    "renameByName": {},
                },
            }
        ],
    )


# What has not happened yet is 0, for every one of which it could have happened.
EACH_NODE = "or 0 * max by (node) (cortex_node_up{N})"
EACH_MODEL = "or 0 * max by (model) (cortex_model_resident{M})"
EACH_PLACE = "or 0 * max by (model, node) (cortex_model_resident{M})"
IN_ALL = "or vector(0)"


def none_yet(*labels: str) -> str:
    """A 0 with these labels, for those that only come to be with what they count."""
    zero = "vector(0)"
    for label in labels:
        zero = f'label_replace({zero}, "{label}", "none yet", "", "")'
    return f"or {zero}"


def rate(metric: str, by: str = "") -> str:
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}[r]))"


def quantile(share: float, metric: str, chosen: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket{{{chosen}}}', labels)})"


TTFT, QUEUE = "cortex_time_to_first_token_seconds", "cortex_queue_wait_seconds"
REQUESTS, FAILED = "cortex_requests_total{M}", 'cortex_requests_total{outcome="error",M}'
UP = "on (instance, node) group_left () cortex_node_up{N}"

FLEET = [
    (4, stat("Nodes up",
        "Nodes that answer polls. Fewer than you have: `cortex status` says why each is missing.",
        "sum(cortex_node_up{N})", ("red", None), ("green", 1)),
     stat("Nodes down",
        "Nodes that do not answer, drained ones too. Not 0: look at the node's service, then at the network between;"
        " `cortex events` has the moment.",
        "count(cortex_node_up{N}) - sum(cortex_node_up{N})", ("green", None), ("red", 1)),
     stat("In flight, queued",
        "Requests being served, and requests that wait. A queue that stays: more copies (`cortex load MODEL`), or"
        " `max_in_flight` is lower than the node can do.",
        {"in flight": "sum(cortex_in_flight{M})", "queued": f"sum(cortex_queue_depth{{Q}}) {IN_ALL}"},
        text="value_and_name"),
     stat("Longest wait now",
        "For how long the request has waited that waits longest, for a slot or for a load. Minutes: `cortex explain"
        " MODEL` says what it waits for.",
        f"max(cortex_queue_oldest_seconds{{Q}}) {IN_ALL}", ("green", None), ("orange", 30), ("red", 120), unit="s"),
     stat("Wedged models",
        "Models that cannot be loaded again before their node is restarted. Not 0: `cortex status` names them, an agent"
        " beside the node restarts it when it is idle, `cortex defrag NODE` now.",
        "sum(cortex_model_wedged{M})", ("green", None), ("red", 1)),
     stat("Version",
        "Which cortex this is: compare graphs from before and after an upgrade with it in mind. The metric has the revision,"
        " too.",
        {"{{version}}": "max by (version) (cortex_build_info{G})"}, text="name")),
    (6, states("Nodes",
        "Health of each node over time. Red without blue before it was not planned: `cortex status`, then the node's log."
        " Blue that stays: somebody forgot `cortex undrain NODE`.",
        {"{{node}}": "cortex_node_up{N} + on (instance, node) 2 * cortex_node_draining{N}"},
        {"0": ("down", "red"), "1": ("up", "green"), "2": ("down, drained", "purple"), "3": ("drained", "blue")})),
    (8, lines("Memory used",
        "Device memory in use, by anyone. Higher after each unload: it is not given back; `cortex defrag NODE`.",
        {"{{node}}": "max by (node) (cortex_device_vram_used_bytes{N})"}, "bytes"),
     lines("Memory free",
        "Device memory free. Near 0 is as it should be with models in it. Not enough for what is asked: `cortex explain"
        " MODEL` has the numbers. No line: the node reports none, and needs an agent.",
        {"{{node}}": "min by (node) (cortex_device_vram_free_bytes{N})"}, "bytes"),
     gauge("Memory in use",
        "Share of each device in use. Full on one node, empty on another: `[models.\"ID\"] nodes` or pins keep models"
        " together.",
        {"{{node}}": "max by (node) (cortex_device_vram_used_bytes{N}"
            " / (cortex_device_vram_used_bytes{N} + cortex_device_vram_free_bytes{N}))"})),
    (8, lines("Poll duration p95 per node",
        "How long a node takes to list its models. Near `polling.timeout_s` it will be taken for dead: the node is"
        " overloaded, or loads a model inline.",
        {"{{node}}": quantile(0.95, "cortex_poll_duration_seconds", "N", "node")}, "s"),
     lines("Polls per node",
        "Polls a second by outcome. Failed ones: the node or the network; `polling.failures_before_down` of them in a row"
        " end it. None at all: the gateway hangs.",
        {"{{node}}, {{outcome}}": rate("cortex_poll_duration_seconds_count{N}", "node, outcome")}, "ops"),
     lines("Events by kind",
        "Changes of the fleet, a minute. `node_suspect`, `breaker_open`, `wedged` and `leak` are the ones to read up:"
        " `cortex events`.",
        {"{{kind}}": f"60 * {rate('cortex_events_total{G}', 'kind')}"}, "cpm", style="bars", fill=40, stacked=True)),
    (8, lines("Processor",
        "Share of one core that the gateway takes. It has one thread: near 1 it is the bottleneck. Fewer and larger chunks,"
        " the `speed` extra, or a second gateway.",
        {"{{instance}}": "rate(process_cpu_seconds_total{G}[r])"}, "percentunit"),
     lines("Resident memory",
        "Of the gateway's process. Grows for days without end: restart it (running streams are drained), and report it"
        " with this graph.",
        {"{{instance}}": "process_resident_memory_bytes{G}"}, "bytes"),
     counts("Open files and tasks",
        "Descriptors of the gateway in use, two a running request, how many may be, and tasks of the event loop. Near the"
        " limit: raise `LimitNOFILE=` of the unit. Tasks that grow while requests do not are a leak.",
        {"{{instance}}, open": "process_open_fds{G}", "{{instance}}, limit": "process_max_fds{G}",
         "{{instance}}, tasks": "cortex_asyncio_tasks{G}"}),
     lines("Uptime",
        "Since the gateway's process began. Falls to 0 unasked: `journalctl -u cortex` has the reason.",
        {"{{instance}}": "time() - process_start_time_seconds{G}"}, "s")),
    (8, counts("Rows not yet written",
        "Rows of the request log in memory. Should be near 0. Grows: the disk is full or the file is locked;"
        " `cortex status` shows SQLite's words.",
        {"{{instance}}, waiting": "cortex_store_queued_rows{G}",
         "{{instance}}, given up": "cortex_store_dropped_rows{G}"}),
     states("Store",
        "Whether SQLite takes writes. Red: requests go on, but pins and the log are not kept. Free the disk; see The state"
        " file in docs/operations.md.",
        {"{{instance}}": "cortex_store_ok{G}"}, {"0": ("failing", "red"), "1": ("ok", "green")}),
     counts("Internal errors",
        "Bugs that were met and survived in the last 15 minutes. Should be 0. Else: `journalctl -u cortex -g \"internal"
        " error\"` has the traceback, which is worth a report.",
        {"{{instance}}, {{loop}}": "sum by (instance, loop) (increase(cortex_internal_errors_total{G}[15m]))"}),
     stat("Certificate",
        "Time until the TLS certificate of the public address ends. Below two weeks a renewal has failed, or nobody sent"
        " SIGHUP after it: `systemctl reload cortex`.",
        "min(cortex_tls_certificate_expires_timestamp_seconds{G} - time())",
        ("red", None), ("orange", 7 * 86400), ("green", 14 * 86400), unit="s", empty="no TLS")),
]  # fmt: skip
MODELS = [
    (9, states("Resident models",
        "Which model is where. Short stripes in turn are models that displace each other: see Cold starts. A model of a"
        " node that is down counts as gone.",
        {"{{model}} on {{node}}": f"cortex_model_resident{{M}} * {UP}"},
        {"0": ("absent", "transparent"), "1": ("resident", "green")}),
     table("Pinned models",
        "Every model, and whether one that is pinned is there. Absent for more than a load takes: `cortex explain MODEL`"
        " says what is in the way, `cortex events` what was tried.",
        {"{{model}} on {{node}}": "max by (model, node) (cortex_pin_absent{M})"
            " or 2 * max by (model, node) (1 - cortex_model_pinned{M})"},
        ("model", "node"),
        {"0": ("in place", "green"), "1": ("absent", "red"), "2": ("not pinned", "text")})),
    (8, counts("Models resident per node",
        "How many models each node holds. Falls to none after a restart: the node loads nothing by itself; `cortex load"
        " MODEL`, or pin what it shall hold.",
        {"{{node}}": f"sum by (node) (cortex_model_resident{{M}} * {UP})"}, step="stepAfter"),
     counts("Pins per node",
        "Pinned models, and those of them that are absent. A pin that is never met holds nothing: is there a node with"
        " room? `cortex explain MODEL`.",
        {"{{node}}, pinned": "sum by (node) (cortex_model_pinned{M})",
         "{{node}}, absent": f"sum by (node) (cortex_pin_absent{{M}}) {EACH_NODE}"}, step="stepAfter"),
     area("In flight per model and node",
        "Requests being served. Flat at its limit with a queue above: the limit or the hardware is what holds; see"
        " `limits.max_in_flight_per_model`.",
        {"{{model}} on {{node}}": "sum by (model, node) (cortex_in_flight{M})"}, "none", decimals=0)),
    (8, area("Tokens per model",
        "Completion tokens a second: what the fleet is used for. A model that falls to nothing while it is asked for:"
        " Errors per model.",
        {"{{model}}": f"{rate('cortex_completion_tokens_total{M}', 'model')} {EACH_MODEL}"}, "suffix: tok/s"),
     lines("Prompt tokens per model",
        "Prompt tokens a second, and those of them that a node had cached. The cached share falls: conversations move"
        " between nodes; see Retries and Nodes.",
        {"{{model}}": f"{rate('cortex_prompt_tokens_total{M}', 'model')} {EACH_MODEL}",
         "{{model}}, cached": f"{rate('cortex_cached_prompt_tokens_total{M}', 'model')} {EACH_MODEL}"},
        "suffix: tok/s"),
     lines("One stream, p50 per model and node",
        "Tokens a second of a single stream. Falls as requests share a node; low with few in flight: the node is"
        " throttled, swaps, or is in want of `cortex defrag NODE`.",
        {"{{model}} on {{node}}":
            f"{quantile(0.5, 'cortex_tokens_per_second', 'M', 'model, node')} {EACH_PLACE}"},
        "suffix: tok/s")),
    (8, area("Tokens per node",
        "Completion tokens a second. One node flat while others work: is it drained, down, or without the model that is"
        " asked for? `cortex status`.",
        {"{{node}}": f"{rate('cortex_completion_tokens_total{M}', 'node')} {EACH_NODE}"}, "suffix: tok/s"),
     area("Requests per model",
        "Finished requests a second. A client in a loop shows here first; `cortex history --follow` names it.",
        {"{{model}}": f"{rate(REQUESTS, 'model')} {EACH_MODEL}"}, "reqps"),
     lines("Errors per model",
        "Share of a model's requests that failed. One model: `cortex explain MODEL`, and its node's log. `unknown` is what"
        " clients asked for and nobody has: `cortex models`.",
        {"{{model}}": f"({rate(FAILED, 'model')} or 0 * {rate(REQUESTS, 'model')})"
            f" / ({rate(REQUESTS, 'model')} > 0) {EACH_MODEL}"}, "percentunit", max=1)),
]  # fmt: skip
ASKED = [
    (4, stat("Requests a second",
        "Finished requests a second. None although clients ask: they do not reach the gateway, or all of them still run;"
        " see In flight.",
        f"{rate(REQUESTS)} {IN_ALL}", unit="reqps"),
     stat("Errors",
        "Share of requests that failed, callers' mistakes included. Above a few percent: Errors by code tells whose fault"
        " it is, and `cortex history --outcome error` shows each.",
        f"({rate(FAILED)} {IN_ALL}) / ({rate(REQUESTS)} > 0) {IN_ALL}",
        ("green", None), ("orange", 0.01), ("red", 0.05), unit="percentunit"),
     stat("TTFT p50",
        "Time to the first token of a stream, waits for slots and loads included. Slow here: every request waits; see Wait"
        " for a slot and Cold starts.",
        f"{quantile(0.5, TTFT, 'M')} >= 0", ("green", None), ("orange", 2), ("red", 10), unit="s"),
     stat("TTFT p95",
        "The slowest twentieth. Slow only here: cold starts, long prompts, or one slow node. `cortex history --slow 10s`"
        " names the requests.",
        f"{quantile(0.95, TTFT, 'M')} >= 0", ("green", None), ("orange", 10), ("red", 30), unit="s"),
     stat("Tokens made",
        "Completion tokens a second over the chosen nodes and models, as nodes report them. Falls while In flight stays: a"
        " node has become slow; see One stream.",
        f"{rate('cortex_completion_tokens_total{M}')} {IN_ALL}", unit="suffix: tok/s", decimals=1),
     stat("Refused for a key's limit",
        "Requests a second beyond a limit of their key, which got a 429. Constant: Refusals per key tells whose limit is"
        " too low, or which client does not heed `Retry-After`.",
        f"{rate('cortex_key_refusals_total{G}')} {IN_ALL}", ("green", None), ("orange", 0.1), unit="reqps")),
    (8, lines("TTFT p50 per model",
        "Half of the streams began sooner. Rises with load: more copies. Rises alone on one model: compare One stream per"
        " node.",
        {"{{model}}": f"{quantile(0.5, TTFT, 'M', 'model')} {EACH_MODEL}"}, "s"),
     lines("TTFT p95 per model",
        "Peaks as high as a load takes are cold starts: pin the model (`cortex pin MODEL`) or give it room."
        " `cortex explain MODEL` says what a request would meet now.",
        {"{{model}}": f"{quantile(0.95, TTFT, 'M', 'model')} {EACH_MODEL}"}, "s"),
     lines("Request duration p95 per model",
        "From arrival to the last byte. Long answers are long; a jump with the same tokens a second is waiting, not"
        " generating.",
        {"{{model}}": f"{quantile(0.95, 'cortex_request_duration_seconds', 'M', 'model')} {EACH_MODEL}"}, "s")),
    (8, lines("Wait for a slot p95 per model",
        "Time in the queue, loads apart. Above seconds for long: more copies, a higher `max_in_flight`, or fewer clients at"
        " once; `cortex explain MODEL` names what is awaited.",
        {"{{model}}": f"{quantile(0.95, QUEUE, 'Q', 'model')} {EACH_MODEL}"}, "s"),
     counts("Queued per model",
        "Requests that wait just now. A plateau at `limits.max_queue` means that clients get 429.",
        {"{{model}}": f"sum by (model) (cortex_queue_depth{{Q}}) {EACH_MODEL}"}),
     lines("Longest wait per model",
        "For how long the request has waited that waits longest. A straight slope up: nothing is being served to it;"
        " `cortex explain MODEL` says why.",
        {"{{model}}": f"max by (model) (cortex_queue_oldest_seconds{{Q}}) {EACH_MODEL}"}, "s")),
    (8, area("Requests per node",
        "Finished requests a second. `unknown` never reached a node: refused, timed out in the queue, or for a model that"
        " nobody has.",
        {"{{node}}": f"{rate(REQUESTS, 'node')} {EACH_NODE}"}, "reqps"),
     area("Errors by code",
        "Failed requests a second. What each code means and what to do about it is in docs/operations.md, Error codes.",
        {"{{code}}": f"{rate('cortex_request_errors_total{G}', 'code')} {none_yet('code')}"}, "reqps"),
     bars("Retries per node",
        "Tries beyond the first, a minute, by the node that served in the end. Many: some other node fails before its"
        " first byte; Errors by code and `cortex events` name it.",
        {"{{node}}": f"60 * {rate('cortex_retries_total{N}', 'node')} {EACH_NODE}"})),
    (8, lines("Requests per key",
        "Finished requests a second of each API key, whatever came of them. `cortex history --stats --by client` has them"
        " with latencies.",
        {"{{key}}": f"{rate('cortex_key_requests_total{G}', 'key')} {none_yet('key')}"}, "reqps"),
     lines("Tokens per key",
        "Tokens a second of each API key, as nodes report them. One that takes what others need: `tokens_per_minute` of its"
        " `[[auth.keys]]`.",
        {"{{key}}, prompt": f"{rate('cortex_key_prompt_tokens_total{G}', 'key')} {none_yet('key')}",
         "{{key}}, completion": f"{rate('cortex_key_completion_tokens_total{G}', 'key')} {none_yet('key')}"}, "short"),
     lines("Refusals per key",
        "Requests beyond a limit of their key, which got a 429. Constant: the limit is too low, or the client does not heed"
        " `Retry-After`.",
        {"{{key}}, {{limit}}":
            f"{rate('cortex_key_refusals_total{G}', 'key, limit')} {none_yet('key', 'limit')}"}, "reqps")),
]  # fmt: skip
SWAPS = [
    (8, bars("Cold starts per model",
        "Requests a minute that waited for a load. Often, for the same models in turn: they displace each other. Pin one,"
        " raise `eviction.min_residency_s`, or add memory.",
        {"{{model}}": f"60 * {rate('cortex_cold_starts_total{M}', 'model')} {EACH_MODEL}"}),
     lines("Cold wait p95 per model",
        "What requests waited for loads, the slowest twentieth of those that did. Longer than Load duration: they also"
        " waited for what had to go first; `cortex why REQUEST-ID` tells one of them.",
        {"{{model}}": f"{quantile(0.95, 'cortex_cold_wait_seconds', 'Q', 'model')} {EACH_MODEL}"}, "s"),
     lines("Time spent on loads",
        "Share of its time that a node loads models, failed loads included. Above a tenth for long: it holds too many in"
        " turn; `cortex replay --advise` computes what pins or another rule would save.",
        {"{{node}}": f"{rate('cortex_load_seconds_total{M}', 'node')} {EACH_NODE}"}, "percentunit")),
    (8, bars("Loads per model",
        "Loads that succeeded, a minute. `cortex events --follow` tells why each was begun.",
        {"{{model}}": f"60 * {rate('cortex_model_load_seconds_count{M}', 'model')} {EACH_MODEL}"}),
     bars("Evictions by reason",
        "Models unloaded to make room, a minute. Some are normal. Many: what is used together does not fit together; fewer"
        " models, smaller quantisations, or another node.",
        {"{{reason}}": f"60 * {rate('cortex_evictions_total{G}', 'reason')}"}),
     bars("Load failures per model and node",
        "Loads that failed, a minute. Any: the node's log has its words, `cortex events` has their gist. Out of memory is"
        " learned from; a broken file is not.",
        {"{{model}} on {{node}}":
            f"60 * {rate('cortex_model_load_failures_total{M}', 'model, node')} {EACH_PLACE}"})),
    (8, lines("Load duration per model and node",
        "Mean of the loads in each interval. Slower than it was: cold page cache, a busy disk, a network file system. Near"
        " `limits.load_timeout_s`: raise that.",
        {"{{model}} on {{node}}": f"{rate('cortex_model_load_seconds_sum{M}', 'model, node')}"
            f" / ({rate('cortex_model_load_seconds_count{M}', 'model, node')} > 0) {EACH_PLACE}"},
        "s", style="points"),
     lines("Error of guessed sizes",
        "How far off the guessed size of a model was that nobody had seen yet, as a share of what it took. Often over a"
        " half: loads are tried where they do not fit, or more is unloaded than must be; give the sizes in"
        " `[models.\"ID\"] vram_mb`.",
        {"mean": f"{rate('cortex_model_size_guess_error_ratio_sum{G}')}"
            f" / ({rate('cortex_model_size_guess_error_ratio_count{G}')} > 0) {IN_ALL}"}, "percentunit", style="points"),
     counts("Defrag cycles per node",
        "Unloads since the node's restart. At `eviction.defrag_after_cycles` it becomes due, with an agent it is restarted"
        " and this falls to 0.",
        {"{{node}}": "max by (node) (cortex_defrag_cycles{N})"}, step="stepAfter")),
    (6, states("Defrag due",
        "Nodes that want a restart. For long: no agent beside the node, or it is never idle. `cortex status` says which; by"
        " hand: `cortex drain NODE`, restart its service, `cortex undrain NODE`.",
        {"{{node}}": "max by (node) (cortex_defrag_due{N})"},
        {"0": ("no", "transparent"), "1": ("due", "orange")}),
     states("Wedged",
        "Models that their node neither loads nor lets go of any more. A restart of the node clears it: an agent does that"
        " when the node is idle, `cortex defrag NODE` now.",
        {"{{model}} on {{node}}": "max by (model, node) (cortex_model_wedged{M})"},
        {"0": ("no", "transparent"), "1": ("wedged", "red")})),
]  # fmt: skip
ROWS = {"Fleet": FLEET, "Models": MODELS, "Requests": ASKED, "Swaps": SWAPS}


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    text = filled(query)
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "definition": text,
        "query": {
            "qryType": 1,
            "query": text,
            "refId": "PrometheusVariableQueryEditor-VariableQuery",
        },
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "description": "",
        "hide": 0,
        "options": [],
        "refresh": 2,
        "regex": "",
        "skipUrlSync": False,
        "sort": 1,
    }


VARIABLES = [
    {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "queryValue": "",
        "includeAll": False,
        "multi": False,
        "current": {},
        "hide": 0,
        "options": [],
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
    },
    variable("gateway", "Gateway", "label_values(cortex_store_ok, instance)"),
    variable("node", "Node", "label_values(cortex_node_up{G}, node)"),
    variable("model", "Model", "label_values(cortex_model_resident{N}, model)"),
]


def panels() -> list[dict[str, Any]]:
    """Rows and panels with their places: each line is as wide as the page, in equal parts."""
    drawn: list[dict[str, Any]] = []
    y = 0
    for title, bands in ROWS.items():
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        drawn.append(
            {
                "id": len(drawn) + 1,
                "type": "row",
                "title": title,
                "gridPos": place,
                "collapsed": False,
                "panels": [],
            }
        )
        y += 1
        for height, *band in bands:
            width = WIDTH // len(band)
            for at, panel in enumerate(band):
                place = {"x": at * width, "y": y, "w": width, "h": height}
                drawn.append(panel.drawn(len(drawn) + 1, place))
            y += height
    return drawn


def dashboard() -> dict[str, Any]:
    drawn = panels()
    kinds = sorted({panel["type"] for panel in drawn} - {"row"})
    return {
        "__elements": {},
        "__requires": [
            {"type": "grafana", "id": "grafana", "name": "Grafana", "version": "10.0.0"},
            {
                "type": "datasource",
                "id": "prometheus",
                "name": "Prometheus",
                "version": "1.0.0",
            },
            *(
                {"type": "panel", "id": kind, "name": NAMES[kind], "version": ""}
                for kind in kinds
            ),
        ],
        "annotations": {
            "list": [
                {
                    "builtIn": 1,
                    "datasource": {"type": "grafana", "uid": "-- Grafana --"},
                    "enable": True,
                    "hide": True,
                    "iconColor": "rgba(0, 211, 255, 1)",
                    "name": "Annotations & Alerts",
                    "type": "dashboard",
                }
            ]
        },
        "description": "A cortex gateway and the nodes behind it. Every panel's description says what to do when it looks"
        " bad.",
        "editable": True,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "id": None,
        "links": [],
        "liveNow": False,
        "panels": drawn,
        "refresh": "30s",
        "schemaVersion": 38,
        "style": "dark",
        "tags": ["cortex", "llm"],
        "templating": {"list": VARIABLES},
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "timezone": "",
        "title": "cortex",
        "uid": "cortex",
        "version": 1,
        "weekStart": "",
    }


def written() -> str:
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(written())
