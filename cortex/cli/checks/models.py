"""Models that the configuration speaks of, beside what the nodes list. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cortex.cli.checks.finding import Finding, error, ok, warn
from cortex.cli.text import gib, safe, some
from cortex.config.schema import Config
from cortex.core.listing import ReportedStatus
from cortex.core.nearness import near_names
from cortex.core.survey import Survey

MOST_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of the fleet's models."""

    surveys: Mapping[str, Survey]
    """By node."""
    sizes_mib: Mapping[str, int]
    """Of models: configured, or learned."""

    @property
    def listed(self) -> dict[str, list[str]]:
        """Every model with the nodes that list it."""
        found: dict[str, list[str]] = {}
        for node, survey in self.surveys.items():
            for model in survey.listing.models:
                found.setdefault(model, []).append(node)
        return found

    @property
    def unanswered(self) -> list[str]:
        return [node for node, survey in self.surveys.items() if survey.trouble is not None]


def models(config: Config, seen: Seen) -> Iterator[Finding]:
    """Pins, names and sizes."""
    listed = seen.listed
    found = [
        *_pins(config, seen),
        *_names(config, seen, listed),
        *_places(config, listed),
        *_too_large(config, seen, listed),
        *_sizes(config, seen, listed),
    ]
    yield ok("models", f"{len(listed)} listed by the nodes that answer")
    yield from found


def _pins(config: Config, seen: Seen) -> Iterator[Finding]:
    for node in config.nodes:
        survey = seen.surveys[node.name]
        if survey.trouble is not None:
            continue
        for model in node.pinned:
            status = {str(name): word for name, word in survey.listing.models.items()}.get(
                model
            )
            if status is None:
                yield error(
                    "models",
                    f"{safe(model)} is pinned on {node.name}, which does not list it",
                    _meant(model, list(survey.listing.models)),
                )
            elif status is ReportedStatus.UNLOADED:
                yield warn(
                    "models",
                    f"{safe(model)} is pinned on {node.name} and not loaded there",
                    f"`cortex explain --node {node.name} {safe(model)}` says what it waits for",
                )


def _names(config: Config, seen: Seen, listed: Mapping[str, object]) -> Iterator[Finding]:
    """Models with settings or another name that no node lists."""
    wanted = {target: f"the alias {alias}" for alias, target in config.aliases.items()}
    wanted |= {model: f'[models."{model}"]' for model in config.models}
    for model, where in wanted.items():
        if model in listed:
            continue
        unsure = f"; {', '.join(seen.unanswered)} may" if seen.unanswered else ""
        said = f"{safe(where)} is for {safe(model)}, which no node lists{unsure}"
        yield warn("models", said, _meant(model, list(listed)))


def _places(config: Config, listed: Mapping[str, list[str]]) -> Iterator[Finding]:
    for model_id, model in config.models.items():
        places = listed.get(model_id)
        if model.nodes is not None and places and not set(model.nodes) & set(places):
            yield error(
                "models",
                f"{safe(model_id)} may run on {', '.join(model.nodes)} only, and is listed by"
                f" {', '.join(places)}",
                "nodes of the model names where it may run",
            )


def _too_large(
    config: Config, seen: Seen, listed: Mapping[str, list[str]]
) -> Iterator[Finding]:
    for model, places in listed.items():
        size_mib = seen.sizes_mib.get(model)
        totals = [_total_mib(config, seen, node) for node in places]
        known = [total for total in totals if total is not None]
        if size_mib is None or len(known) < len(totals) or size_mib <= max(known):
            continue
        yield error(
            "models",
            f"{safe(model)} takes {gib(size_mib)} GiB, and the largest of its nodes has"
            f" {gib(max(known))} GiB",
            "vram_mb of the model or of the node is too much or too little, or it needs another node",
        )


def _total_mib(config: Config, seen: Seen, name: str) -> int | None:
    configured = next((node.vram_mb for node in config.nodes if node.name == name), None)
    info = seen.surveys[name].info
    return configured or (None if info is None else info.vram_total_mib)


def _sizes(config: Config, seen: Seen, listed: Mapping[str, list[str]]) -> Iterator[Finding]:
    """Models whose size nobody knows, where one may have to make room for another."""
    shared = {name for name, survey in seen.surveys.items() if len(survey.listing.models) > 1}
    off = {node.name for node in config.nodes if node.lifecycle == "off"}
    unknown = [
        model
        for model, places in listed.items()
        if model not in seen.sizes_mib and set(places) & (shared - off)
    ]
    if unknown:
        yield warn(
            "models",
            f"the size of {some(unknown, MOST_NAMED)} is not known yet: a guess until the first load",
            f'[models."{safe(unknown[0])}"] vram_mb = … says it now',
        )


def _meant(model: str, known: list[str]) -> str:
    near = near_names(model, known)
    return f"did you mean {safe(near[0])}?" if near else ""
