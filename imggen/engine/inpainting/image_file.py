"""An image file in its own mode: the masked pixels are replaced, all others keep their bits, metadata is kept."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin

from imggen.data.decode import decode_image, explain_unreadable, gray_range
from imggen.errors import DataError, UsageError
from imggen.io.image import EXIF_TAGS, METADATA_KEY, ImageArray

Mask = NDArray[np.bool_]
FORMATS = {".png": "png", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff", ".jpg": "jpeg", ".jpeg": "jpeg"}
LOSSLESS_FORMATS = ("png", "webp", "tiff")
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
DEEP_GRAY_MODES = ("I;16", "I", "F")
# The modes that a format can store without changing unmasked pixels (but for JPEG's compression).
SUPPORTED_MODES = {
    "png": (*EIGHT_BIT_MODES, "I;16"),
    "webp": EIGHT_BIT_MODES,
    "tiff": (*EIGHT_BIT_MODES, *DEEP_GRAY_MODES, "CMYK"),
    "jpeg": (*EIGHT_BIT_MODES, "CMYK"),
}
TIFF_BITS_PER_SAMPLE = 258
# The tags of a TIFF that describe the image; others describe where its bytes are.
KEPT_TIFF_TAGS = ("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "Copyright")


@dataclass(frozen=True)
class SourceImage:
    """The first image of a file, upright and in its own mode, with the color profile and EXIF data to keep.

    `format` is the file's, in lower case; `frames` counts the images in the file.
    """

    path: Path
    image: Image.Image
    format: str
    profile: bytes | None
    exif: Image.Exif
    frames: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.image.size

    def plain(self) -> Image.Image:
        """The image in mode L, LA, RGB or RGBA."""
        return decode_image(self.image.copy())

    def alpha(self) -> ImageArray | None:
        """The alpha channel (H, W), or None if the image has no transparency."""
        plain = self.plain()
        return np.asarray(plain.getchannel("A")) if plain.mode in ("LA", "RGBA") else None

    def expanded(self, left: int, top: int, right: int, bottom: int) -> tuple[SourceImage, Mask]:
        """The image with margins added, in pixels, and the mask (H, W) of the new pixels."""
        width, height = self.size
        canvas = Image.new(self.image.mode, (width + left + right, height + top + bottom))
        if self.image.mode == "P":
            canvas.putpalette(self.image.palette or b"")
        canvas.info = dict(self.image.info)
        canvas.paste(self.image, (left, top))
        new_pixels = np.ones((canvas.height, canvas.width), bool)
        new_pixels[top : top + height, left : left + width] = False
        return replace(self, image=canvas), new_pixels


def open_source_image(path: Path) -> SourceImage:
    """Read an image completely. Raises DataError if it cannot be read, or would not be kept without loss."""
    with explain_unreadable(path, "give an image file"):
        data = path.read_bytes()
        image = decode_image(data, own_mode=True)
        with Image.open(io.BytesIO(data)) as header:
            format, exif = (header.format or "").lower(), header.getexif()
            has_deep_color, frames = _has_deep_color(header, data), int(getattr(header, "n_frames", 1))
    if has_deep_color:
        # Pillow would drop the lower 8 bits of every value without an error.
        raise DataError(f"{path} has 16 bits per color channel, which is not supported", "convert it to 8 bits first")
    if image.mode == "I;16B":
        info, image = image.info, Image.fromarray(np.asarray(image).astype("<u2"))
        image.info = info
    if image.mode not in SUPPORTED_MODES["tiff"]:
        raise DataError(f"{path} is of mode {image.mode}, which is not supported", "convert it to RGB first")
    exif.pop(ExifTags.Base.Orientation, None)  # the pixels are upright now
    if format == "tiff":
        exif = _descriptive_tags(exif)
    return SourceImage(path, image, format, image.info.get("icc_profile"), exif, frames)


def _has_deep_color(image: Image.Image, data: bytes) -> bool:
    """Whether the file has several channels of more than 8 bits."""
    if image.format == "PNG":
        depth, color_type = data[24:26]  # of the header chunk, which is always the first
        return depth > 8 and color_type != 0
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(TIFF_BITS_PER_SAMPLE, (8,))
        return len(bits) > 1 and max(bits) > 8
    return False


def _descriptive_tags(exif: Image.Exif) -> Image.Exif:
    """The tags that can be copied into a TIFF: it cannot store nested directories or byte offsets."""
    kept = Image.Exif()
    for name in KEPT_TIFF_TAGS:
        if (value := exif.get(ExifTags.Base[name])) is not None:
            kept[ExifTags.Base[name]] = value
    return kept


def format_for(source: SourceImage, wanted: str | None) -> str:
    """The format of a result: the wanted one, else the file's own if it is lossless, else PNG or TIFF.

    Raises UsageError if the wanted format cannot store the image's mode.
    """
    mode = source.image.mode
    if wanted is None:
        own = source.format if source.format in LOSSLESS_FORMATS else "png"
        return own if mode in SUPPORTED_MODES[own] else "tiff"
    if mode not in SUPPORTED_MODES[wanted]:
        raise UsageError(f"{source.path} is of mode {mode}, which {wanted.upper()} cannot store", "use a name in .tif")
    return wanted


def replace_masked(source: SourceImage, mask: Mask, colors: ImageArray, alpha: ImageArray | None) -> Image.Image:
    """The image in its own mode with `colors` (H, W, 1 or 3) where `mask` (H, W); other pixels keep their bits.

    `alpha` (H, W) is that of the masked pixels; None keeps the image's own.
    """
    image = source.image
    mode = image.mode
    pixels = np.array(image)
    values = _in_mode(image, colors, mask)
    if mode in ("LA", "RGBA"):
        own_alpha = pixels[:, :, -1]
        values = np.concatenate([values, (own_alpha if alpha is None else alpha)[:, :, None]], 2)
    values = values.reshape(pixels.shape)
    pixels[mask] = values[mask].astype(pixels.dtype)
    if mode == "1":
        result = Image.fromarray(pixels)
    else:
        result = Image.frombytes(mode, image.size, np.ascontiguousarray(pixels).tobytes())
    if mode == "P":
        with_palette = image.copy()
        with_palette.paste(result)
        result = with_palette
    result.info = {name: value for name, value in image.info.items() if name in ("transparency", "dpi")}
    return result


def _in_mode(image: Image.Image, colors: ImageArray, mask: Mask) -> NDArray[Any]:
    """`colors` (H, W, 1 or 3) as pixel values of the image's mode, without an alpha channel."""
    mode = image.mode
    gray, rgb = _to_gray(colors), np.repeat(colors, 3, 2) if colors.shape[2] == 1 else colors
    if mode == "L":
        return _avoid_transparent_color(image, gray)
    if mode == "RGB":
        return _avoid_transparent_color(image, rgb)
    if mode == "P":
        return _nearest_palette_index(image, rgb, mask)
    if mode == "CMYK":
        return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).convert("CMYK"))
    if mode == "1":
        return gray[:, :, 0] >= 128
    if mode in DEEP_GRAY_MODES:
        black, white = gray_range(image)
        levels = black + gray[:, :, 0].astype(np.float64) * ((white - black) / 255)
        return levels if mode == "F" else np.rint(levels)
    return gray if mode == "LA" else rgb


def _to_gray(colors: ImageArray) -> ImageArray:
    """Convert colors (H, W, 1 or 3) to gray (H, W, 1)."""
    if colors.shape[2] == 1:
        return colors
    return np.asarray(Image.fromarray(np.ascontiguousarray(colors)).convert("L"))[:, :, None]


def _avoid_transparent_color(image: Image.Image, colors: ImageArray) -> ImageArray:
    """`colors`, changed by one level where they equal the one color that the file declares transparent."""
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int | tuple):
        return colors
    is_transparent = (colors == np.array(transparent, dtype=np.int64).reshape(-1)).all(2)
    changed = colors.copy()
    changed[is_transparent, 0] = np.where(changed[is_transparent, 0] > 0, changed[is_transparent, 0] - 1, 1)
    return changed


def _nearest_palette_index(image: Image.Image, rgb: ImageArray, mask: Mask) -> ImageArray:
    """(H, W): the index of the nearest opaque color of the palette where `mask`, 0 elsewhere."""
    palette = np.array(image.getpalette("RGB") or [0, 0, 0], dtype=np.float32).reshape(-1, 3)
    transparency = image.info.get("transparency")
    is_opaque = np.ones(len(palette), bool)
    if isinstance(transparency, int) and transparency < len(palette):
        is_opaque[transparency] = False
    elif isinstance(transparency, bytes):
        alpha = np.frombuffer(transparency, np.uint8)[: len(palette)]
        is_opaque[: len(alpha)] = alpha == 255
    candidates = np.flatnonzero(is_opaque) if is_opaque.any() else np.arange(len(palette))
    wanted = rgb[mask].astype(np.float32)
    nearest = [
        candidates[np.square(part[:, None] - palette[candidates]).sum(2).argmin(1)]
        for part in np.array_split(wanted, max(1, len(wanted) // 4096))  # bounds the memory
    ]
    indices = np.zeros(mask.shape, np.uint8)
    indices[mask] = np.concatenate(nearest)
    return indices


def encode_result(source: SourceImage, result: Image.Image, format: str, info: Mapping[str, Any]) -> bytes:
    """The bytes of a file, with the source's color profile and EXIF data, and the settings `info`."""
    buffer, text = io.BytesIO(), json.dumps(dict(info))
    more: dict[str, Any] = {"icc_profile": source.profile} if source.profile else {}
    if "dpi" in result.info and format != "webp":
        more["dpi"] = result.info["dpi"]
    if format == "png":
        chunk = PngImagePlugin.PngInfo()
        chunk.add_itxt(METADATA_KEY, text)
        if len(source.exif):
            more["exif"] = source.exif
        result.save(buffer, "PNG", pnginfo=chunk, **more)
        return buffer.getvalue()
    exif = _exif_with_settings(source.exif, format, text)
    if format == "tiff":
        result.save(buffer, "TIFF", compression="tiff_deflate", exif=exif, **more)
    elif format == "webp":
        _to_webp_mode(result).save(buffer, "WEBP", lossless=True, exact=True, exif=exif.tobytes(), **more)
    else:
        _to_jpeg_mode(result).save(buffer, "JPEG", quality=95, exif=exif, **more)
    return buffer.getvalue()


def _exif_with_settings(own: Image.Exif, format: str, text: str) -> Image.Exif:
    """A copy with the settings in the description, or, if the image has its own description, in the history tag."""
    exif = Image.Exif()
    exif.load((_descriptive_tags(own) if format == "tiff" else own).tobytes())
    description = str(exif.get(EXIF_TAGS[0]) or METADATA_KEY)
    exif[EXIF_TAGS[0 if description.startswith(METADATA_KEY) else 1]] = f"{METADATA_KEY}:{text}"
    return exif


def _to_webp_mode(image: Image.Image) -> Image.Image:
    has_transparency = image.has_transparency_data
    if image.mode in ("RGB", "RGBA") and not has_transparency:
        return image
    return image.convert("RGBA" if has_transparency else "RGB")


def _to_jpeg_mode(image: Image.Image) -> Image.Image:
    """Mode L, RGB or CMYK; transparent pixels are composited on white."""
    if image.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")
