"""What is remembered of conversations has a bound."""

from cortex.core.ids import ModelId, NodeName
from cortex.fleet.affinity import CAPACITY, Affinity

MODEL, NODE = ModelId("m"), NodeName("n")


def test_the_conversation_that_was_quiet_for_longest_is_forgotten() -> None:
    affinity = Affinity()
    for key in range(CAPACITY):
        affinity.served(MODEL, key, NODE)
    affinity.served(MODEL, 0, NODE)
    affinity.served(MODEL, CAPACITY, NODE)
    remembered = [key for key in range(CAPACITY + 1) if affinity.preferred(MODEL, key)]
    assert len(remembered) == CAPACITY
    assert 1 not in remembered
    assert 0 in remembered
