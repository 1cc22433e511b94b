"""An image file in its own mode: the masked pixels are replaced, all others keep their bits, metadata is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imggen.data.decode import read_image_file, simple_mode
from imggen.data.deep_gray import Range, from_8_bits, is_deep_gray, measured_range, rescale_deep_gray, strips
from imggen.errors import DataError, UsageError
from imggen.io.formats import LONGEST_SIDE, check_side
from imggen.io.image import ImageArray
from imggen.io.metadata import Metadata, SilencedPillow, encode_with_metadata

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


@dataclass(frozen=True)
class SourceImage:
    """The first image of a file, upright and in its own mode, with the metadata to keep.

    `format` is the file's, in lower case; `frames` counts the images in the file. `range` are the values of black and
    white in an image of mode I;16, I or F: see `measured`.
    """

    path: Path
    image: Image.Image
    format: str
    metadata: Metadata
    frames: int = 1
    range: Range = (0.0, 65535.0)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.image.size

    def measured(self, unmasked: Mask) -> SourceImage:
        """The same image, with the `range` of the pixels that are `unmasked` (H, W): no fill depends on the others."""
        if not is_deep_gray(self.image):
            return self
        return replace(self, range=measured_range(self.image, unmasked))

    def plain(self) -> Image.Image:
        """The image in mode L, LA, RGB or RGBA; black and white of deep gray are those of `range`."""
        with SilencedPillow():
            if is_deep_gray(self.image):
                return rescale_deep_gray(self.image, self.range)
            return simple_mode(self.image)

    def alpha(self) -> ImageArray | None:
        """The alpha channel (H, W), or None if the image has no transparency."""
        if self.image.mode in ("LA", "RGBA"):
            return np.asarray(self.image.getchannel("A"))
        if not self.image.has_transparency_data:
            return None
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
    """Read an image completely.

    Raises DataError if it cannot be read, or would not be kept without loss, and UsageError for a pipe.
    """
    file = read_image_file(path)
    image = file.image
    if file.has_deep_color:
        # Pillow would drop the lower 8 bits of every value without an error.
        raise DataError(f"{path} has 16 bits per color channel, which is not supported", "convert it to 8 bits first")
    if image.mode == "I;16B":
        info, image = image.info, Image.fromarray(np.asarray(image).astype("<u2"))
        image.info = info
    if image.mode not in SUPPORTED_MODES["tiff"]:
        raise DataError(f"{path} is of mode {image.mode}, which is not supported", "convert it to RGB first")
    if image.mode == "P":
        _complete_palette(image)
    return SourceImage(path, image, file.format, file.metadata, file.frames)


def _complete_palette(image: Image.Image) -> None:
    """Where pixels have an index beyond the palette, give the palette all 256 colors, those that are shown now.

    A file would be written with as few bits a pixel as its palette needs, which would change these pixels.
    """
    _, highest = cast(tuple[int, int], image.getextrema())
    if highest < len(image.getpalette("RGB") or ()) // 3:
        return
    every_index = image.crop((0, 0, 1, 1)).resize((256, 1))
    every_index.putdata(range(256))
    image.putpalette(every_index.convert("RGB").tobytes())


def format_for(source: SourceImage, wanted: str | None) -> str:
    """The format of a result: the wanted one, else the file's own if it is lossless, else PNG or TIFF.

    Raises UsageError if the wanted format cannot store the image's mode or its size.
    """
    mode = source.image.mode
    if wanted is None:
        own = source.format if source.format in LOSSLESS_FORMATS else "png"
        own = own if max(source.size) <= LONGEST_SIDE[own] else "png"
        return own if mode in SUPPORTED_MODES[own] else "tiff"
    if mode not in SUPPORTED_MODES[wanted]:
        raise UsageError(f"{source.path} is of mode {mode}, which {wanted.upper()} cannot store", "use a name in .tif")
    check_side(source.path, source.size, wanted)
    return wanted


def replace_masked(
    source: SourceImage, mask: Mask, colors: ImageArray, alpha: ImageArray | None, *, in_place: bool = False
) -> Image.Image:
    """The image in its own mode with `colors` (H, W, 1 or 3) where `mask` (H, W); other pixels keep their bits.

    `alpha` (H, W) is that of the masked pixels; None keeps the image's own. With `in_place` the source's own image is
    changed, which saves the memory of a copy.
    """
    image = source.image
    result = image if in_place else image.copy()
    for rows, own in strips(image):
        if not mask[rows].any():
            continue
        values = _in_mode(source, colors[rows], mask[rows])
        if image.mode in ("LA", "RGBA"):
            own_alpha = own[:, :, -1] if alpha is None else alpha[rows]
            values = np.concatenate([values, own_alpha[:, :, None]], 2)
        pixels = own.copy()
        pixels[mask[rows]] = values.reshape(own.shape)[mask[rows]].astype(own.dtype)
        if image.mode == "1":
            strip = Image.fromarray(pixels)
        else:
            strip = Image.frombytes(image.mode, (image.width, len(pixels)), np.ascontiguousarray(pixels).tobytes())
        result.paste(strip, (0, rows.start))
    result.info = {name: value for name, value in image.info.items() if name == "transparency"}
    return result


def _in_mode(source: SourceImage, colors: ImageArray, mask: Mask) -> NDArray[Any]:
    """`colors` (H, W, 1 or 3) as pixel values of the image's mode, without an alpha channel."""
    image, mode = source.image, source.image.mode
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
        return _avoid_transparent_color(image, from_8_bits(gray, source.range, mode))
    return gray if mode == "LA" else rgb


def _to_gray(colors: ImageArray) -> ImageArray:
    """Convert colors (H, W, 1 or 3) to gray (H, W, 1)."""
    if colors.shape[2] == 1:
        return colors
    return np.asarray(Image.fromarray(np.ascontiguousarray(colors)).convert("L"))[:, :, None]


def _avoid_transparent_color(image: Image.Image, colors: NDArray[Any]) -> NDArray[Any]:
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
    """The bytes of a file, with the source's metadata and the settings `info`. Raises DataError, which names the file.

    The metadata must fit the format: see `imggen.io.metadata.fitting`.
    """
    try:
        with SilencedPillow():
            if format == "webp":
                result = _to_webp_mode(result)
            elif format == "jpeg":
                result = _to_jpeg_mode(result)
            return encode_with_metadata(result, format, source.metadata, json.dumps(dict(info)))
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(
            f"the fill of {source.path} cannot be written as {format.upper()}: {error}", "use a name in .png or .tif"
        ) from error


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
