"""Names of classes from an option and from files of any kind."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imggen.data.class_names import MAX_CLASSES_BYTES, names_beside_masks, read_names
from imggen.data.masks import make_table, statistics_of
from imggen.errors import DataError, ImggenError, UsageError

NAMES = "caf\u00e9\nsky\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin1"])
def test_a_file_is_read_as_utf_8_or_refused(encoding: str) -> None:
    """And never read as other names: neither that of an option nor that beside the masks."""
    Path("masks").mkdir()
    for path in (Path("names.txt"), Path("masks/classes.txt")):
        path.write_bytes(NAMES.encode(encoding))
    if encoding.startswith("utf-8"):
        assert read_names("names.txt") == names_beside_masks("masks", Path("cache")) == ["caf\u00e9", "sky"]
        return
    with pytest.raises(DataError, match=r"names.txt is not UTF-8"):
        read_names("names.txt")
    with pytest.raises(DataError, match=r"classes.txt of masks is not UTF-8"):
        names_beside_masks("masks", Path("cache"))


def test_what_is_no_file_of_names_is_refused_as_what_it_is() -> None:
    Path("long.txt").write_bytes(b"a" * (MAX_CLASSES_BYTES + 1))
    Path("folder").mkdir()
    cases: list[tuple[str, type[ImggenError], str]] = [
        ("missing.txt", DataError, "there is no file missing.txt"),
        ("long.txt", DataError, "is longer than"),
        ("folder", UsageError, "is a folder"),
    ]
    if os.name == "posix":
        os.mkfifo("pipe")
        cases.append(("pipe", UsageError, "is a pipe"))
    for given, kind, message in cases:
        with pytest.raises(kind, match=message):
            read_names(given)
    assert read_names("a, b.c") == ["a", "b.c"]


@pytest.mark.skipif(os.name != "posix", reason="there are no such files")
def test_a_pipe_beside_the_masks_is_not_opened() -> None:
    Path("masks").mkdir()
    os.mkfifo("masks/classes.txt")
    assert names_beside_masks("masks", Path("cache")) is None


def test_names_that_look_the_same_are_not_different() -> None:
    mask = statistics_of(Image.fromarray(np.array([[0, 255]], np.uint8)), lossy=False)
    for names in (["a", "a"], ["caf\u00e9", "cafe\u0301"]):
        with pytest.raises(DataError, match="must be different"):
            make_table([mask], names=names)
    with pytest.raises(DataError, match=r"^1 name for 2 classes"):
        make_table([mask], names=["a"])
