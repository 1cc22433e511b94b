"""From the bytes of a picture to a square of uint8. Numpy and Pillow only: worker processes import this."""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from imggen.data.readers import Source

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
CROPS = ("center", "random", "pad")
MAX_PIXELS = 120_000_000
_OPENING = threading.Lock()

Box = tuple[int, int, int, int]


class UnreadableError(ValueError):
    """A picture that cannot be decoded; the text is a short reason."""


@dataclass(frozen=True)
class Survey:
    """What an evenly spaced sample of a source looks like; medians are in pixels."""

    channels: int
    width_median: int
    height_median: int
    short_median: int
    sampled: int
    readable: int


def decode_image(data: bytes | Image.Image, *, own_mode: bool = False) -> Image.Image:
    """Decode fully, first frame only, upright; the result has mode L, LA, RGB or RGBA, or with `own_mode` the file's.

    Raises `UnreadableError` for anything that is wrong with the picture.
    """
    if not isinstance(data, Image.Image) and not data:
        raise UnreadableError("empty file")
    try:
        picture = data if isinstance(data, Image.Image) else _open(data)
        if picture.width * picture.height > MAX_PIXELS:
            raise UnreadableError(f"{picture.width}x{picture.height} is over {MAX_PIXELS // 1_000_000} megapixels")
        picture.load()
        return _upright(picture) if own_mode else _plain_mode(_upright(picture))
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError("not a picture") from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"over {MAX_PIXELS // 1_000_000} megapixels") from None
    except MemoryError:
        raise UnreadableError("too large for the memory") from None
    except Exception as error:  # damaged files make Pillow raise nearly anything: OSError, SyntaxError, struct.error
        text = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableError("truncated" if "truncated" in text.lower() else text[:100]) from error


def _open(data: bytes) -> Image.Image:
    """Read the header. Pillow's warning about size is silenced, because our own limit comes next.

    Changing the filters of warnings is not safe in threads, hence the lock; only the header is read in it.
    """
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _upright(picture: Image.Image) -> Image.Image:
    """Turn as the EXIF orientation says; damaged EXIF is no reason to lose a picture."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        return picture


def _plain_mode(picture: Image.Image) -> Image.Image:
    mode = picture.mode
    if mode.startswith("I") or mode == "F":
        return _deep_grey(picture)
    if mode in ("L", "RGB") and "transparency" not in picture.info:
        return picture
    if mode in ("LA", "RGBA"):
        return picture
    if picture.has_transparency_data:
        return picture.convert("LA" if mode in ("1", "L", "La") else "RGBA")
    return picture.convert("L" if mode == "1" else "RGB")


def gray_range(picture: Image.Image) -> tuple[float, float]:
    """What is black and what is white in a picture of mode I;16, I or F; white is the greater."""
    if picture.mode.startswith("I;16"):
        return 0.0, 65535.0
    values = np.nan_to_num(np.asarray(picture).astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        for white in (1.0,) * (picture.mode == "F") + (255.0, 65535.0):
            if high <= white:
                return 0.0, white
    return low, high if high > low else low + 1.0


def _deep_grey(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits, of 32 bits or of floats, rescaled to 8 bits instead of clipped.

    Files of 32 bits and of floats do not say what white is: values within 0..1 (floats), 0..255 and
    0..65535 are read as such, any others are stretched from their least to their greatest.
    """
    raw = np.asarray(picture)
    values = np.nan_to_num(raw.astype(np.float64), posinf=0.0, neginf=0.0)
    black, white = gray_range(picture)
    scaled = (values - black) * (255.0 / (white - black))
    grey = Image.fromarray(np.rint(scaled).astype(np.uint8))
    hidden = picture.info.get("transparency")
    if isinstance(hidden, int):
        grey.putalpha(Image.fromarray(np.where(raw == hidden, 0, 255).astype(np.uint8)))
    return grey


def fit_image(image: Image.Image, size: int, channels: int, crop: str, key: str) -> npt.NDArray[np.uint8]:
    """A (size, size, channels) array from a picture of mode L, LA, RGB or RGBA.

    crop "center" takes the central square, "random" a square at a place that depends on `key` only,
    "pad" the whole picture on the median colour of its border (on nothing for 4 channels).
    A picture that has the size already keeps its exact bytes.
    """
    image = with_channels(image, channels)
    width, height = image.size
    if crop == "pad":
        image = _padded(image, size)
    else:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        if crop == "random":
            draw = int.from_bytes(hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()[:8], "big")
            # One of the two ranges is always a single place.
            left, top = draw % (width - side + 1), draw % (height - side + 1)
        image = _resized(image, (size, size), (left, top, left + side, top + side))
    return to_array(image, channels)


def to_array(image: Image.Image, channels: int) -> npt.NDArray[np.uint8]:
    """(H, W, channels) of a picture that `with_channels` has given; colours that cannot be seen are white."""
    pixels = np.array(image, dtype=np.uint8).reshape(image.height, image.width, channels)
    if channels == 4:
        pixels[pixels[..., 3] == 0, :3] = 255
    return pixels


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """Change to L, RGB or RGBA; where alpha is dropped the picture is laid on white first."""
    if channels == 4:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode in ("LA", "RGBA"):
        solid = "L" if image.mode == "LA" else "RGB"
        white = Image.new(solid, image.size, "white")
        white.paste(image.convert(solid), mask=image.getchannel("A"))
        image = white
    wanted = "L" if channels == 1 else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _resized(image: Image.Image, target: tuple[int, int], box: Box) -> Image.Image:
    """The part of the picture in `box`, at the target size; Pillow premultiplies alpha here."""
    if (box[2] - box[0], box[3] - box[1]) == target:
        return image if image.size == target else image.crop(box)
    return image.resize(target, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def _padded(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    longest = max(width, height)
    target = (max(1, round(width * size / longest)), max(1, round(height * size / longest)))
    small = _resized(image, target, (0, 0, width, height))
    if target == (size, size):
        return small
    if image.mode == "RGBA":
        colour: tuple[int, ...] = (255, 255, 255, 0)
    else:
        pixels = np.asarray(small).reshape(target[1], target[0], -1)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        colour = tuple(int(v) for v in np.median(border, axis=0))
    canvas = Image.new(image.mode, (size, size), colour if len(colour) > 1 else colour[0])
    canvas.paste(small, ((size - target[0]) // 2, (size - target[1]) // 2))
    return canvas


def _traits(picture: Image.Image) -> tuple[bool, bool]:
    """Whether anything is see-through, and whether all is grey."""
    see_through = False
    if picture.mode in ("LA", "RGBA"):
        low = np.asarray(picture.getchannel("A")).min()
        see_through = bool(low < 255)
    if picture.mode in ("L", "LA"):
        return see_through, True
    rgb = np.asarray(picture)
    red = rgb[..., 0]
    return see_through, bool((red == rgb[..., 1]).all() and (red == rgb[..., 2]).all())


def load_image(source: Source, index: int) -> Image.Image:
    """Read and decode picture `index`; a fault of the archive or the disk is `UnreadableError` too."""
    try:
        data = source.image(index)
    except MemoryError:
        raise UnreadableError("too large for the memory") from None
    except Exception as error:  # OSError, BadZipFile, zlib.error, NotImplementedError, RuntimeError...
        raise UnreadableError(f"cannot be read: {error}"[:100]) from error
    return decode_image(data)


def survey(source: Source, sample: int = 256) -> Survey:
    """Decode an evenly spaced sample (always the same one) and say how the pictures look.

    channels is 4 when at least half have any transparency, 1 when all are grey, else 3.
    """
    count = min(sample, len(source))
    indices = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()

    def look(index: int) -> tuple[int, int, bool, bool] | None:
        try:
            picture = load_image(source, index)
        except UnreadableError:
            return None
        return (*picture.size, *_traits(picture))

    with ThreadPoolExecutor(4) as threads:
        seen = [found for found in threads.map(look, indices) if found is not None]
    if not seen:
        return Survey(3, 0, 0, 0, count, 0)
    see_through = sum(found[2] for found in seen)
    channels = 4 if 2 * see_through >= len(seen) else 1 if all(found[3] for found in seen) else 3
    return Survey(
        channels=channels,
        width_median=round(float(np.median([found[0] for found in seen]))),
        height_median=round(float(np.median([found[1] for found in seen]))),
        short_median=round(float(np.median([min(found[:2]) for found in seen]))),
        sampled=count,
        readable=len(seen),
    )
