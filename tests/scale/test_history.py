"""A question to a long request log does a bounded amount of work, whatever it asks for."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench import report, scale
from bench.scale_history import Question, fill, questions
from cortex.adminapi import HistoryQuery
from cortex.store import queries, search
from cortex.store.db import connect_read_only

ROWS = 200_000
FACTOR = 3
STEP = 1000
"""Of SQLite's virtual machine, between two counts."""
ASKED = list(questions(2))
MOST_STEPS = {"history": 120_000, "stats": 120_000, "events": 120_000}
"""In a log that is much longer than a question reads; looking at each row takes over a million."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("scale") / "cortex.db"
    fill(path, ROWS)
    yield path
    path.unlink()


def steps_of(path: Path, question: Question) -> int:
    """What SQLite executed for it: the same on every machine."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += STEP
        return 0

    with closing(connect_read_only(path)) as connection:
        connection.set_progress_handler(count, STEP)
        question(connection)
    return counted


def test_the_work_of_a_question_does_not_grow_with_the_log(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, few in (("SCATTERED", 500), ("IN_A_ROW", 3000), ("INDEX_ONLY", 5000)):
        monkeypatch.setattr(search, name, few)
    for name, few in (
        ("STATS_ROWS", 1000),
        ("STATS_SCATTERED", 500),
        ("FOLLOWED_ROWS", 3000),
        ("EVENTS_SCATTERED", 500),
        ("EVENTS_IN_A_ROW", 3000),
    ):
        monkeypatch.setattr(queries, name, few)
    over = {
        (kind, said): steps
        for kind, said, question in ASKED
        if kind in MOST_STEPS and (steps := steps_of(log, question)) > MOST_STEPS[kind]
    }
    assert over == {}


def test_questions_are_answered_in_time(log: Path) -> None:
    """CPU time of this thread, which does all of the reading."""
    slow = {}
    for kind, said, question in ASKED:
        if kind not in MOST_STEPS:
            continue
        with closing(connect_read_only(log)) as connection:
            began_s = time.thread_time()
            question(connection)
            took_ms = (time.thread_time() - began_s) * 1e3
        if took_ms > FACTOR * scale.QUESTION_MS:
            slow[kind, said] = took_ms
    assert slow == {}


def test_a_search_gets_to_the_end_of_the_log_page_by_page(log: Path) -> None:
    query = HistoryQuery(model="organisation/model-001-instruct", slow_ms=100.5, limit=100)
    with closing(connect_read_only(log)) as connection:
        (wanted,) = connection.execute(
            "SELECT count(*) FROM requests WHERE model = ? AND duration_ms >= ?",
            (query.model, query.slow_ms),
        ).fetchone()
        body = queries.history(connection, query)
        found = [row.id for row in body.rows]
        while body.next is not None:
            body = queries.history(connection, query.model_copy(update={"before": body.next}))
            found += [row.id for row in body.rows]
    assert wanted == len(found) == len(set(found)) > 0
    assert found == sorted(found, reverse=True)


def test_the_table_tells_what_was_met() -> None:
    size = scale.Size(nodes=5, models=50, rows=2000, poll_s=1.0, filters=1, written=1000)
    lines = scale.history(size)
    assert all(line.value > 0 for line in lines)
    kinds = {line.what.partition(":")[0] for line in lines if line.goal}
    assert {"history", "stats", "events", "log"} <= kinds
    lines.append(report.Line("something slow", 3.0, "ms", 2.0))
    told = report.beside_goals(lines).splitlines()
    assert told[-1] == "| something slow | 3 ms | at most 2 ms | MISSED |  |"
