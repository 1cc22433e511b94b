"""Seeds as they are written on the command line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imggen.engine.seeds import MAX_SEED, Seeds, format_seeds, parse_seeds
from imggen.errors import UsageError


def test_seeds_read_and_written() -> None:
    assert list(parse_seeds("0-3,70, 5")) == [0, 1, 2, 3, 70, 5]
    many = parse_seeds("0-999999,7")
    assert len(many) == 1_000_001 and many[-1] == 7 and many[999_999] == 999_999 and many[1:3] == [1, 2]
    assert format_seeds(range(3, 3)) == "" and format_seeds([1, 2, 3, 9]) == "1-3,9"
    for bad in ("", "a", "3-1", "-1", "1--2", "1,,2", str(MAX_SEED + 1), "1.5", "²"):
        with pytest.raises(UsageError):
            parse_seeds(bad)
    with pytest.raises(IndexError):
        many[len(many)]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 50)), min_size=1, max_size=8))
def test_seeds_round_trip(parts: list[tuple[int, int]]) -> None:
    seeds = Seeds([range(low, low + more + 1) for low, more in parts])
    assert list(parse_seeds(format_seeds(seeds))) == list(seeds)
    assert [seeds[index] for index in range(len(seeds))] == list(seeds)
