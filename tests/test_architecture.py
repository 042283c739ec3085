"""The direction of imports: an inner layer never imports an outer one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "cortex"

# From the outside in; those on one line are independent of each other.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"daemon", "agent"},
    {"process", "prepared"},
    {"policies"},
    {"gateway", "replay"},
    {"fleet", "node", "store"},
    {"liveapi", "agentapi"},
    {"config", "telemetry", "adminapi"},
    {"core"},
)
ALONE = {"devnode", "migrations", "__init__", "__version__"}
DRIVERS = {"aiohttp", "aiosqlite", "pydantic", "prometheus_client", "rich"}
# What a layer may use of cortex, where that is less than everything further in.
MAY_USE = {
    "agent": {"node", "telemetry", "agentapi", "core"},
    "replay": {"fleet", "core"},
}
# What only some layers may use.
ONLY_IN = {
    "aiosqlite": {"store"},
    "sqlite3": {"store"},
    "opentelemetry": {"telemetry"},
    "prometheus_client": {"telemetry", "gateway"},
    "rich": {"cli"},
    "pydantic": {"config", "node", "adminapi", "agentapi", "liveapi", "gateway"},
}


def layer_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def sources() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield parts[0], path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "cortex":
                yield from (f"cortex.{alias.name}" for alias in node.names)
            else:
                yield node.module


def depth(layer: str) -> int:
    return next(index for index, layers in enumerate(LAYERS) if layer in layers)


def forbidden(layer: str, imported: str) -> str | None:
    """Why `layer` may not import `imported`, or None."""
    top = imported.split(".")[0]
    if top == "cortex":
        target = layer_of(imported)
        if target in ALONE - {"devnode"}:
            return None
        if layer == "devnode":
            return "devnode is independent" if target != "devnode" else None
        if target == "devnode":
            return None if layer == "cli" else "only the demo starts devnodes"
        if target == layer:
            return None
        if depth(target) < depth(layer):
            return "an inner layer imports an outer one"
        if target not in MAY_USE.get(layer, {target}):
            return f"only {', '.join(sorted(MAY_USE[layer]))} may be used"
        if depth(target) == depth(layer):
            return "layers side by side are independent"
        return (
            "gateway sees ports, not drivers"
            if (layer, target) in {("gateway", "node"), ("gateway", "store")}
            else None
        )
    if layer == "core" and top in DRIVERS | {"asyncio", "time", "random", "logging"}:
        return "core is pure"
    if layer != "devnode" and top in ONLY_IN and layer not in ONLY_IN[top]:
        return f"only {', '.join(sorted(ONLY_IN[top]))} may"
    return None


def test_every_package_has_a_layer():
    """A new package is placed in the layers before it is used."""
    known = set().union(*LAYERS) | ALONE
    assert {layer for layer, _ in sources()} <= known


def test_imports_point_inwards():
    """No import goes against the layers, and each driver stays in its own."""
    broken = [
        f"{path.relative_to(ROOT)} imports {name}: {why}"
        for layer, path in sources()
        for name in imports(path)
        if (why := forbidden(layer, name))
    ]
    assert broken == []


FRONT_DOOR = {"admission", "fleet", "lease", "policy", "ports", "verdict", "waits"}
"""What others may know of the fleet: itself, and the values that go in and out."""


def test_the_fleet_has_one_front_door():
    """Nobody else writes its state, for nobody else can get hold of what does.

    A replay has a fleet of its own, and takes it by its parts.
    """
    besides = [
        f"{path.relative_to(ROOT)} imports {name}"
        for layer, path in sources()
        if layer not in {"fleet", "devnode", "replay"}
        for name in imports(path)
        if name.startswith("cortex.fleet.") and name.split(".")[2] not in FRONT_DOOR
    ]
    assert besides == []


@pytest.mark.parametrize(
    ("layer", "imported"),
    [
        ("core", "cortex.fleet.state"),
        ("fleet", "cortex.node.client"),
        ("gateway", "cortex.store.store"),
        ("store", "cortex.gateway.app"),
        ("core", "asyncio"),
        ("devnode", "cortex.core.ids"),
        ("gateway", "cortex.devnode.scripted"),
        ("fleet", "sqlite3"),
        ("agent", "cortex.config.load"),
        ("agent", "cortex.fleet.state"),
        ("agent", "cortex.daemon"),
        ("node", "cortex.agent.agent"),
        ("replay", "cortex.store.store"),
        ("replay", "sqlite3"),
        ("fleet", "cortex.replay.run"),
    ],
)
def test_the_rule_bites(layer: str, imported: str):
    """The rule itself refuses what it is there to refuse."""
    assert forbidden(layer, imported)


def _swallows(handler: ast.ExceptHandler) -> bool:
    names = {
        node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        for node in (ast.walk(handler.type) if handler.type else ())
    }
    if handler.type is not None and not names & {"BaseException", "CancelledError"}:
        return False
    return not any(
        isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(handler)
    )


def test_cancellation_is_never_swallowed():
    """`except CancelledError` or `BaseException` ends in a bare raise."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for layer, path in sources()
        if layer != "devnode"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and _swallows(node)
    ]
    assert found == []


def test_modules_stay_small():
    """A module over 400 lines has a second job."""
    large = {
        str(path.relative_to(ROOT)): count
        for _, path in sources()
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert large == {}
