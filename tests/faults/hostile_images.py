"""Targets for image files of every format: decoding, filling and writing, masks, settings.

A target refuses a file by imggen's own errors; any other exception, a warning, or a wrong pixel is a fault.
"""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from imggen.cli.console import _without_nan, escaped
from imggen.cli.info import _lines
from imggen.data import decode
from imggen.data.decode import UnreadableError, decode_image, fit_image
from imggen.engine.info import describe_file
from imggen.engine.inpainting.image_file import LOSSLESS_FORMATS, encode_result, replace_masked
from imggen.engine.inpainting.inputs import ENDINGS, InpaintInput, open_masked_image, result_format
from imggen.engine.inpainting.masks import read_mask
from imggen.engine.options import InpaintOptions
from imggen.errors import DataError, ImggenError
from tests.faults.hostile import Target
from tests.faults.mutate import repair_png

SIDE = 12
SETTINGS = {"imggen": "1.0", "verb": "sample", "seeds": "0-3", "command": "imggen sample gan"}
# Damage often makes sizes huge. Of such images only the refusal is tested, but for the target `large`.
SMALL_PIXELS = 200_000
FIRST_PIXEL = ((0, 0, 1, 1),)


def small_image(mode: str) -> Image.Image:
    """A small image of that mode, of noise."""
    random = np.random.default_rng(3)
    if mode == "F":
        return Image.fromarray(random.normal(0, 10, (SIDE, SIDE)).astype(np.float32))
    if mode in ("I", "I;16"):
        dtype = np.uint16 if mode == "I;16" else np.int32
        return Image.fromarray(random.integers(0, 4096, (SIDE, SIDE)).astype(dtype))
    colors = Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    return colors.quantize(7) if mode == "P" else colors.convert(mode)


def encoded(image: Image.Image, format: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **more)
    return buffer.getvalue()


def exif() -> Image.Exif:
    """What a camera writes, with nested folders."""
    tags = Image.Exif()
    tags[ExifTags.Base.Make], tags[ExifTags.Base.Orientation] = "Box", 6
    tags[ExifTags.Base.ImageDescription] = f"imggen:{json.dumps(SETTINGS)}"
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.01
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = b"\1" * 40
    tags.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return tags


def png_text() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add(b"gAMA", struct.pack(">I", 100_000))
    text.add(b"cHRM", struct.pack(">8I", *range(8)))
    text.add(b"cICP", bytes((12, 13, 0, 1)))
    text.add_itxt("imggen", json.dumps(SETTINGS))
    text.add_text("comment", "x" * 30, zip=True)
    text.add_text("Raw profile type exif", "\nexif\n  8\n4d4d002a00000008")
    return text


@cache
def profile() -> bytes:
    return bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())[:600]


@cache
def images() -> list[bytes]:
    """A file of every format and mode that imggen reads, with metadata where the format has any."""
    files = []
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        more = {"transparency": 3} if mode in ("L", "P") else {}
        files.append(encoded(small_image(mode), "PNG", pnginfo=png_text(), exif=exif(), dpi=(72, 72), **more))
    files += [encoded(small_image(mode), "JPEG", exif=exif(), dpi=(72, 72)) for mode in ("L", "RGB", "CMYK")]
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"):
        compression = "tiff_deflate" if mode in ("L", "I;16") else "raw"
        files.append(encoded(small_image(mode), "TIFF", exif=exif(), dpi=(72, 72), compression=compression))
    for mode in ("RGB", "RGBA"):
        data = exif().tobytes()
        files.append(encoded(small_image(mode), "WEBP", lossless=mode == "RGBA", exif=data, icc_profile=profile()))
    files += [encoded(small_image(mode), "BMP") for mode in ("1", "L", "P", "RGB")]
    frames = [small_image("P"), small_image("P").rotate(90)]
    files.append(encoded(small_image("P"), "GIF", comment=f"imggen:{json.dumps(SETTINGS)}".encode(), transparency=2))
    files += [encoded(frames[0], format, save_all=True, append_images=frames[1:]) for format in ("GIF", "PNG", "WEBP")]
    return files


@cache
def scratch() -> Path:
    """A file of this process, in memory where the system has such a place."""
    shared = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="imggen-hostile-", dir=shared if shared.is_dir() else None)
    return Path(folder) / "x.png"


def file_of(data: bytes) -> Path:
    scratch().write_bytes(data)
    return scratch()


@contextmanager
def small_images_only() -> Any:
    with mock.patch.object(decode, "MAX_PIXELS", SMALL_PIXELS):
        yield


def decode_it(data: bytes) -> bool:
    """What `train` and `sample --from` do with a file."""
    try:
        image = decode_image(data)
    except UnreadableError:
        return False
    assert image.mode in ("L", "LA", "RGB", "RGBA")
    for channels, crop in ((1, "center"), (3, "random"), (4, "pad")):
        assert fit_image(image, 8, channels, crop, "key").shape == (8, 8, channels)
    return True


def decode_small(data: bytes) -> bool:
    with small_images_only():
        return decode_it(data)


def fill(data: bytes) -> bool:
    """What `inpaint` does with a file: all pixels but the masked one stay, whatever the metadata."""
    with small_images_only():
        path = file_of(data)
        options = InpaintOptions(image=path, output=f"{path.parent}/out/", boxes=FIRST_PIXEL, method="classical")
        try:
            image = open_masked_image(options, InpaintInput(path, None, Path("x")))
        except ImggenError as error:
            assert error.exit_code in (2, 3), error
            is_limit = "not supported" in error.message or "masked" in error.message
            assert is_limit or not decode_it(data), f"sample --from reads it, inpaint does not: {error.message}"
            return False
        format = result_format(options, image)
        colors = np.full((*image.mask.shape, 3), 90, np.uint8)
        result = replace_masked(image.source, image.mask, colors, None)
        written = encode_result(image.source, result, format, SETTINGS)
        if format in LOSSLESS_FORMATS:
            check_unmasked_pixels(image.source.image, written, image.mask)
        assert describe_file(file_of(written))["seeds"] == "0-3"
        assert ENDINGS[format]
        return True


def check_unmasked_pixels(original: Image.Image, written: bytes, mask: Any) -> None:
    with Image.open(io.BytesIO(written)) as result:
        result.load()
        expected = original if original.mode == result.mode else original.convert(result.mode)
        before, after = np.asarray(expected)[~mask], np.asarray(result)[~mask]
    assert np.array_equal(before, after, equal_nan=before.dtype.kind == "f"), "unmasked pixels changed"


def mask_of(data: bytes) -> bool:
    """What `inpaint --mask FILE --resize-mask` does with a file."""
    with small_images_only():
        try:
            path = file_of(data)
            for invert in (False, True):
                assert read_mask(path, (SIDE - 5, SIDE + 5), invert=invert, resize=True).mask.shape == (17, 7)
        except DataError:
            return False
    return True


def info(data: bytes) -> bool:
    """What `imggen info` prints, as lines and as JSON."""
    return describe(file_of(data))


def info_mp4(data: bytes) -> bool:
    path = scratch().with_suffix(".mp4")
    path.write_bytes(data)
    return describe(path)


def describe(path: Path) -> bool:
    try:
        description = describe_file(path)
    except DataError:
        return False
    assert description["kind"] == "image" and description["file"] == str(path)
    assert all(escaped(line).isprintable() for line in _lines(description))
    json.loads(json.dumps(_without_nan(description), allow_nan=False), parse_constant=no_constant)
    return True


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def mp4_files() -> list[bytes]:
    """The boxes in which an MP4 has its comment, with nothing around them."""

    def box(name: bytes, *parts: bytes) -> bytes:
        data = b"".join(parts)
        return struct.pack(">I", 8 + len(data)) + name + data

    text = f"imggen:{json.dumps(SETTINGS)}".encode()
    comment = box(b"\xa9cmt", box(b"data", struct.pack(">II", 1, 0), text))
    moov = box(b"moov", box(b"mvhd", bytes(100)), box(b"udta", box(b"meta", bytes(4), box(b"ilst", comment))))
    return [box(b"ftyp", b"isom\0\0\2\0isomiso2") + box(b"mdat", bytes(50)) + moov, moov]


def with_settings() -> list[bytes]:
    """Files whose settings `imggen info` shows."""
    return [*images()[:9], *images()[10:13], *[file for file in images() if file[:4] in (b"RIFF", b"GIF8")][:3]]


def target(run: Callable[[bytes], bool], seeds: Callable[[], list[bytes]] = images) -> Target:
    return Target(seeds, run, repair_png)


TARGETS = {
    "decode": target(decode_small),
    "fill": target(fill),
    "mask": target(mask_of),
    "info": target(info, with_settings),
    "mp4": target(info_mp4, mp4_files),
}
# With the true limit of 120 megapixels, for memory and time; too long for the suite.
if os.environ.get("IMGGEN_HOSTILE_LARGE"):
    TARGETS["large"] = target(decode_it)
