import pytest

from cortex.replay import pool


@pytest.fixture(autouse=True)
def _as_eager_as_the_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "NICE", 0)
