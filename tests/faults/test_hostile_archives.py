"""A thousand damaged archives and folders of each kind: refused in a line, or read."""

import shutil

import pytest

from tests.faults import hostile_archives
from tests.faults.hostile import check

COUNT = 1_000


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile_archives.TARGETS)
def test_damaged_archives_are_refused_or_read(name: str) -> None:
    try:
        accepted = check(hostile_archives.TARGETS[name], COUNT)
    finally:
        shutil.rmtree(hostile_archives._folder(), ignore_errors=True)
        hostile_archives._folder.cache_clear()
    assert 0 < accepted < COUNT
