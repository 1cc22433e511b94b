"""From the bytes of an image file to a square array of uint8. Worker processes import this: NumPy and Pillow only."""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from imggen.data.readers import Source
from imggen.errors import DataError
from imggen.io.image import drop_alpha

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
CROPS = ("center", "random", "pad")
MAX_PIXELS = 120_000_000
SURVEY_IMAGES = 256
REMOVED = "removed while it was read"  # the reason for an image whose file has gone since it was listed
_MAX_REASON_LENGTH = 100
_WARNING_FILTERS = threading.Lock()

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels; right and bottom are exclusive."""


class UnreadableError(ValueError):
    """An image cannot be decoded; the text is a short reason."""


@dataclass(frozen=True)
class Survey:
    """Properties of an evenly spaced sample of a source.

    `channels` is what suits most of the images, the medians are in pixels (`short_median` is of the shorter sides),
    and of the `sampled` images, `readable` could be decoded.
    """

    channels: int
    width_median: int
    height_median: int
    short_median: int
    sampled: int
    readable: int


@contextmanager
def explain_unreadable(path: Path, hint: str) -> Iterator[None]:
    """Raise DataError, with `hint` if the file cannot be opened, for errors of reading and decoding an image file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint) from error
    except UnreadableError as error:
        formats = "supported formats: PNG, JPEG, WebP, GIF, BMP and TIFF"
        raise DataError(f"{path} cannot be read: {error}", formats) from error


def decode_image(data: bytes | Image.Image, *, own_mode: bool = False) -> Image.Image:
    """Decode the first frame completely and rotate it as its EXIF data says.

    The result has mode L, LA, RGB or RGBA, or, with `own_mode`, the mode of the file. Raises UnreadableError for every
    kind of defect, and for more than 120 megapixels.
    """
    if not isinstance(data, Image.Image) and not data:
        raise UnreadableError("empty file")
    try:
        image = data if isinstance(data, Image.Image) else _open(data)
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableError(f"{image.width}x{image.height} is over {MAX_PIXELS // 1_000_000} megapixels")
        image.load()
        return _upright(image) if own_mode else _simple_mode(_upright(image))
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError("not an image") from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"over {MAX_PIXELS // 1_000_000} megapixels") from None
    except MemoryError:
        raise UnreadableError("too large for the memory") from None
    except Exception as error:  # damaged files make Pillow raise nearly anything: OSError, SyntaxError, struct.error
        text = " ".join(str(error).split()) or type(error).__name__
        reason = "truncated" if "truncated" in text.lower() else text[:_MAX_REASON_LENGTH]
        raise UnreadableError(reason) from error


def _open(data: bytes) -> Image.Image:
    """Read the header. Pillow's warning about large images is silenced: `decode_image` has its own limit.

    The lock is there because changing warning filters is not thread-safe; only the header is read while it is held.
    """
    with _WARNING_FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _upright(image: Image.Image) -> Image.Image:
    """Rotate as the EXIF orientation says; damaged EXIF data is ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _simple_mode(image: Image.Image) -> Image.Image:
    """Convert any mode to L, LA, RGB or RGBA."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _rescale_deep_gray(image)
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if mode in ("LA", "RGBA"):
        return image
    if image.has_transparency_data:
        return image.convert("LA" if mode in ("1", "L", "La") else "RGBA")
    return image.convert("L" if mode == "1" else "RGB")


def gray_range(image: Image.Image) -> tuple[float, float]:
    """The values of black and white in an image of mode I;16, I or F; white is the greater.

    Files of 32 bits and of floats do not define white. Values within 0..1 (floats only), 0..255 or 0..65535 are taken
    to have that range; for any others, black is the least value and white the greatest.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        for white in (1.0,) * (image.mode == "F") + (255.0, 65535.0):
            if high <= white:
                return 0.0, white
    return low, high if high > low else low + 1.0


def _rescale_deep_gray(image: Image.Image) -> Image.Image:
    """Gray of 16 bits, 32 bits or floats as 8 bits, with `gray_range` mapped to 0..255. Pillow itself would clip."""
    raw = np.asarray(image)
    values = np.nan_to_num(raw.astype(np.float64), posinf=0.0, neginf=0.0)
    black, white = gray_range(image)
    scaled = (values - black) * (255.0 / (white - black))
    gray = Image.fromarray(np.rint(scaled).astype(np.uint8))
    transparent_value = image.info.get("transparency")
    if isinstance(transparent_value, int):
        gray.putalpha(Image.fromarray(np.where(raw == transparent_value, 0, 255).astype(np.uint8)))
    return gray


def fit_image(image: Image.Image, size: int, channels: int, crop: str, key: str) -> npt.NDArray[np.uint8]:
    """An array (size, size, channels) from an image of mode L, LA, RGB or RGBA.

    The crop "center" takes the central square, "random" a square whose position depends on `key` alone, and "pad" the
    whole image, on the median color of its border, or on transparent for 4 channels. An image that has this size
    already keeps its exact bytes.
    """
    image = with_channels(image, channels)
    width, height = image.size
    if crop == "pad":
        image = _padded(image, size)
    else:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        if crop == "random":
            number = int.from_bytes(hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()[:8], "big")
            # One of the two ranges is always a single position.
            left, top = number % (width - side + 1), number % (height - side + 1)
        image = _resized(image, (size, size), (left, top, left + side, top + side))
    return to_array(image, channels)


def to_array(image: Image.Image, channels: int) -> npt.NDArray[np.uint8]:
    """(H, W, channels) of an image from `with_channels`; fully transparent pixels become white."""
    pixels = np.array(image, dtype=np.uint8).reshape(image.height, image.width, channels)
    if channels == 4:
        pixels[pixels[..., 3] == 0, :3] = 255
    return pixels


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert L, LA, RGB or RGBA to the mode for 1, 3 or 4 channels; dropped alpha is composited on white."""
    if channels == 4:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    image = drop_alpha(image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _resized(image: Image.Image, target: tuple[int, int], box: Box) -> Image.Image:
    """The part of the image in `box`, resized to `target` (width, height); Pillow premultiplies alpha here."""
    if (box[2] - box[0], box[3] - box[1]) == target:
        return image if image.size == target else image.crop(box)
    return image.resize(target, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def _padded(image: Image.Image, size: int) -> Image.Image:
    """The whole image, resized so that its longer side is `size`, in the center of a square."""
    width, height = image.size
    longest = max(width, height)
    target = (max(1, round(width * size / longest)), max(1, round(height * size / longest)))
    small = _resized(image, target, (0, 0, width, height))
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


def load_image(source: Source, index: int) -> Image.Image:
    """Read and decode image `index`. Raises UnreadableError, also for errors of the archive or the disk."""
    try:
        data = source.image(index)
    except FileNotFoundError:
        raise UnreadableError(REMOVED) from None
    except MemoryError:
        raise UnreadableError("too large for the memory") from None
    except Exception as error:  # OSError, BadZipFile, zlib.error, NotImplementedError, RuntimeError...
        raise UnreadableError(f"cannot be read: {error}"[:_MAX_REASON_LENGTH]) from error
    return decode_image(data)


@dataclass(frozen=True)
class _Traits:
    """What the survey records of one image."""

    width: int
    height: int
    is_transparent: bool
    is_gray: bool


def _is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    return image.mode in ("LA", "RGBA") and bool(np.asarray(image.getchannel("A")).min() < 255)


def _is_gray(image: Image.Image) -> bool:
    """Whether all pixels are gray."""
    if image.mode in ("L", "LA"):
        return True
    rgb = np.asarray(image)
    red = rgb[..., 0]
    return bool((red == rgb[..., 1]).all() and (red == rgb[..., 2]).all())


def survey(source: Source, count: int = SURVEY_IMAGES) -> Survey:
    """Decode an evenly spaced sample of at most `count` images, always the same, and summarize it.

    `channels` is 4 if at least half of them have transparent pixels, 1 if all are gray, else 3.
    """
    count = min(count, len(source))
    indices = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()

    def examine(index: int) -> _Traits | None:
        try:
            image = load_image(source, index)
        except UnreadableError:
            return None
        return _Traits(*image.size, _is_transparent(image), _is_gray(image))

    with ThreadPoolExecutor(4) as threads:
        traits = [each for each in threads.map(examine, indices) if each is not None]
    if not traits:
        return Survey(3, 0, 0, 0, count, 0)
    transparent = sum(each.is_transparent for each in traits)
    channels = 4 if 2 * transparent >= len(traits) else 1 if all(each.is_gray for each in traits) else 3
    return Survey(
        channels=channels,
        width_median=round(float(np.median([each.width for each in traits]))),
        height_median=round(float(np.median([each.height for each in traits]))),
        short_median=round(float(np.median([min(each.width, each.height) for each in traits]))),
        sampled=count,
        readable=len(traits),
    )
