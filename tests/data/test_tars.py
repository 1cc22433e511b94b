"""Tars: members by their offset, compressed ones unpacked once."""

import io
import tarfile
from pathlib import Path

import pytest

from imggen.data import tars
from imggen.data.tars import list_tar
from imggen.errors import DataError
from tests.data.helpers import packed, png, tree


@pytest.mark.parametrize("ending", [".tar", ".tgz", ".tar.xz", ".tar.bz2"])
def test_members_by_offset(tmp_path: Path, ending: str) -> None:
    root = tree(tmp_path / "d", "a.png", "x/b.png")
    uncompressed, members, _ = list_tar(packed(root, tmp_path / f"d{ending}"), tmp_path / "cache")
    data = uncompressed.read_bytes()
    assert {m.name: data[m.offset : m.offset + m.size] for m in members} == {
        "a.png": (root / "a.png").read_bytes(),
        "x/b.png": (root / "x" / "b.png").read_bytes(),
    }
    assert (uncompressed == tmp_path / f"d{ending}") == (ending == ".tar")


def test_hard_links_are_resolved(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        info = tarfile.TarInfo("./a.png")
        info.size = len(png())
        archive.addfile(info, io.BytesIO(png()))
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.LNKTYPE, "./a.png"
        archive.addfile(link)
    first, second = list_tar(tmp_path / "d.tar", tmp_path)[1]
    assert (first.name, second.name) == ("a.png", "b.png")
    assert (first.offset, first.size) == (second.offset, second.size)


def test_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tree(tmp_path / "d", "a.png"), tmp_path / "d.tgz")
    expected = list_tar(path, tmp_path / "cache")

    def fail(*_: object) -> None:
        raise AssertionError("unpacked again")

    monkeypatch.setattr(tars, "_decompressed", fail)
    assert list_tar(path, tmp_path / "cache") == expected


@pytest.mark.parametrize("name", ["bad.tar", "bad.tgz", "bad.tar.xz", "bad.tar.bz2"])
def test_damaged_tars_leave_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match="not a usable tar"):
        list_tar(tmp_path / name, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_a_full_disk_is_told_from_damaged_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tree(tmp_path / "d", "a.png"), tmp_path / "d.tgz")

    class FullDisk(io.BytesIO):
        name = str(tmp_path / "target")

        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"cannot unpack .* No space"):
        tars._decompress_into(FullDisk(), path, tmp_path)
