"""What comes from the page: dropped images and painted masks. Imggen's own reader decodes them, within its limits."""

from __future__ import annotations

import base64
import binascii
import io
import re
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from imggen.data.decode import FORMATS_HINT, UnreadableError, decode_image
from imggen.engine.explore.actions import PageFile
from imggen.engine.explore.guard import MAX_IMAGE_BYTES
from imggen.errors import DataError

MAX_NAME = 80
OWN_STEMS = ("mask", "filled", "near", "samples", "segmented", "translated")  # names of files that actions write
PREFIX = "data:image/png;base64,"


def read_upload(sent: object) -> tuple[PageFile, Image.Image]:
    """The file that an `upload` event sent, and its image. Raises DataError if it is none that imggen reads."""
    given = sent if isinstance(sent, dict) else {}
    name, data = given.get("name"), given.get("data")
    if not isinstance(name, str) or not isinstance(data, str):
        raise DataError("no image was sent", "drop an image file")
    file = PageFile(safe_name(name), base64_bytes(data))
    return file, read_image(file)


def base64_bytes(text: str) -> bytes:
    """The bytes of a text in base64. Raises DataError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError("the image arrived damaged", "drop it again") from error


def read_image(file: PageFile) -> Image.Image:
    """The first image of a file, upright, in mode L, LA, RGB or RGBA. Raises DataError."""
    if len(file.data) > MAX_IMAGE_BYTES:
        raise DataError(f"{file.name} is larger than the page takes", "use the command line")
    try:
        return decode_image(file.data)
    except UnreadableError as error:
        raise DataError(f"{file.name} cannot be read: {error}", FORMATS_HINT) from error


def safe_name(name: str) -> str:
    """The name of a dropped file without folders, and without what is special to a shell or a disk."""
    base = PurePosixPath(name.replace("\\", "/")).name
    plain = re.sub(r"[^\w.-]", "_", base, flags=re.ASCII).lstrip(".-")[-MAX_NAME:].lstrip(".-") or "image.png"
    return f"image-{plain}" if PurePosixPath(plain).stem in OWN_STEMS else plain


def painted_mask(url: object, size: tuple[int, int]) -> PageFile:
    """The mask of a canvas as an image, white where it was painted. Raises DataError if nothing was."""
    if not isinstance(url, str) or not url.startswith(PREFIX):
        raise DataError("there is no image to fill", "drop one, or take a kept one")
    painted = read_image(PageFile("the mask", base64_bytes(url.removeprefix(PREFIX))))
    if painted.size != size:
        raise DataError("the mask is not of the image's size", "drop the image again")
    mask = np.asarray(painted.convert("RGBA").getchannel("A")) > 0
    if not mask.any():
        raise DataError("nothing is painted", "paint what is to be filled")
    encoded = io.BytesIO()
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(encoded, "PNG")
    return PageFile("mask.png", encoded.getvalue())
