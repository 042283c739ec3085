import json
from pathlib import Path

import pytest

from cortex.agent.commands import Entry
from cortex.agent.memory import FILE, MOST_ENTRIES, Memory
from cortex.core.errors import ConfigError


def test_what_was_begun_outlives_the_agent(tmp_path: Path):
    with Memory(tmp_path / "new" / "state") as memory:
        assert memory.complete
        memory.begin("c1")
        memory.begin("c2")
        memory.end("c1", ok=True, detail="done")
    with Memory(tmp_path / "new" / "state") as memory:
        assert memory.complete
        assert dict(memory.entries) == {"c1": Entry("c1", True, "done"), "c2": Entry("c2")}


def test_begin_has_written_when_it_returns(tmp_path: Path):
    with Memory(tmp_path) as memory:
        memory.begin("c1")
        rows = json.loads((tmp_path / FILE).read_text())["commands"]
    assert rows == [{"id": "c1", "ok": None, "detail": ""}]


def test_the_last_hundred_are_kept(tmp_path: Path):
    with Memory(tmp_path) as memory:
        for number in range(MOST_ENTRIES + 5):
            memory.begin(f"c{number}")
        kept = list(memory.entries)
    assert kept == [f"c{number}" for number in range(5, MOST_ENTRIES + 5)]
    with Memory(tmp_path) as memory:
        assert list(memory.entries) == kept


def test_one_agent_at_a_time(tmp_path: Path):
    with Memory(tmp_path), pytest.raises(ConfigError, match="in use by another agent"):
        Memory(tmp_path)
    with Memory(tmp_path):
        pass


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"commands": 3}', '{"commands": [{"id": 4}]}', "\udcff"]
)
def test_a_corrupt_file_is_set_aside_and_the_memory_incomplete(tmp_path: Path, text: str):
    (tmp_path / FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    with Memory(tmp_path) as memory:
        assert not memory.complete
        assert dict(memory.entries) == {}
        memory.begin("c1")
    assert len(list(tmp_path.glob("*.corrupt"))) == 1


def test_a_directory_that_cannot_be_had_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        Memory(tmp_path / "file" / "state")
    assert len(caught.value.lines) == 1
    assert "Not a directory" in caught.value.lines[0]


def test_begin_that_cannot_be_written_raises_and_remembers_nothing(tmp_path: Path):
    with Memory(tmp_path) as memory:
        # What stands in the way of the file to be written; permissions do not stop root.
        (tmp_path / "commands.new").mkdir()
        with pytest.raises(OSError, match=r"commands\.new"):
            memory.begin("c1")
        assert dict(memory.entries) == {}
