"""Archives of 70,000 members, more than a 16-bit number can count, are listed in bounded memory."""

import multiprocessing
import resource
import struct
import sys
import tarfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from imggen.data.scan import open_source

COUNT = 70_000
MAX_BYTES_PER_MEMBER = 1_500
NAME = b"ab/00000.png"


def numbered(template: bytes, at: int) -> npt.NDArray[np.uint8]:
    """The template COUNT times, as rows of bytes, with five digits at `at` that count."""
    rows = np.tile(np.frombuffer(template, np.uint8), (COUNT, 1))
    numbers = np.arange(COUNT)
    for place in range(5):
        rows[:, at + place] = ord("0") + numbers // 10 ** (4 - place) % 10
    return rows


def write_tar(path: Path) -> None:
    info = tarfile.TarInfo(NAME.decode())
    rows = numbered(info.tobuf(tarfile.USTAR_FORMAT), NAME.index(b"0"))
    rows[:, 148:156] = ord(" ")
    sums = rows.sum(1)
    for place in range(6):
        rows[:, 148 + place] = ord("0") + sums // 8 ** (5 - place) % 8
    rows[:, 154] = 0
    with path.open("wb") as file:
        file.write(rows.tobytes() + bytes(1024))


def write_zip(path: Path) -> None:
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, zlib.crc32(b""), 0, 0, len(NAME), 0) + NAME
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, zlib.crc32(b""), 0, 0, len(NAME), 0, 0, 0, 0, 0, 0
    )
    entries = numbered(entry + NAME, len(entry) + NAME.index(b"0"))
    offsets = (np.arange(COUNT) * len(local)).astype("<u4")
    entries[:, 42:46] = offsets.view(np.uint8).reshape(COUNT, 4)
    start, length = COUNT * len(local), entries.size
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, COUNT, COUNT, length, start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, start + length, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, length, start, 0)
    with path.open("wb") as file:
        file.write(numbered(local, 30 + NAME.index(b"0")).tobytes() + entries.tobytes() + end64 + locator + end)


def peak_memory() -> int:
    """Of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def list_members(path: Path) -> None:
    before = peak_memory()
    source = open_source(str(path), cache_dir=path.parent / "cache")
    assert len(source) == COUNT and source.names[-1] == f"ab/{COUNT - 1}.png"
    assert peak_memory() - before < MAX_BYTES_PER_MEMBER * COUNT


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_seventy_thousand_members(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / ("d.tar" if write is write_tar else "d.zip")
    write(path)
    # In a process of its own, whose peak of memory begins at what it is forked with; tracemalloc is five times as slow.
    process = multiprocessing.get_context("fork").Process(target=list_members, args=(path,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork of a process with threads
        process.start()
    process.join(120)
    assert process.exitcode == 0
