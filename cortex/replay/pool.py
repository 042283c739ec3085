"""Several runs at a time, one a processor, at low priority."""

import contextlib
import multiprocessing as mp
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from cortex.replay.run import Result, run
from cortex.replay.scenario import Scenario

LOOK_S = 0.1
"""How often progress is told."""
NICE = 10


class RunFailedError(Exception):
    """A process that ran scenarios ended before them."""


def run_all(
    scenarios: Sequence[Scenario],
    progress: Callable[[int], object] = lambda _: None,
    *,
    most: int | None = None,
) -> list[Result]:
    """The results, in the order of the scenarios.

    Args:
        scenarios: What is to be run.
        progress: Told now and then how many requests have come, of all scenarios together.
        most: Processes; None = as many as there are processors.

    Raises:
        RunFailedError: One of them was killed.
    """
    count = min(len(scenarios), most or len(os.sched_getaffinity(0)))
    if count <= 1 or "fork" not in mp.get_all_start_methods():
        return list(_here(scenarios, progress))
    # Forked, so that the requests, which all have in common, are not copied.
    context = mp.get_context("fork")
    come, taken = context.Array("Q", count), context.Value("Q", 0)
    results: dict[int, Result] = {}
    with contextlib.ExitStack() as stack:
        ends: dict[Connection, int] = {}
        for place in range(count):
            receiving, sending = context.Pipe(duplex=False)
            work = context.Process(
                target=_work, args=(scenarios, taken, come, place, sending), daemon=True
            )
            work.start()
            sending.close()
            stack.callback(_end, work)
            ends[receiving] = place
        while ends:
            for end in wait(list(ends), timeout=LOOK_S):
                assert isinstance(end, Connection)
                try:
                    at, result = end.recv()
                except EOFError:
                    del ends[end]
                else:
                    results[at] = result
            progress(sum(come[:]))
    if len(results) < len(scenarios):
        raise RunFailedError("a run ended early: was its process killed for want of memory?")
    return [results[at] for at in range(len(scenarios))]


def _here(scenarios: Sequence[Scenario], progress: Callable[[int], object]) -> Iterator[Result]:
    before = 0
    for scenario in scenarios:

        def tell(so_far: int, before: int = before) -> None:
            progress(before + so_far)

        yield run(scenario, tell)
        before += len(scenario.asks)
        progress(before)


def _end(work: Any) -> None:
    work.terminate()
    work.join()


def _work(
    scenarios: Sequence[Scenario], taken: Any, come: Any, place: int, sending: Connection
) -> None:
    """Take the next scenario until there is none."""
    # Whoever began this ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICE)
    before = 0
    while True:
        with taken.get_lock():
            at = taken.value
            taken.value += 1
        if at >= len(scenarios):
            return

        def tell(so_far: int, before: int = before) -> None:
            come[place] = before + so_far

        sending.send((at, run(scenarios[at], tell)))
        before += len(scenarios[at].asks)
        come[place] = before
