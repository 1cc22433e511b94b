"""Damaged image files for each target; `python -m tests.faults.hostile images --count 100000` tries more."""

import pytest

from tests.faults.hostile import check
from tests.faults.hostile_images import TARGETS

COUNTS = {"fill": 300, "mask": 400}  # of the costly targets


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_images_are_read_or_refused(name: str) -> None:
    count = COUNTS.get(name, 1000)
    assert 0 < check(TARGETS[name], count) < count
