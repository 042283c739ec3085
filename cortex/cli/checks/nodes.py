"""Each node as it was just seen from here, beside what the gateway says of it. Pure."""

from collections.abc import Iterator

from cortex.adminapi import EventRow, NodeStatus
from cortex.cli.checks.finding import Finding, error, ok, warn
from cortex.cli.draft import hardware
from cortex.cli.text import ago, counted, safe, span
from cortex.config.schema import Config, Node
from cortex.core.records import EventKind
from cortex.core.survey import Survey, Trouble
from cortex.core.versions import what_lacks, why_unload_destroys

SKEW_S = 5.0
"""Clocks that NTP keeps differ by milliseconds; by more, times in two logs no longer fit together."""
ADVICE = {
    Trouble.UNREACHABLE: "does mistral.rs run there, and listen on that address (`mistralrs serve"
    " --host 0.0.0.0 -p PORT`)?",
    Trouble.SILENT: "is the machine on, and does a firewall drop what goes there?",
    Trouble.KEY: "api_key_file of the node names a file with its key",
    Trouble.GATEWAY: "endpoint has to be a node's, not a gateway's",
    Trouble.STRANGE: "is the port that of mistral.rs?",
}


def node(
    wanted: Node, survey: Survey, running: NodeStatus | None, config: Config
) -> Iterator[Finding]:
    """One node.

    Args:
        wanted: As it is configured.
        survey: As it was seen from here.
        running: As the gateway sees it; None = no gateway answers, or it knows no such node.
        config: The whole of it.
    """
    if survey.trouble is not None:
        said = f"{wanted.endpoint}: {safe(survey.said)}"
        yield error(wanted.name, said, ADVICE[survey.trouble])
        return
    yield ok(wanted.name, _summary(wanted, survey))
    yield from _oddities(wanted, survey, config)
    yield from _version(wanted, survey)
    yield from _memory(wanted, survey)
    if running is not None:
        yield from _as_the_gateway_sees_it(wanted, running)


def _summary(wanted: Node, survey: Survey) -> str:
    models = survey.listing.models
    facts = [f"{wanted.endpoint} answers in {span(survey.answer_s)}"]
    if survey.info is not None:
        version = survey.info.version
        facts.append(f"mistral.rs {safe(version)}" if version else "mistral.rs")
        facts += hardware(survey.info)
    facts += [counted(len(models), "model"), f"{len(survey.listing.loaded)} loaded"]
    return ", ".join(facts)


def _oddities(wanted: Node, survey: Survey, config: Config) -> Iterator[Finding]:
    name = wanted.name
    if survey.answer_s > config.polling.timeout_s / 2:
        yield warn(
            name,
            f"took {span(survey.answer_s)} to list its models; polling.timeout_s is"
            f" {span(config.polling.timeout_s)}",
            "raise polling.timeout_s, or see what keeps it busy",
        )
    if not survey.listing.models:
        yield warn(name, "lists no model")
    if survey.listing.remark:
        yield warn(name, safe(survey.listing.remark))
    for model in sorted(survey.listing.duplicated):
        yield warn(
            name,
            f"lists {safe(model)} twice: it was told to reload what was loaded, and can load it"
            " no more once it is unloaded",
            "restart the node",
        )
    if survey.skew_s is not None and abs(survey.skew_s) > SKEW_S:
        way = "ahead of" if survey.skew_s > 0 else "behind"
        yield warn(
            name,
            f"its clock is {span(abs(survey.skew_s))} {way} this one",
            "timedatectl set-ntp true, on whichever is wrong",
        )


def _version(wanted: Node, survey: Survey) -> Iterator[Finding]:
    if survey.info is None:
        yield warn(wanted.name, f"does not say what it is: {safe(survey.no_info_reason)}")
        return
    for words in what_lacks(survey.info.version):
        yield warn(wanted.name, safe(words), "upgrade mistral.rs")
    destroys = why_unload_destroys(survey.info.version)
    if destroys is None or wanted.lifecycle == "off":
        return
    if wanted.lifecycle == "on":
        yield error(
            wanted.name,
            f'{safe(destroys)}, and lifecycle = "on" has cortex do it',
            'upgrade mistral.rs, or lifecycle = "auto"',
        )
    else:
        yield warn(
            wanted.name,
            f"{safe(destroys)}: nothing is loaded or unloaded there",
            "upgrade mistral.rs",
        )


def _memory(wanted: Node, survey: Survey) -> Iterator[Finding]:
    reported = None if survey.info is None else survey.info.vram_total_mib
    if wanted.vram_mb is None:
        if reported is None:
            yield warn(
                wanted.name,
                "its device memory is not known: it reports none, and no vram_mb is set",
                "vram_mb says what its models may take, in MiB",
            )
    elif reported is not None and wanted.vram_mb > reported:
        yield warn(
            wanted.name,
            f"vram_mb is {wanted.vram_mb}, and it reports {reported} MiB",
            "leave vram_mb out, or make it less",
        )


def unloads(name: str, last: EventRow | None, now_ms: int) -> Iterator[Finding]:
    """Whether they work there, by the last one that the gateway remembers; None = it has seen none."""
    if last is None:
        return
    when = f"{safe(last.model or 'a model')} {ago(last.at_ms, now_ms=now_ms)}"
    if last.kind == EventKind.UNLOADED:
        yield ok(name, f"unloads work: the last was of {when}")
    else:
        yield warn(
            name,
            f"the last unload, of {when}, failed: {safe(last.reason)}",
            f"cortex events --node {name} --kind {EventKind.UNLOAD_FAILED}",
        )


def _as_the_gateway_sees_it(wanted: Node, running: NodeStatus) -> Iterator[Finding]:
    name = wanted.name
    if running.health not in {"up", "unknown"}:
        why = f": {safe(running.reason)}" if running.reason else ""
        yield error(
            name,
            f"answers here, and the gateway has it as {safe(running.health)}{why}",
            "is the way from the gateway's machine to it another one?",
        )
    if running.draining:
        yield warn(
            name,
            f"is out of service ({', '.join(map(safe, running.drains)) or 'draining'})",
            f"cortex undrain {name}" if "request" in running.drains else "",
        )
    if running.may_load and not running.may_unload:
        yield warn(name, f"does not unload: {safe(running.no_unload_reason)}")
    if running.residue_mib:
        yield ok(name, f"{running.residue_mib} MiB did not come back from unloads")
    yield from _agent(name, running)


def _agent(name: str, running: NodeStatus) -> Iterator[Finding]:
    if running.agent_age_s is not None:
        yield ok(name, f"its agent reported {span(running.agent_age_s)} ago")
    elif running.defrag_due:
        yield warn(
            name,
            f"wants a restart ({safe(running.defrag_reason)}), and no agent is there to do it",
            "restart mistral.rs, or set up `cortex agent` beside it",
        )
    else:
        yield ok(name, "no agent: a restart, when it is due, is yours to do")
