"""Damaged files of vectors are refused, or work. `python -m tests.faults.hostile vectors --count 100000` tries more."""

from tests.faults.hostile import check
from tests.faults.hostile_vectors import TARGETS


def test_damaged_vectors_are_refused_or_work() -> None:
    assert 0 < check(TARGETS["vectors"], 400) < 200
