"""The scripted node: everything a gateway can meet on a mistral.rs node, without a model."""

from collections.abc import Collection, Mapping, Sequence

from cortex.devnode.knobs import Knobs
from cortex.devnode.node import Node
from cortex.devnode.profile import PROFILES, Profile
from cortex.devnode.residency import Declared
from cortex.devnode.scripted_engine import ScriptedEngine


class ScriptedNode(Node):
    """`async with ScriptedNode(["a", "b"], unloaded=["b"], load_s=0.1) as node: node.url`."""

    def __init__(
        self,
        models: Sequence[str] | Mapping[str, int],
        *,
        unloaded: Collection[str] = (),
        aliases: Mapping[str, str] | None = None,
        default: str | None = None,
        profile: str | Profile = "head",
        port: int = 0,
        **knobs: object,
    ) -> None:
        """Describe a node; nothing runs before `start` or `async with`.

        Args:
            models: Ids, or ids with their size in MiB.
            unloaded: Those of `models` that are not resident after a start. A real node
                loads all it declares, so this shortens a test's preparation.
            aliases: Other names by id; they resolve but are not listed.
            default: What `default` means after a start; else the first resident model.
            profile: A version, as a `Profile` or by its name in `profile.PROFILES`.
            port: 0 takes a free one, which later starts keep.
            knobs: Fields of `Knobs`.

        Raises:
            ValueError: An unknown knob or one of the wrong type.
        """
        settings = Knobs()
        if isinstance(models, Mapping):
            settings.size_mib = dict(models)
        settings.update(knobs)
        super().__init__(
            ScriptedEngine(settings),
            Declared(
                models=list(models),
                unloaded=frozenset(unloaded),
                aliases=dict(aliases or {}),
                default=default,
            ),
            profile=profile if isinstance(profile, Profile) else PROFILES[profile],
            knobs=settings,
            port=port,
        )
