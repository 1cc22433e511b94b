"""Tars: members by their offset, compressed ones unpacked once."""

import bz2
import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path
from typing import IO

import pytest

from imggen.data import tars
from imggen.data.cache_contents import list_items
from imggen.data.tars import list_tar
from imggen.errors import DataError
from tests.data.helpers import packed, png, tree


@pytest.mark.parametrize("ending", [".tar", ".tgz", ".tar.xz", ".tar.bz2"])
def test_members_by_offset(tmp_path: Path, ending: str) -> None:
    root = tree(tmp_path / "d", "a.png", "x/b.png")
    uncompressed, members, *_ = list_tar(packed(root, tmp_path / f"d{ending}"), tmp_path / "cache")
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
    assert list_tar(path, tmp_path / "cache")[:3] == expected[:3]


@pytest.mark.parametrize("name", ["bad.tar", "bad.tgz", "bad.tar.xz", "bad.tar.bz2"])
def test_damaged_tars_leave_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match="not a usable tar"):
        list_tar(tmp_path / name, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*.*") if path.name != ".lock"]


@pytest.mark.parametrize("method", ["write", "flush"])
def test_a_full_disk_is_told_from_damaged_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Also where it is noticed only when the buffer is emptied."""
    path = packed(tree(tmp_path / "d", "a.png"), tmp_path / "d.tgz")

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    target = io.BytesIO()
    full_disk = type("FullDisk", (io.BytesIO,), {method: fail})()
    tars._decompress_into(target, path, tmp_path, None)
    with pytest.raises(DataError, match=r"cannot unpack .* No space"):
        tars._decompress_into(full_disk, path, tmp_path, None)


@pytest.mark.parametrize("bound", ["limit", "disk"])
def test_unpacking_ends_at_the_limit_of_the_cache_and_at_the_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    (tmp_path / "d.tgz").write_bytes(gzip.compress(bytes(4 << 20)))
    written: list[int] = []
    original = tars._write

    def write(target: IO[bytes], block: bytes, folder: Path) -> None:
        written.append(len(block))
        original(target, block, folder)

    monkeypatch.setattr(tars, "_write", write)
    if bound == "limit":
        monkeypatch.setenv("IMGGEN_CACHE_LIMIT", "2MB")
    else:
        usage = type("Usage", (), {"free": 2_000_000, "total": 10**12})
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"d\.tgz unpacks to more than .* 2.0 MB" if bound == "limit" else "No space"):
        list_tar(tmp_path / "d.tgz", tmp_path / "cache")
    assert sum(written) <= 2_000_000 and not list((tmp_path / "cache" / "archives").iterdir())


def test_an_unpacked_tar_is_locked_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacked now or before."""
    path = packed(tree(tmp_path / "d", "a.png"), tmp_path / "d.tgz")
    original, in_use = tars._read_entries, list[bool]()

    def read(file: tars._HeaderFile) -> object:
        (item,) = list_items(tmp_path / "cache")
        in_use.append(item.in_use)
        return original(file)

    monkeypatch.setattr(tars, "_read_entries", read)
    for _ in range(2):
        list_tar(path, tmp_path / "cache")
    assert in_use == [True, True]


def header(name: str, kind: bytes, size: int) -> bytes:
    """A header of a member, followed by nothing."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def test_symbolic_links_are_followed_within_the_tar_only(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        for name, target in (("x/first.png", "../a.png"), ("out.png", "../../etc/passwd"), ("loop.png", "loop.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        info = tarfile.TarInfo("a.png")
        info.size = len(png())
        archive.addfile(info, io.BytesIO(png()))
    _, entries, broken, _ = list_tar(tmp_path / "d.tar", tmp_path)
    assert [entry.name for entry in entries] == ["a.png", "x/first.png"] and broken == ["out.png", "loop.png"]
    assert entries[0].offset == entries[1].offset


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.REGTYPE])
@pytest.mark.parametrize("size", [2_000_000_000, 8**11])
def test_sizes_beyond_the_file_cost_no_memory(tmp_path: Path, kind: bytes, size: int) -> None:
    path = tmp_path / "d.tar"
    with path.open("wb") as file:
        file.write(header("a.png", kind, size))
        file.truncate(1_500_000_000 if size < 8**11 else 4096)  # sparse
    tracemalloc.start()
    with pytest.raises(DataError, match="not a usable tar"):
        list_tar(path, tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_long_chain_of_headers_is_no_internal_error(tmp_path: Path) -> None:
    one = header("x", tarfile.XHDTYPE, 512) + bytes(512)
    (tmp_path / "d.tar").write_bytes(one * 3000)
    with pytest.raises(DataError, match="not a usable tar"):
        list_tar(tmp_path / "d.tar", tmp_path)


def test_a_tar_that_expands_beyond_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "_MIN_EXPANDED_BYTES", 1 << 20)
    (tmp_path / "d.tar.bz2").write_bytes(bz2.compress(bytes(8 << 20)))
    with pytest.raises(DataError, match="expands more than 1,100 times"):
        list_tar(tmp_path / "d.tar.bz2", tmp_path / "cache")
    assert not list((tmp_path / "cache" / "archives").iterdir())


def test_a_cache_that_cannot_be_a_folder_is_not_called_full(tmp_path: Path) -> None:
    path = packed(tree(tmp_path / "d", "a.png"), tmp_path / "d.tgz")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot unpack into .*: Not a directory") as caught:
        list_tar(path, tmp_path / "file" / "cache")
    assert caught.value.hint == "set IMGGEN_CACHE to a folder that you may write to"
