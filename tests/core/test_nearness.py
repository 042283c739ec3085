"""What was perhaps meant: by case, by a slip, by a part of the name; among a few and among thousands."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.nearness import ALL_COMPARED, near_names

FEW = ["Qwen/Qwen3-32B", "meta/llama-3.3-70b-instruct", "phi-4"]
FAMILIES = ["llama", "qwen", "mistral", "gemma", "phi", "deepseek", "granite", "yi"]


def catalogue(count: int) -> list[str]:
    rng = random.Random(count)
    names: set[str] = set()
    while len(names) < count:
        names.add(
            f"Org{rng.randrange(400)}/{rng.choice(FAMILIES)}-{rng.randrange(1, 9)}."
            f"{rng.randrange(9)}-{rng.choice([1, 3, 7, 13, 70])}b-{rng.choice(['chat', 'base'])}"
        )
    return sorted(names)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("qwen/qwen3-32b", "Qwen/Qwen3-32B"),
        ("Qwen3-32B", "Qwen/Qwen3-32B"),
        ("llama-3.3-70b-instruct", "meta/llama-3.3-70b-instruct"),
        ("meta/lama-3.3-70b-instruct", "meta/llama-3.3-70b-instruct"),
        ("PHI4", "phi-4"),
    ],
)
def test_a_name_is_found_by_what_is_left_of_it(asked: str, meant: str) -> None:
    for names in (FEW, [*FEW, *catalogue(3000)]):
        assert near_names(asked, names)[0] == meant


def test_nothing_is_near_what_nobody_has() -> None:
    for names in ([], FEW, catalogue(3000)):
        assert near_names("\u4e2d\u6587", names) == []
        assert near_names("", names) == []


def test_among_thousands_nearly_every_slip_is_found() -> None:
    names = catalogue(10_000)
    rng = random.Random(0)
    found = 0
    for name in rng.sample(names, 100):
        at = rng.randrange(len(name))
        slip = rng.choice(
            [name[:at] + name[at + 1 :], name[:at] + "x" + name[at:], name.upper()]
        )
        near = near_names(slip, names)
        assert near, slip
        found += name in near
    assert found >= 80


@given(
    st.lists(st.text(max_size=12), min_size=ALL_COMPARED + 1, max_size=ALL_COMPARED + 20),
    st.text(max_size=30),
)
def test_whatever_is_said_is_one_of_the_names(names: list[str], asked: str) -> None:
    assert set(near_names(asked, names)) <= set(names)
