"""Which models are resident: mistral.rs's three containers, with their traps (contract §2).

Owns `loaded`, `unloaded`, `reloading` and the default; nothing else writes them.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from cortex.devnode.engine import Engine, LoadFailedError
from cortex.devnode.errors import (
    EngineGoneError,
    NoDefaultError,
    ReloadFailedError,
    ReloadingError,
    UnknownModelError,
    VanishedError,
)
from cortex.devnode.knobs import Knobs
from cortex.devnode.profile import Profile
from cortex.devnode.stats import Stats

DEFAULT: Final = "default"


@dataclass(slots=True)
class Seat:
    """One resident model: its queue, its request counter, and the requests on it."""

    model: str
    slots: asyncio.Semaphore
    next_id: int = 0
    """mistral.rs numbers requests per engine, so ids repeat across models and restarts."""
    cuts: set[asyncio.Timeout] = field(default_factory=set)

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[str]:
        """One request's time on the engine; yields its id.

        Raises:
            EngineGoneError: The engine was taken away; raised in the holder, wherever it waits.
        """
        # A deadline that is set only when the engine goes: it interrupts the holder at no
        # cost per chunk and, unlike a bare cancel, cannot be mistaken for a lost client.
        cut = asyncio.timeout(None)
        try:
            async with cut:
                self.cuts.add(cut)
                request_id = str(self.next_id)
                self.next_id += 1
                yield request_id
        except TimeoutError:
            if cut.expired():
                raise EngineGoneError("No response received from the model.") from None
            raise
        finally:
            self.cuts.discard(cut)

    def cut(self) -> None:
        """Take the engine away from everyone who holds it."""
        now_s = asyncio.get_running_loop().time()
        gone, self.cuts = self.cuts, set()
        for holder in gone:
            holder.reschedule(now_s)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a lifecycle call says."""

    status: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the node's configuration names."""

    models: Sequence[str]
    unloaded: Collection[str] = ()
    """Those of `models` that are not resident after a start."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Ids by other names; they resolve but are not listed."""
    default: str | None = None
    """What `default` means after a start; None: the first resident model."""

    @property
    def resident(self) -> list[str]:
        """The models a start loads."""
        return [model for model in self.models if model not in self.unloaded]


class Residency:
    """The state machine behind `/v1/models` and the three lifecycle calls."""

    def __init__(
        self,
        engine: Engine,
        declared: Declared,
        *,
        profile: Profile,
        knobs: Knobs,
        stats: Stats,
    ) -> None:
        resident = declared.resident
        self._engine = engine
        self._aliases = declared.aliases
        self._profile = profile
        self._knobs = knobs
        self._stats = stats
        self._listings = 0
        self.loaded: dict[str, Seat] = {model: self._seat(model) for model in resident}
        self.unloaded: dict[str, None] = dict.fromkeys(
            model for model in declared.models if model in declared.unloaded
        )
        self.reloading: dict[str, None] = {}
        self.default = declared.default or next(iter(resident), None)

    def _seat(self, model: str) -> Seat:
        return Seat(model, asyncio.Semaphore(self._knobs.max_seqs))

    def _resolve(self, name: str) -> str:
        return self._aliases.get(name, name)

    def status(self, name: str) -> Answer:
        """The `status` call."""
        model = self._resolve(name)
        if model in self.reloading:
            return Answer("reloading")
        if model in self.loaded:
            return Answer("loaded")
        return Answer("unloaded" if model in self.unloaded else "not_found")

    async def unload(self, name: str) -> Answer:
        """The `unload` call: not graceful, and done before memory is free.

        1. Not loaded but known, a load in progress included: a no-op that says `unloaded`.
        2. Unknown: `not_found`.
        3. Before 0.9.1: the model is gone for good, its memory is not.
        4. Otherwise its requests are cut, and for a moment it is in neither map.
        """
        model = self._resolve(name)
        seat = self.loaded.get(model)
        if seat is None:
            return Answer("unloaded" if model in self.unloaded else "not_found")
        del self.loaded[model]
        if not self._profile.unload_works:
            return Answer("no_loader_config")
        if self.default == model:
            self.default = next(iter(self._shuffled(0)), None)
        seat.cut()
        self._engine.unload(model)
        if self._knobs.unload_gap_s > 0:
            await asyncio.sleep(self._knobs.unload_gap_s)
        self.unloaded[model] = None
        return Answer("unloaded")

    def will_load(self, name: str) -> bool:
        """A `reload` that came now would begin a load."""
        model = self._resolve(name)
        return model in self.unloaded and model not in self.reloading

    async def reload(self, name: str) -> Answer:
        """The `reload` call, with its trap.

        1. Already reloading: says so at once.
        2. The flag is set, and stays set for ever if the model is not in `unloaded`.
        3. A failed load gives the model back to `unloaded` and may be tried again.
        """
        model = self._resolve(name)
        if model in self.reloading:
            return Answer("reloading")
        self.reloading[model] = None
        if model not in self.unloaded:
            return Answer("not_found")
        stats = self._stats
        stats.loads[model] += 1
        stats.loading += 1
        stats.max_loading = max(stats.max_loading, stats.loading)
        try:
            await self._engine.load(model)
        except LoadFailedError as error:
            del self.reloading[model]
            return Answer("internal_error", str(error))
        finally:
            stats.loading -= 1
        del self.unloaded[model]
        self.loaded[model] = self._seat(model)
        del self.reloading[model]
        return Answer("loaded")

    def named(self, name: str) -> str:
        """The id an inference request means. Raises `NoDefaultError`."""
        if name != DEFAULT:
            return self._resolve(name)
        if self.default is None:
            raise NoDefaultError(self._words("engine state lock is poisoned", "EnginePoisoned"))
        return self.default

    def ready(self, model: str) -> Seat | None:
        """The seat of a resident model, or None when it has to be loaded first.

        Raises:
            ReloadingError: Somebody else has it loading; requests do not wait for that.
            VanishedError: It is listed as reloading, and there is nothing to be reloaded.
            UnknownModelError: There is no such model.
        """
        seat = self.loaded.get(model)
        if seat is not None:
            return seat
        if model in self.reloading and model not in self.unloaded:
            raise self._vanished(model)
        if model in self.reloading:
            text = self._words(
                f"model `{model}` is being reloaded", f'ModelReloading("{model}")'
            )
            raise ReloadingError(text)
        if model in self.unloaded and self._knobs.requests_load:
            return None
        raise UnknownModelError(self._unknown(model))

    def check_known(self, model: str) -> None:
        """Raises `UnknownModelError` unless the node has such a model, resident or not."""
        if model not in self.loaded and model not in self.unloaded:
            raise UnknownModelError(self._unknown(model))

    def loaded_by_request(self, model: str, answer: Answer) -> Seat:
        """The seat after this request's own load. Raises `ReloadFailedError` if it failed."""
        seat = self.loaded.get(model)
        if seat is None:
            raise ReloadFailedError(f"failed to reload model: {answer.error or answer.status}")
        return seat

    def _unknown(self, model: str) -> str:
        if not self._profile.readable_errors:
            return f'ModelNotFound("{model}")'
        if not self.loaded:
            return "No models are currently loaded."
        known = ", ".join(self._shuffled(0))
        return (
            f"Requested model '{model}' is not available. Available models: {known}. "
            "Use 'default' to use the default model."
        )

    def _vanished(self, model: str) -> VanishedError | UnknownModelError:
        if not self._profile.readable_errors:
            return UnknownModelError(self._unknown(model))
        return VanishedError(f"model `{model}` was not found")

    def _words(self, readable: str, debug: str) -> str:
        return readable if self._profile.readable_errors else debug

    def entries(self) -> list[tuple[str, str | None]]:
        """(id, status) in listing order: default, reloading, loaded (no order), unloaded."""
        self._listings += 1
        rest = [model for model in self.unloaded if model not in self.reloading]
        return [
            (DEFAULT, None),
            *((model, "reloading") for model in self.reloading),
            *((model, "loaded") for model in self._shuffled(self._listings)),
            *((model, "unloaded") for model in rest),
        ]

    def _shuffled(self, salt: int) -> list[str]:
        # mistral.rs iterates a hash map: any order, and another one each time.
        return sorted(self.loaded, key=lambda model: zlib.crc32(f"{salt}{model}".encode()))
