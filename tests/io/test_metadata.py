"""Metadata of foreign files: what is valid is kept, what is damaged or does not fit is left out and named."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image, PngImagePlugin
from PIL.TiffImagePlugin import IFDRational

from imggen.data.decode import decode_image, read_image_file
from imggen.errors import DataError, UsageError
from imggen.io.formats import check_side
from imggen.io.metadata import (
    COLOR_CHUNKS,
    Metadata,
    SilencedPillow,
    encode_with_metadata,
    fitting,
    read_settings_text,
    without_metadata,
)

GARBAGE = b"Exif\0\0garbage!garbage!"
FORMATS = ("png", "jpeg", "tiff", "webp")


def encoded(format: str, image: Image.Image | None = None, **more: Any) -> bytes:
    buffer = io.BytesIO()
    (image or Image.new("RGB", (9, 7), (1, 2, 3))).save(buffer, format, **more)
    return buffer.getvalue()


def with_segment(jpeg: bytes, marker: int, data: bytes) -> bytes:
    """A JPEG with one more segment, behind the first one."""
    return jpeg[:20] + bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data + jpeg[20:]


def with_chunk(png: bytes, name: bytes, data: bytes, checksum: int | None = None) -> bytes:
    """A PNG with one more chunk, behind its header."""
    right = zlib.crc32(name + data) if checksum is None else checksum
    return png[:33] + struct.pack(">I", len(data)) + name + data + struct.pack(">I", right) + png[33:]


def png_with_text(name: str, text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text(name, text, zip=True)
    return encoded("png", pnginfo=info)


def tiff_with(tags: dict[int, Any]) -> bytes:
    return encoded("tiff", tiffinfo=tags)


DAMAGED = {
    "EXIF of a JPEG": with_segment(encoded("jpeg", dpi=(72, 72)), 0xE1, GARBAGE),
    "EXIF of a WebP": encoded("webp", exif=GARBAGE),
    "EXIF of a PNG": encoded("png", exif=GARBAGE[6:]),
    "raw profile of a PNG": png_with_text("Raw profile type exif", "\nexif\n  20\nzzzz"),
    "checksum of a text of a PNG": with_chunk(encoded("png"), b"tEXt", b"a\0b", checksum=1),
    "a text of a PNG that is too long": png_with_text("a", "x" * (1 << 21)),
    "profile of a PNG": with_chunk(encoded("png"), b"iCCP", b"a\0\7"),
    "gamma of a PNG": with_chunk(encoded("png"), b"gAMA", b"\0"),
    "resolution of a TIFF": tiff_with({282: IFDRational(0, 0), 283: IFDRational(0, 0), 296: 2}),
    "huge resolution of a PNG": with_chunk(encoded("png"), b"pHYs", b"\xff" * 8 + b"\1"),
    "a comment of a JPEG that is cut": with_segment(encoded("jpeg", dpi=(72, 72)), 0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_metadata_never_costs_an_image(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(DAMAGED[what])
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        file = read_image_file(path)
        assert decode_image(DAMAGED[what]).size == file.image.size == (9, 7)
    assert not shown
    for format in FORMATS:
        metadata = fitting(file.metadata, format, 500)
        with Image.open(io.BytesIO(encode_with_metadata(file.image, format, metadata, "x" * 500))) as written:
            written.load()
            assert written.size == (9, 7)


@pytest.mark.parametrize("what", ["EXIF of a JPEG", "resolution of a TIFF", "huge resolution of a PNG"])
def test_what_is_damaged_is_named(tmp_path: Path, what: str) -> None:
    (tmp_path / "x").write_bytes(DAMAGED[what])
    (lost,) = read_image_file(tmp_path / "x").metadata.lost
    assert ("EXIF" if "EXIF" in what else "resolution") in lost


@pytest.mark.parametrize("format", FORMATS)
def test_valid_metadata_is_kept_in_every_format(tmp_path: Path, format: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Orientation] = "Box", 6
    path = tmp_path / "x"
    path.write_bytes(encoded(format, exif=exif.tobytes(), icc_profile=b"profile", dpi=(300, 150)))
    metadata = read_image_file(path).metadata
    assert not metadata.lost and metadata.profile == b"profile"
    assert format == "webp" or metadata.dpi == pytest.approx((300, 150), abs=0.1)
    for wanted in FORMATS:
        kept = fitting(metadata, wanted, 500)
        assert not kept.lost
        with Image.open(io.BytesIO(encode_with_metadata(Image.new("L", (4, 4)), wanted, kept, "{}"))) as image:
            image.load()
            assert image.info["icc_profile"] == b"profile"
            assert image.getexif()[ExifTags.Base.Make] == "Box"
            assert ExifTags.Base.Orientation not in image.getexif() or image.getexif()[ExifTags.Base.Orientation] == 1


def test_what_is_too_long_for_a_format_is_left_out_and_named() -> None:
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.MakerNote: b"\1" * 65_380}
    long_exif = Metadata(exif=exif.tobytes(), dpi=(72.0, 72.0))
    assert fitting(long_exif, "png", 500).exif and not fitting(long_exif, "webp", 500).lost
    kept = fitting(long_exif, "jpeg", 500)
    assert kept == Metadata(dpi=(72.0, 72.0)) and kept.lost == ("EXIF data that JPEG cannot store",)
    long_profile = Metadata(profile=bytes(17_000_000))
    assert (
        fitting(long_profile, "jpeg", 500).profile is None and "too long" in fitting(long_profile, "jpeg", 500).lost[0]
    )


@pytest.mark.parametrize("name", COLOR_CHUNKS)
def test_color_chunks_of_a_png_are_kept(tmp_path: Path, name: bytes) -> None:
    data = bytes(range(COLOR_CHUNKS[name]))
    path = tmp_path / "x.png"
    path.write_bytes(with_chunk(encoded("png"), name, data))
    file = read_image_file(path)
    assert file.metadata.color_chunks == ((name, data),) and not fitting(file.metadata, "png", 9).lost
    path.write_bytes(encode_with_metadata(file.image, "png", file.metadata, "{}"))
    assert read_image_file(path).metadata == file.metadata
    # Other formats cannot store them. The chunk sRGB says what is assumed anyhow.
    lost = fitting(file.metadata, "webp", 9).lost
    assert lost == () if name == b"sRGB" else name.decode() in lost[0] and "WEBP" in lost[0]


def test_color_chunks_that_mean_srgb_are_no_loss() -> None:
    gamma, srgb = (45_455).to_bytes(4, "big"), bytes((1, 13, 0, 1))
    for chunks in (((b"gAMA", gamma),), ((b"cICP", srgb),), ((b"sRGB", b"\0"), (b"gAMA", b"\0\0\0\1"))):
        assert not fitting(Metadata(color_chunks=chunks), "tiff", 9).lost


def test_files_without_metadata_have_the_same_pixels() -> None:
    image = Image.effect_noise((30, 20), 50).convert("RGB")
    for format in ("png", "jpeg"):
        exif = Image.Exif()
        exif[ExifTags.Base.Make] = "Box"
        data = encoded(format, image, exif=exif, icc_profile=b"x" * 50, dpi=(72, 72))
        shorter = without_metadata(data)
        assert len(shorter) < len(data) and b"Box" not in shorter
        assert decode_image(shorter).tobytes() == decode_image(data).tobytes()
    assert without_metadata(b"GIF89a") == b"GIF89a" and without_metadata(b"\xff\xd8\xff\xe1\xff\xff") == b"\xff\xd8"


def test_warnings_of_pillow_are_silenced_in_any_number_of_threads() -> None:
    def warn(_: int) -> None:
        with SilencedPillow():
            warnings.warn("damaged", stacklevel=1)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(warn, range(200)))
        assert not shown
        warnings.warn("again", stacklevel=1)
    assert len(shown) == 1


@pytest.mark.parametrize("data", [b"", b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0;", b"\x89PNG"])
def test_an_unreadable_file_has_no_settings(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.gif").write_bytes(data)
    with pytest.raises(DataError, match="not an image"):
        read_settings_text(tmp_path / "x.gif")


@pytest.mark.parametrize(("format", "side"), [("webp", 16_383), ("jpeg", 65_500), ("gif", 65_535), ("mp4", 8_192)])
def test_the_longest_side_of_every_format(format: str, side: int) -> None:
    check_side("x", (side, 1), format)
    with pytest.raises(UsageError, match=rf"x is 1x{side + 1}, and {format.upper()} allows at most {side:,}"):
        check_side("x", (1, side + 1), format)
    if format in ("webp", "jpeg"):
        encode_with_metadata(Image.new("RGB", (side, 1)), format, Metadata(), None)
        with pytest.raises(Exception, match=r"dimension|broken|limit"):
            encode_with_metadata(Image.new("RGB", (side + 1, 1)), format, Metadata(), None)
