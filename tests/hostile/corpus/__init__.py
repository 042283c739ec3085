"""Hostile inputs with what must come of each: data only; `tests/hostile/test_corpus.py` runs them."""

from tests.hostile.corpus import bodies, connections, framing, heads, targets
from tests.hostile.corpus.case import Case

GROUPS: dict[str, list[Case]] = (
    framing.GROUPS | heads.GROUPS | targets.GROUPS | bodies.GROUPS | connections.GROUPS
)
