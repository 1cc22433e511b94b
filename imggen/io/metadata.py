"""What image files hold besides pixels: color profile, EXIF data, resolution, PNG's color chunks, imggen's settings.

Files come from anywhere. Whatever cannot be read, or cannot be written in the wanted format, is left out and named;
the image is read and written all the same.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from PIL import ExifTags, Image, PngImagePlugin

from imggen.errors import DataError
from imggen.io.formats import MAX_PIXELS, png_chunk

# Settings are stored in a text chunk of this name in PNG, else in an EXIF tag whose text begins with it and a colon.
METADATA_KEY = "imggen"
EXIF_TAGS = (ExifTags.Base.ImageDescription, ExifTags.Base.ImageHistory)
# The tags of a TIFF that describe the image; others describe where its bytes are.
KEPT_TIFF_TAGS = ("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "Copyright")
MAX_DPI = 65_535  # JPEG stores 16 bits
MAX_JPEG_PROFILE = 255 * 65_519  # 255 markers
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_HEADER_END = 33
# PNG's chunks about the meaning of its colors, and their lengths; the profile is read and written by Pillow.
COLOR_CHUNKS = {b"cICP": 4, b"mDCV": 24, b"cLLI": 8, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
SRGB_CICP = bytes((1, 13, 0, 1))
SRGB_GAMMA = 45_455
SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
TEXT_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF")


class SilencedPillow:
    """A context in which no warning is shown; any number of threads may be in it.

    Pillow warns of damaged files on stderr. Filters of warnings belong to the whole process, so the first thread that
    enters sets them, and the last one that leaves restores them.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _inside: ClassVar[int] = 0
    _saved: ClassVar[warnings.catch_warnings[None] | None] = None

    def __enter__(self) -> None:
        with self._lock:
            if SilencedPillow._inside == 0:
                SilencedPillow._saved = warnings.catch_warnings()
                SilencedPillow._saved.__enter__()
                warnings.simplefilter("ignore")
            SilencedPillow._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            SilencedPillow._inside -= 1
            if SilencedPillow._inside == 0 and SilencedPillow._saved is not None:
                SilencedPillow._saved.__exit__(None, None, None)


@dataclass(frozen=True)
class Metadata:
    """What an image file says of itself, all of it valid.

    `exif` is empty or begins with "Exif", and is without the `orientation` (1 to 8, of the EXIF standard): images are
    turned upright. `dpi` is the resolution (x, y) in pixels per inch. `color_chunks` are names and contents of PNG
    chunks. `lost` names what the file holds but cannot be read or kept; each completes "not kept: …".
    """

    profile: bytes | None = None
    exif: bytes = b""
    dpi: tuple[float, float] | None = None
    color_chunks: tuple[tuple[bytes, bytes], ...] = ()
    orientation: int = 1
    lost: tuple[str, ...] = field(default=(), compare=False)


def read_metadata(image: Image.Image, source: bytes | Path) -> Metadata:
    """The metadata of an image that Pillow opened, and whose bytes or file `source` is. Never raises.

    A PNG's pixels must have been loaded, because metadata may follow them; a TIFF's must not, because they end access
    to its tags.
    """
    lost: list[str] = []

    def attempt(what: str, read: Callable[[], Any], default: Any) -> Any:
        try:
            return read()
        except Exception:  # Pillow raises nearly anything
            lost.append(what)
            return default

    with SilencedPillow():
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            exif, orientation = b"", attempt("damaged EXIF data", lambda: read_orientation(image), 1)
            if not lost:
                exif = attempt("damaged EXIF data", lambda: _exif(image), b"")
        if complaints and not lost:
            lost.append("the damaged part of the EXIF data")
        profile = attempt("a damaged color profile", lambda: _profile(image), None)
        dpi = attempt("a resolution that is no number", lambda: _dpi(image), None)
        chunks = attempt("damaged color chunks", lambda: _color_chunks(image, source), ())
    return Metadata(profile, exif, dpi, chunks, orientation, tuple(lost))


def read_orientation(image: Image.Image) -> int:
    """How the image must be turned, 1 (it need not be) to 8. Raises anything for damaged EXIF data."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _profile(image: Image.Image) -> bytes | None:
    profile = image.info.get("icc_profile")
    if profile is not None and not isinstance(profile, bytes):
        raise ValueError
    return profile or None


def _exif(image: Image.Image) -> bytes:
    """EXIF data without the orientation; raises if it could not be written again."""
    if data := image.info.get("exif"):
        # Anew, because Pillow may have read it when it opened the file, and then hides that it is damaged.
        exif = Image.Exif()
        exif.load(data)
    elif image.format == "TIFF":
        exif = _descriptive_tags(image.getexif())
    else:
        exif = Image.Exif()
        exif.load(image.getexif().tobytes())
    exif.pop(ExifTags.Base.Orientation, None)
    if not len(exif):
        return b""
    data = exif.tobytes()
    again = Image.Exif()
    again.load(data)
    again.tobytes()
    return data


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    if (dpi := image.info.get("dpi")) is None:
        return None
    x, y = (float(value) for value in dpi)
    if not (math.isfinite(x) and math.isfinite(y) and 0 < x <= MAX_DPI and 0 < y <= MAX_DPI):
        raise ValueError
    return x, y


def _descriptive_tags(exif: Image.Exif) -> Image.Exif:
    """The tags that can be copied into a TIFF: it cannot store nested directories or byte offsets."""
    kept = Image.Exif()
    for name in KEPT_TIFF_TAGS:
        if isinstance(value := exif.get(ExifTags.Base[name]), str):
            kept[ExifTags.Base[name]] = value
    return kept


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, contents and checksum of each chunk of a PNG, as far as they are whole."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            return
        yield data[at + 4 : at + 8], data[at + 8 : end - 4], data[end - 4 : end]
        at = end


def _color_chunks(image: Image.Image, source: bytes | Path) -> tuple[tuple[bytes, bytes], ...]:
    """The color chunks of a PNG, each once. Raises ValueError for a damaged one."""
    if image.format != "PNG":
        return ()
    found: dict[bytes, bytes] = {}
    for name, data, checksum in _chunks_before_pixels(source):
        if name in COLOR_CHUNKS:
            if len(data) != COLOR_CHUNKS[name] or zlib.crc32(name + data).to_bytes(4, "big") != checksum:
                raise ValueError
            found.setdefault(name, data)
    return tuple(found.items())


def _chunks_before_pixels(source: bytes | Path) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The chunks of a PNG that precede its pixels; of a file, only small ones are read."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        file.seek(len(PNG_SIGNATURE))
        while len(header := file.read(8)) == 8 and header[4:] != b"IDAT":
            length = int.from_bytes(header[:4], "big")
            if header[4:] in COLOR_CHUNKS and length <= max(COLOR_CHUNKS.values()):
                yield header[4:], file.read(length), file.read(4)
            elif header[4:] in COLOR_CHUNKS:
                raise ValueError
            else:
                file.seek(length + 4, io.SEEK_CUR)


def without_metadata(data: bytes) -> bytes:
    """A PNG or a JPEG with nothing but what its pixels need; any other file as it is."""
    if data.startswith(PNG_SIGNATURE):
        parts = [PNG_SIGNATURE]
        for name, contents, checksum in png_chunks(data):
            if name[:1].isupper() or name == b"tRNS":
                parts += [len(contents).to_bytes(4, "big"), name, contents, checksum]
        return b"".join(parts)
    if data.startswith(b"\xff\xd8"):
        return _pixel_segments_of_jpeg(data)
    return data


def _pixel_segments_of_jpeg(data: bytes) -> bytes:
    """A JPEG without comments and application data; JFIF's and Adobe's stay, because they say what the colors are."""
    parts, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        marker = data[at + 1]
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker in (0xE0, 0xEE):
            parts.append(data[at:end])
        at = end
    return b"".join([*parts, data[at:]])


def fitting(metadata: Metadata, format: str, settings_length: int) -> Metadata:
    """The metadata that can be stored in `format` beside settings of that length; what cannot be is in `lost`.

    It is found out by writing an image of one pixel with each part, so that it holds for every version of Pillow.
    """
    lost, kept = list(metadata.lost), replace(metadata, lost=())
    text = "x" * settings_length
    if kept.profile and format == "jpeg" and len(kept.profile) > MAX_JPEG_PROFILE:
        lost.append("a color profile that is too long for JPEG")
        kept = replace(kept, profile=None)
    if kept.profile and not _can_store(Metadata(profile=kept.profile), format, text):
        lost.append(f"a color profile that {format.upper()} cannot store")
        kept = replace(kept, profile=None)
    if kept.exif and not _can_store(Metadata(exif=kept.exif), format, text):
        lost.append(f"EXIF data that {format.upper()} cannot store")
        kept = replace(kept, exif=b"")
    if kept.dpi and not _can_store(Metadata(dpi=kept.dpi), format, text):
        lost.append(f"a resolution that {format.upper()} cannot store")
        kept = replace(kept, dpi=None)
    if format != "png" and (chunks := _needed_color_chunks(kept)):
        lost.append(f"{', '.join(chunks)}, which {format.upper()} cannot store: viewers may show other colors")
    return replace(kept, lost=tuple(lost))


def _can_store(metadata: Metadata, format: str, text: str) -> bool:
    try:
        encode_with_metadata(Image.new("L", (1, 1)), format, metadata, text)
    except Exception:
        return False
    return True


def _needed_color_chunks(metadata: Metadata) -> list[str]:
    """Names of the chunks without which the colors have another meaning: sRGB is what every reader assumes."""
    chunks = dict(metadata.color_chunks)
    names = []
    if chunks.get(b"cICP", SRGB_CICP) != SRGB_CICP:
        names.append("cICP")
    elif metadata.profile is None and b"sRGB" not in chunks:
        if int.from_bytes(chunks.get(b"gAMA", SRGB_GAMMA.to_bytes(4, "big")), "big") != SRGB_GAMMA:
            names.append("gAMA")
        primaries = b"".join(value.to_bytes(4, "big") for value in SRGB_CHROMATICITIES)
        if chunks.get(b"cHRM", primaries) != primaries:
            names.append("cHRM")
    return names + [name.decode() for name in (b"mDCV", b"cLLI") if name in chunks]


def encode_with_metadata(
    image: Image.Image, format: str, metadata: Metadata, settings: str | None, *, level: int | None = None
) -> bytes:
    """The bytes of an image file with its metadata and the text of imggen's settings.

    `image` has a mode that the format stores; `level` is PNG's compression level, None for Pillow's default. WebP is
    lossless, JPEG has quality 95. Raises what Pillow raises for metadata that does not fit the format: see `fitting`.
    """
    buffer, more = io.BytesIO(), dict[str, Any]()
    if metadata.profile:
        more["icc_profile"] = metadata.profile
    if metadata.dpi and format != "webp":
        more["dpi"] = metadata.dpi
    if format == "png":
        text = PngImagePlugin.PngInfo()
        if settings is not None:
            text.add_itxt(METADATA_KEY, settings)
        if metadata.exif:
            more["exif"] = metadata.exif
        if level is not None:
            more["compress_level"] = level
        image.save(buffer, "PNG", pnginfo=text, **more)
        return _with_chunks(buffer.getvalue(), metadata.color_chunks)
    exif = _exif_with_settings(metadata.exif, format, settings)
    if format == "tiff":
        # Pillow would copy the tags of the file that the image was read from, damaged ones too.
        for attribute in ("tag", "tag_v2"):
            vars(image).pop(attribute, None)
        image.save(buffer, "TIFF", compression="tiff_deflate", exif=exif, **more)
    elif format == "webp":
        image.save(buffer, "WEBP", lossless=True, exact=True, exif=exif.tobytes(), **more)
    else:
        image.save(buffer, "JPEG", quality=95, exif=exif, **more)
    return buffer.getvalue()


def _with_chunks(png: bytes, chunks: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """A PNG with chunks added behind its header, where they precede the palette and the pixels."""
    if not chunks:
        return png
    added = (png_chunk(kind, data) for kind, data in chunks)
    return b"".join([png[:PNG_HEADER_END], *added, png[PNG_HEADER_END:]])


def _exif_with_settings(own: bytes, format: str, settings: str | None) -> Image.Exif:
    """EXIF with the settings in the description, or, if the image has its own description, in the history tag."""
    exif = Image.Exif()
    if own:
        exif.load(own)
    if format == "tiff":
        exif = _descriptive_tags(exif)
    if settings is not None:
        description = str(exif.get(EXIF_TAGS[0]) or METADATA_KEY)
        exif[EXIF_TAGS[0 if description.startswith(METADATA_KEY) else 1]] = f"{METADATA_KEY}:{settings}"
    return exif


def read_settings_text(path: Path) -> str | None:
    """The text of imggen's settings in an image file, or None; it is not checked, anyone can write such a file.

    Raises DataError, and nothing else, if the file cannot be read as an image.
    """
    try:
        with SilencedPillow(), Image.open(path, formats=TEXT_FORMATS) as image:
            return _settings_text(image)
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise DataError(
            f"{path} is not an image that can be read", "PNG, JPEG, WebP, GIF and TIFF files carry settings"
        ) from error


def _settings_text(image: Image.Image) -> str | None:
    prefix = f"{METADATA_KEY}:"
    if image.format == "GIF":
        comment = image.info.get("comment", b"")
        texts = [comment.decode("utf-8", "replace") if isinstance(comment, bytes) else comment]
    elif image.format == "PNG":
        text = image.info.get(METADATA_KEY)
        if text is None and image.width * image.height <= MAX_PIXELS:
            image.load()  # the chunk may stand behind the pixels
            text = image.info.get(METADATA_KEY)
        return text if isinstance(text, str) else None
    else:
        exif = image.getexif()
        # An image with its own description has the settings in its history.
        texts = [exif.get(tag) for tag in EXIF_TAGS]
    return next(
        (text.removeprefix(prefix) for text in texts if isinstance(text, str) and text.startswith(prefix)), None
    )
