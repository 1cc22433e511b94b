"""Damaged archives and folders of hostile names, hundreds of each kind: refused in a line, or read."""

import shutil

import pytest

from tests.faults import hostile_archives
from tests.faults.hostile import check

COUNTS = {"zip": 800, "tar": 800, "tgz": 400, "names": 200}


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile_archives.TARGETS)
def test_damaged_archives_are_refused_or_read(name: str) -> None:
    try:
        accepted = check(hostile_archives.TARGETS[name], COUNTS[name])
    finally:
        shutil.rmtree(hostile_archives._folder(), ignore_errors=True)
        hostile_archives._folder.cache_clear()
    assert 0 < accepted < COUNTS[name]
