"""From the bytes of an image file to a square array of uint8. Worker processes import this: NumPy and Pillow only."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from imggen.data.deep_gray import gray_range, image_strips, rescale_deep_gray
from imggen.data.pixel_budget import PixelBudget
from imggen.data.readers import Source
from imggen.errors import DataError, UsageError, in_one_line
from imggen.io import formats
from imggen.io.image import drop_alpha
from imggen.io.metadata import Metadata, SilencedPillow, read_metadata, read_orientation, without_metadata
from imggen.reporting import Reporter

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
FORMATS_HINT = "supported formats: PNG, JPEG, WebP, GIF, BMP and TIFF"
MAX_PIXELS = formats.MAX_PIXELS
TIFF_BITS_PER_SAMPLE = 258
REMOVED = "removed while it was read"  # the reason for an image whose file has gone since it was listed
_MAX_REASON_LENGTH = 100
PIXEL_BUDGET = PixelBudget(MAX_PIXELS)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

PixelBox = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels; right and bottom are exclusive."""
Encoded = bytes | Path | Image.Image
"""The bytes of an image file, the file, or an image that needs no decoding."""
T = TypeVar("T")


class UnreadableError(ValueError):
    """An image cannot be decoded; the text is a short reason."""


@dataclass(frozen=True)
class ImageFile:
    """An image file as it is: its first image, upright and in the file's own mode, and its metadata.

    `format` is the file's, in lower case; `frames` counts the images in the file. `has_deep_color` is true for a file
    of several channels of more than 8 bits, of which `image` has the upper 8.
    """

    image: Image.Image
    format: str
    frames: int
    has_deep_color: bool
    metadata: Metadata


@contextmanager
def explain_unreadable(path: Path, hint: str) -> Iterator[None]:
    """Raise DataError, with `hint` if the file cannot be opened, for errors of reading and decoding an image file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", hint) from error
    except UnreadableError as error:
        raise DataError(f"{path} cannot be read: {error}", FORMATS_HINT) from error


def refuse_pipe(path: Path) -> None:
    """Raise UsageError for a pipe or a device: it could be read only once, and has no name that tells its format."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UsageError(f"{path} is a pipe or a device, not a file", "give a file, or a folder of files")


def warn_of_frames(name: object, frames: int, use: str, reporter: Reporter) -> None:
    """Warn of a file of several images, of which only the first has a `use`, such as "stylized"."""
    if frames > 1:
        reporter.warn(f"{name}: of its {frames} images only the first is {use}")


def decode_file(path: Path, hint: str = "give an image file") -> Image.Image:
    """The first image of a file, upright, in mode L, LA, RGB or RGBA. Raises DataError; UsageError for a pipe."""
    with explain_unreadable(path, hint):
        return decode_image(_regular_file(path))


def read_image_file(path: Path) -> ImageFile:
    """Read an image in the file's own mode, with its metadata. Raises DataError; UsageError for a pipe.

    It reads whatever `decode_file` reads.
    """
    with explain_unreadable(path, "give an image file"):
        return open_image_file(path)


def open_image_file(path: Path) -> ImageFile:
    """As `read_image_file`, but raises UnreadableError and OSError."""
    return decode_or_explain(_decode_file, _regular_file(path))


def image_file_size(path: Path) -> tuple[int, int]:
    """As `image_size` of a file, of which only the header is read. Raises UnreadableError and OSError."""
    return decode_or_explain(image_size, _regular_file(path))


def decode_with_metadata(data: bytes | Image.Image) -> ImageFile:
    """An image in its own mode, with its metadata; see `read_image_file`. Raises UnreadableError."""
    if isinstance(data, Image.Image):
        return ImageFile(data, "", 1, has_deep_color=False, metadata=Metadata())
    return decode_or_explain(_decode_file, data)


def _regular_file(path: Path) -> Path:
    """The path of a regular file that is not too large. Raises OSError, UnreadableError and UsageError."""
    refuse_pipe(path)
    if refusal := formats.refusal_of_size(path.stat().st_size):
        raise UnreadableError(refusal)
    if path.is_dir():
        raise UnreadableError("it is a folder")
    return path


def decode_image(data: Encoded) -> Image.Image:
    """Decode the first frame completely, rotate it as its EXIF data says, and convert it to L, LA, RGB or RGBA.

    `data` are the bytes of a file, a file, or an image. Raises UnreadableError for every kind of defect, and for more
    than 120 megapixels; damaged metadata is no defect.
    """
    return decode_or_explain(lambda data: simple_mode(decode_upright(data)), data)


def decode_or_explain(decode: Callable[[Encoded], T], data: Encoded) -> T:
    """`decode(data)`, or, where it fails, of the data without metadata. Raises UnreadableError for every defect."""
    try:
        with SilencedPillow():
            return _retrying_without_metadata(decode, data)
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError("not an image") from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"over {MAX_PIXELS // 1_000_000} megapixels") from None
    except MemoryError:
        raise UnreadableError("too large for the memory") from None
    except Exception as error:  # damaged files make Pillow raise nearly anything: OSError, SyntaxError, struct.error
        if isinstance(data, Path) and isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        text = in_one_line(error)
        reason = "truncated" if "truncated" in text.lower() else text[:_MAX_REASON_LENGTH]
        raise UnreadableError(reason) from error


def _retrying_without_metadata(decode: Callable[[Encoded], T], data: Encoded) -> T:
    """`decode(data)`, or that of the data without metadata; raises the first error if both fail."""
    try:
        return decode(data)
    except (UnreadableError, Image.DecompressionBombError, MemoryError):
        raise
    except Exception as error:
        whole = b"" if isinstance(data, Image.Image) else data if isinstance(data, bytes) else data.read_bytes()
        pixels_only = without_metadata(whole)
        if len(pixels_only) < len(whole):
            with suppress(Exception):
                return decode(pixels_only)
        raise error


def _open(data: Encoded) -> Image.Image:
    """Read the header. Raises UnreadableError for an empty file, and for an image that is too large."""
    if isinstance(data, Image.Image):
        image = data
    else:
        if not (data if isinstance(data, bytes) else data.stat().st_size):
            raise UnreadableError("empty file")
        image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
        image.filename = ""  # with a name Pillow maps the file into memory, and refuses some that it reads otherwise
    if image.width * image.height > MAX_PIXELS:
        if image is not data:
            image.close()
        raise UnreadableError(f"{image.width}x{image.height} is over {MAX_PIXELS // 1_000_000} megapixels")
    return image


def decode_upright(data: Encoded, hold: Callable[[int], None] | None = None) -> Image.Image:
    """The first image, in its own mode; `hold` is called with the number of pixels before they are decoded."""
    if isinstance(data, Image.Image):
        return _turned(_open(data), _orientation(data))
    with _open(data) as image:
        if hold is not None:
            hold(image.width * image.height)
        image.load()
        return _turned(image, _orientation(image))


def image_size(data: Encoded) -> tuple[int, int]:
    """The size (width, height) of the upright image, of which no pixel is decoded."""
    image = _open(data)
    is_turned = _orientation(image) >= 5 and image.format != "TIFF"  # Pillow itself turns a TIFF, when it is decoded
    size = image.size[::-1] if is_turned else image.size
    if image is not data:
        image.close()
    return size


def _decode_file(data: Encoded) -> ImageFile:
    assert not isinstance(data, Image.Image)
    with _open(data) as image:
        has_deep_color = _has_deep_color(image, data)
        frames = _count_frames(data)
        if image.format == "PNG":
            image.load()
        metadata = read_metadata(image, data)
        image.load()
        upright = _turned(image, _orientation(image))  # Pillow itself turns a TIFF
        return ImageFile(upright, (image.format or "").lower(), frames, has_deep_color, metadata)


def _count_frames(data: bytes | Path) -> int:
    """How many images the file holds, at least 1; what follows the first one may be damaged.

    The file is opened anew, because counting changes what Pillow knows of the first image of a damaged TIFF.
    """
    try:
        with _open(data) as image:
            return max(1, int(getattr(image, "n_frames", 1)))
    except Exception:
        return 1


def _has_deep_color(image: Image.Image, data: bytes | Path) -> bool:
    """Whether the file has several channels of more than 8 bits."""
    if image.format == "PNG":
        with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file:
            depth, color_type = file.read(26)[24:]  # of the header chunk, which is always the first
        return depth > 8 and color_type != 0
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(TIFF_BITS_PER_SAMPLE, (8,))
        return len(bits) > 1 and max(bits) > 8
    return False


def _orientation(image: Image.Image) -> int:
    """How the image must be turned, as the EXIF data say, 1 to 8; damaged EXIF data are ignored."""
    try:
        return read_orientation(image)
    except Exception:
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    if image.size != image.im.size:  # Pillow swaps a damaged TIFF's sides without turning its pixels
        raise UnreadableError("its tags contradict each other")
    return image if orientation == 1 else image.transpose(_UPRIGHT[orientation])


def simple_mode(image: Image.Image) -> Image.Image:
    """Convert any mode to L, LA, RGB or RGBA."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return rescale_deep_gray(image, gray_range(image))
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if mode in ("LA", "RGBA"):
        return image
    if image.has_transparency_data:
        return image.convert("LA" if mode in ("1", "L", "La") else "RGBA")
    return image.convert("L" if mode == "1" else "RGB")


def fit_image(image: Image.Image, size: int, channels: int, crop: str, key: str) -> npt.NDArray[np.uint8]:
    """An array (size, size, channels) from an image of mode L, LA, RGB or RGBA.

    The crop "center" takes the central square, "random" a square whose position depends on `key` alone, and "pad" the
    whole image, on the median color of its border, or on transparent for 4 channels. An image that has this size
    already keeps its exact bytes.
    """
    image = with_channels(image, channels)
    image = _padded(image, size) if crop == "pad" else _resized(image, (size, size), crop_box(image.size, crop, key))
    return to_array(image, channels)


def crop_box(size: tuple[int, int], crop: str, key: str) -> PixelBox:
    """The square that the crops "center" and "random" take of an image of `size` (width, height)."""
    width, height = size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if crop == "random":
        number = int.from_bytes(hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()[:8], "big")
        # One of the two ranges is always a single position.
        left, top = number % (width - side + 1), number % (height - side + 1)
    return left, top, left + side, top + side


def to_array(image: Image.Image, channels: int) -> npt.NDArray[np.uint8]:
    """(H, W, channels) of an image from `with_channels`; fully transparent pixels become white."""
    pixels = np.array(image, dtype=np.uint8).reshape(image.height, image.width, channels)
    if channels == 4:
        pixels[pixels[..., 3] == 0, :3] = 255
    return pixels


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert L, LA, RGB or RGBA to the mode for 1, 3 or 4 channels; dropped alpha is composited on white."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    if image.mode == mode:
        return image
    result = Image.new(mode, image.size)
    for top, strip in image_strips(image):  # in strips, so that there is no second copy of a large image
        result.paste((strip if channels == 4 else drop_alpha(strip)).convert(mode), (0, top))
    return result


def _resized(image: Image.Image, target: tuple[int, int], box: PixelBox) -> Image.Image:
    """The part of the image in `box`, resized to `target` (width, height); Pillow premultiplies alpha here."""
    if (box[2] - box[0], box[3] - box[1]) == target:
        return image if image.size == target else image.crop(box)
    return image.resize(target, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def padded_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size (width, height) of an image once its longer side is `side`."""
    longest = max(size)
    return max(1, round(size[0] * side / longest)), max(1, round(size[1] * side / longest))


def _padded(image: Image.Image, size: int) -> Image.Image:
    """The whole image, resized so that its longer side is `size`, in the center of a square."""
    target = padded_size(image.size, size)
    small = _resized(image, target, (0, 0, *image.size))
    if target == (size, size):
        return small
    if image.mode == "RGBA":
        background: tuple[int, ...] = (255, 255, 255, 0)
    else:
        pixels = np.asarray(small).reshape(target[1], target[0], -1)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        background = tuple(int(v) for v in np.median(border, axis=0))
    canvas = Image.new(image.mode, (size, size), background if len(background) > 1 else background[0])
    canvas.paste(small, ((size - target[0]) // 2, (size - target[1]) // 2))
    return canvas


def read_source(source: Source, index: int) -> bytes | Image.Image:
    """Image `index`, not decoded. Raises UnreadableError, also for errors of the archive or the disk."""
    try:
        return source.image(index)
    except FileNotFoundError:
        raise UnreadableError(REMOVED) from None
    except MemoryError:
        raise UnreadableError("too large for the memory") from None
    except Exception as error:  # OSError, BadZipFile, zlib.error, NotImplementedError, RuntimeError...
        raise UnreadableError(f"cannot be read: {error}"[:_MAX_REASON_LENGTH]) from error


@contextmanager
def loaded_image(source: Source, index: int) -> Iterator[Image.Image]:
    """Read and decode image `index`; see `decode_image`. All threads together hold at most MAX_PIXELS at a time."""
    data = read_source(source, index)
    with PIXEL_BUDGET.holding() as hold:
        yield decode_or_explain(lambda data: simple_mode(decode_upright(data, hold)), data)


def load_image(source: Source, index: int) -> Image.Image:
    """Read and decode image `index`. Raises UnreadableError, also for errors of the archive or the disk."""
    return decode_image(read_source(source, index))
