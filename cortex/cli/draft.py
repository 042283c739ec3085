"""The text of a `cortex.toml` for nodes that were looked at: pure."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from cortex.cli.text import safe, some
from cortex.core.listing import NodeInfo
from cortex.core.survey import Survey, Trouble
from cortex.core.versions import why_unload_destroys
from cortex.gateway.provenance import is_this_machine

LONGEST_NAME = 63
MOST_LISTED = 20
"""Models that a comment names."""
THIS_MACHINE = "localhost"
_NOT_OF_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_ADDRESS = re.compile(r"[\d.]+|.*:.*")

HEAD = """\
# The gateway's configuration, see cortex.toml(5). After a change: cortex check-config, then
# systemctl reload cortex. Lines that begin with # and a key show a default, or an example.

[gateway]
#listen = "0.0.0.0:8000"
#metrics_listen = "127.0.0.1:9100"
"""
TAIL = """
# Without keys the API is open to whoever reaches it, and the fleet is shown to and changed by this
# machine's user only. `cortex keys add NAME` makes a key.
#[[auth.keys]]
#name = "me"
#key_sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
#role = "admin"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One node, and what it said."""

    name: str
    endpoint: str
    survey: Survey


def names_for(endpoints: Sequence[str]) -> list[str]:
    """A name for each, by its host: the first label where that tells them apart, else more.

    `gpu-1`, `gpu-1.lab`, `gpu-1.lab-8080`; `10.0.0.7`; the file's name of a socket.
    """
    choices = [_choices(endpoint) for endpoint in endpoints]
    taken = [0] * len(endpoints)
    while True:
        names = [options[at] for options, at in zip(choices, taken, strict=True)]
        several = {name for name, count in Counter(names).items() if count > 1}
        longer = [
            index
            for index, name in enumerate(names)
            if name in several and taken[index] + 1 < len(choices[index])
        ]
        if not longer:
            break
        for index in longer:
            taken[index] += 1
    return _numbered(names)


def _choices(endpoint: str) -> list[str]:
    """Names from short to long."""
    parts = urlsplit(endpoint)
    if parts.scheme == "unix":
        stem = parts.path.rpartition("/")[2]
        return [_name(stem.rpartition(".")[0] or stem), _name(parts.path)]
    host = (parts.hostname or "").encode("idna").decode()
    host = THIS_MACHINE if is_this_machine(host) else host
    label = host if _ADDRESS.fullmatch(host) else host.partition(".")[0]
    port = f"-{parts.port}" if parts.port else ""
    path = parts.path
    plain = [label, host, host + port, host + port + path]
    return list(dict.fromkeys(map(_name, plain)))


def _name(text: str) -> str:
    return _NOT_OF_A_NAME.sub("-", text).strip("._-")[:LONGEST_NAME] or "node"


def _numbered(names: Sequence[str]) -> list[str]:
    """Those that still are the same, apart."""
    seen: set[str] = set()
    told = []
    for name in names:
        unique, number = name, 1
        while unique in seen:
            number += 1
            unique = f"{name[: LONGEST_NAME - 5]}-{number}"
        seen.add(unique)
        told.append(unique)
    return told


def draft(nodes: Sequence[Found]) -> str:
    """The whole file."""
    return HEAD + "".join(map(_node, nodes)) + _models(nodes) + TAIL


def _node(node: Found) -> str:
    lines = ["", *(f"# {line}" for line in remarks(node))]
    lines += [
        "[[nodes]]",
        f"name = {_quoted(node.name)}",
        f"endpoint = {_quoted(node.endpoint)}",
    ]
    if node.survey.trouble is Trouble.KEY:
        lines.append('#api_key_file = "/etc/cortex/node.key"')
    if _total_mib(node.survey) is None:
        lines.append("#vram_mb = 24576")
    example = next(iter(node.survey.listing.loaded), "org/model")
    lines.append(f"#pinned = [{_quoted(example)}]")
    return "\n".join(lines) + "\n"


def remarks(node: Found) -> Iterator[str]:
    """What is known of a node, and what that means, in lines for a comment."""
    survey = node.survey
    if survey.trouble is not None:
        yield f"did not say what it is when this was written: {safe(survey.said)}"
        return
    info = survey.info or NodeInfo(version=None)
    facts = [f"mistral.rs {safe(info.version or 'of an unknown version')}", *hardware(info)]
    yield ", ".join(facts)
    loaded = survey.listing.loaded
    other = [model for model in survey.listing.models if model not in loaded]
    for word, models in (("loaded", loaded), ("not loaded", other)):
        if models:
            yield f"{word}: {some(models, MOST_LISTED)}"
    yield from warnings(survey)


def hardware(info: NodeInfo) -> Iterator[str]:
    """Memory and accelerators, as far as a node told them."""
    if info.vram_total_mib is not None:
        yield f"{info.vram_total_mib / 1024:.1f} GiB"
    for name, count in Counter(info.accelerators).items():
        yield f"{count} x {safe(name)}" if count > 1 else safe(name)


def warnings(survey: Survey) -> Iterator[str]:
    """What a person should know of a node that answers."""
    if survey.info is None:
        yield f"did not say what it is: {safe(survey.no_info_reason)}"
    destroys = why_unload_destroys(survey.info.version if survey.info else None)
    if destroys and survey.info is not None:
        yield f"{safe(destroys)}: cortex loads and unloads nothing there"
    if survey.info is not None and survey.info.vram_total_mib is None:
        yield "it reports no device memory: give it vram_mb"
    if not survey.listing.models:
        yield "it lists no model"


def _models(nodes: Sequence[Found]) -> str:
    """Examples with an id that exists."""
    listed = dict.fromkeys(model for node in nodes for model in node.survey.listing.models)
    example = next(iter(listed), "org/model")
    short = _name(example.rpartition("/")[2]).lower()
    # An alias of its own name would be a mistake.
    short = "small" if short == example else short
    return f"""
# Names of your own for models.
#[aliases]
#{_quoted(short)} = {_quoted(example)}

# Sizes are learned with the first load; until then this helps.
#[models.{_quoted(example)}]
#vram_mb = 8192
"""


def _total_mib(survey: Survey) -> int | None:
    return None if survey.info is None else survey.info.vram_total_mib


def _quoted(text: str) -> str:
    """A JSON string of ASCII is one of TOML, but for what is beyond 16 bits."""
    if all(ord(char) < 0x10000 for char in text):
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False)
