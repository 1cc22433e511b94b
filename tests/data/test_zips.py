"""Members of zips: found by their entries, expanded within bounds, and with names in any encoding."""

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from imggen.data import readers
from imggen.data.decode import UnreadableError, load_image
from imggen.data.scan import open_source
from imggen.data.zip_names import decode_names
from imggen.errors import DataError
from imggen.io import formats
from tests.data.helpers import png

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def zip_of(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def set_listed_size(path: Path, name: str, size: int) -> None:
    """Change the size of a member in the zip's central directory."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(name.encode()) - 46 + 24, size)
    path.write_bytes(data)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_compression(tmp_path: Path, method: int) -> None:
    noise = bytes(range(256)) * 700  # several chunks
    files = {"a.png": png(3), "b.png": b"\x89P" + noise, "c.png": b"", "d.png": b"no image" * 100}
    source = open_source(str(zip_of(tmp_path / "d.zip", files, method)), cache_dir=tmp_path)
    assert [source.image(i) for i in range(3)] == [png(3), b"\x89P" + noise, b""]
    assert source.image(3) == b"no"  # the rest is not read


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("listed", [10, 200_000_000, 4_000_000_000])
def test_members_that_lie_about_their_size(tmp_path: Path, method: int, listed: int) -> None:
    path = zip_of(tmp_path / "d.zip", {"a.png": png() + bytes(3_000_000)}, method)
    set_listed_size(path, "a.png", listed)
    source = open_source(str(path), cache_dir=tmp_path)
    with pytest.raises(UnreadableError, match=r"checksum|would expand|reads at most|damaged"):
        load_image(source, 0)


@pytest.mark.parametrize("method", METHODS)
def test_no_more_is_expanded_than_asked_for(tmp_path: Path, method: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_of(tmp_path / "d.zip", {"a.png": bytes(5_000_000)}, method)
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        info = archive.getinfo("a.png")
        member = readers.Member(0, info.header_offset, 1000, info.compress_type, info.compress_size, info.CRC)
        tracemalloc.start()
        assert readers.expand_zip_member(file, member).read(1000) == bytes(1000)
        assert tracemalloc.get_traced_memory()[1] < 500_000
        tracemalloc.stop()
    monkeypatch.setattr(formats, "MAX_FILE_BYTES", 4_000_000)
    with pytest.raises(UnreadableError, match=r"5.0 MB, and imggen reads at most 4.0 MB|would expand"):
        load_image(open_source(str(path), cache_dir=tmp_path), 0)


def test_a_member_that_claims_a_gigabyte_is_read_in_little_memory(tmp_path: Path) -> None:
    """Its beginning is an image, and no more is expanded than the decoder asks for: 30 MB would follow."""
    path = zip_of(tmp_path / "d.zip", {"a.png": png() + bytes(30_000_000)})
    set_listed_size(path, "a.png", 1_000_000_000)
    source = open_source(str(path), cache_dir=tmp_path)
    tracemalloc.start()
    with pytest.raises(UnreadableError):
        load_image(source, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_name_that_is_there_twice_is_two_images(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("a.png", png(1))
        archive.writestr("a.png", png(2))
    source = open_source(str(tmp_path / "d.zip"), cache_dir=tmp_path)
    assert source.names == ["a.png", "a.png"]
    assert {source.image(0), source.image(1)} == {png(1), png(2)}


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "d.zip", {"a.png": png(1), "b.png": png(2)})
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"b.png") - 46 + 42, 0)  # both at the beginning
    path.write_bytes(data)
    with pytest.raises(DataError, match="members overlap"):
        open_source(str(path), cache_dir=tmp_path)


def test_unknown_compression_is_no_internal_error(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "d.zip", {"a.png": png(1)})
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, data.rindex(b"a.png") - 46 + 10, 99)
    path.write_bytes(data)
    with pytest.raises(UnreadableError, match="compression method 99"):
        load_image(open_source(str(path), cache_dir=tmp_path), 0)


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("cp437", ["Katze/süß.png", "Bär/é.png"]),
        ("cp850", ["Árbol/São Paulo.png"]),
        ("cp852", ["žluťoučký/kůň.png", "kočka/pes.png"]),
        ("cp866", ["кошка/1.png", "Собака/фото.png"]),
        ("cp932", ["猫/1.png", "ネコ/いぬ.png", "日本語/テスト画像.png"]),
        ("gbk", ["猫/1.png", "狗/图片.png", "训练/测试.png"]),
        ("cp949", ["고양이/1.png", "개/사진.png"]),
        ("cp950", ["貓/1.png", "狗/圖片.png"]),
        ("cp737", ["γάτα/1.png", "σκύλος/2.png"]),
        ("utf-8", ["кошка/1.png", "猫/é.png"]),
    ],
)
def test_names_in_no_declared_encoding(encoding: str, names: list[str]) -> None:
    infos = [zipfile.ZipInfo(name.encode(encoding).decode("cp437")) for name in [*names, "plain.png"]]
    decoded, assumed = decode_names(infos)
    assert decoded == [*names, "plain.png"]
    assert (encoding in assumed and names[0] in assumed) == (encoding != "utf-8")


def test_declared_names_are_taken_as_they_are(tmp_path: Path) -> None:
    source = open_source(str(zip_of(tmp_path / "d.zip", {"猫/a.png": png(), "é/b.png": png()})), cache_dir=tmp_path)
    assert source.classes == ("é", "猫") and source.notes == ()
    noise = zipfile.ZipInfo(bytes([0xFF, 0x80, 0xB0]).decode("cp437"))
    assert "cp437" in decode_names([noise])[1]


def test_classes_of_a_windows_zip_are_readable_and_the_guess_is_shown(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("AAAAA/1.png", "BBBBBB/2.png"):
            archive.writestr(name, png())
    data = file.getvalue().replace(b"AAAAA/", "кошка/".encode("cp866")).replace(b"BBBBBB/", "собака/".encode("cp866"))
    (tmp_path / "d.zip").write_bytes(data)
    source = open_source(str(tmp_path / "d.zip"), cache_dir=tmp_path)
    assert source.classes == ("кошка", "собака") and "cp866" in source.notes[0]
