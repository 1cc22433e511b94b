"""The images to stylize, the styles, and the names of the results. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from imggen.data.decode import (
    ImageFile,
    UnreadableError,
    explain_unreadable,
    image_file_size,
    open_image_file,
    refuse_pipe,
    simple_mode,
)
from imggen.data.files import images_below
from imggen.engine.options import StylizeOptions
from imggen.engine.outputs import output_kind, refuse_file, refuse_folder
from imggen.errors import DataError, UsageError
from imggen.io.formats import check_side
from imggen.io.image import ImageArray, format_of
from imggen.io.metadata import Metadata, SilencedPillow
from imggen.reporting import Reporter

ENDINGS = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
COLOR_MODES = ("P", "RGB", "RGBA")  # of which a color profile also fits the result, which is RGB or RGBA
MIN_SIDE = 16
MEAN_COLOR_SIDE = 64  # the mean color of an image is that of a copy at most this large


@dataclass(frozen=True)
class ContentFile:
    """An image file to stylize, and the file of the result."""

    path: Path
    output: Path


@dataclass(frozen=True)
class ColorImage:
    """An image in RGB, and its alpha (H, W) if it has one.

    `flat` is RGB too, with transparent pixels in the mean color of the others, so that no edge is seen at them.
    """

    path: Path
    colors: Image.Image
    flat: Image.Image
    alpha: ImageArray | None
    metadata: Metadata
    frames: int


def find_contents(options: StylizeOptions, reporter: Reporter) -> list[ContentFile]:
    """The images in the order of their names, each with its result's file.

    Styles and results that lie in the folder of the images are not taken for images. Raises DataError for a missing
    file and UsageError for a pipe.
    """
    for flag, path in (("--content", options.content), *(("--style", path) for path in options.style)):
        if not path.exists():
            raise DataError(f"there is no file {path}", f"{flag} names an image")
        refuse_pipe(path)
    for path in options.style:
        if path.is_dir():
            raise UsageError(f"{path} is a folder", "--style names one image; it may be given several times")
    if not options.content.is_dir():
        output = Path(options.output)
        if output_kind(options.output) == "folder":
            output /= f"{options.content.stem}{ENDINGS[options.format]}"
        return [ContentFile(options.content, output)]
    images, left_out = images_below(options.content, [Path(options.output), *options.style])
    left_out.report(str(options.content), reporter)
    outputs = result_names([image.as_posix() for image in images], [ENDINGS[options.format]])
    return [
        ContentFile(options.content / image, Path(options.output) / f"{name}{ENDINGS[options.format]}")
        for image, name in zip(images, outputs, strict=True)
    ]


def result_names(names: Sequence[str], endings: Sequence[str]) -> list[str]:
    """Relative paths that `endings` complete to those of the results of images, so that no two results have one path.

    They are the images' own without their endings; with them where results of several images would have one path.
    """
    short = [_path_below(PurePosixPath(name).with_suffix("")) for name in names]
    full = [_path_below(PurePosixPath(name)) for name in names]
    results = short
    while True:
        owners = Counter(name + ending for name in results for ending in endings)
        clashes = [any(owners[name + ending] > 1 for ending in endings) for name in results]
        separated = [longer if clash else name for name, longer, clash in zip(results, full, clashes, strict=True)]
        if separated == results:
            return results
        results = separated


def _path_below(path: PurePosixPath) -> str:
    """The path without what would lead out of the folder of the results."""
    return str(PurePosixPath(*(part for part in path.parts if part.strip("/") not in ("..", ""))))


def image_of(source: str, name: str) -> str:
    """How a command names one image of `--image`: its file below a folder, else the source itself."""
    return str(Path(source) / name) if Path(source).is_dir() else source


def check_output(options: StylizeOptions) -> None:
    """Raise UsageError or DataError for an output that cannot be written or would overwrite a file."""
    kind, path = output_kind(options.output), Path(options.output)
    if kind in ("stdout", "pattern"):
        raise UsageError("stylized images are written to files", "-o stylized.png, or -o stylized/")
    if kind == "folder":
        refuse_folder(path, options.force)
        return
    if options.content.is_dir():
        raise UsageError("several images go into a folder", "-o stylized/")
    format_of(path)
    if options.format != "png":
        raise UsageError("the name's ending is the format", "--format is for folders")
    refuse_file(path, options.force)


def read_colors(path: Path) -> ColorImage:
    """Read an image as RGB and alpha. Raises DataError for one that cannot be read or has 16 bits a color channel."""
    with explain_unreadable(path, "give an image file"):
        return open_colors(path)


@contextmanager
def noting_unreadable(path: Path, unreadable: list[tuple[str, str]]) -> Iterator[None]:
    """Add the file to the list, with the reason, if it cannot be read in this block."""
    try:
        yield
    except OSError as error:
        unreadable.append((str(path), error.strerror or str(error)))
    except UnreadableError as error:
        unreadable.append((str(path), str(error)))


def open_colors(path: Path) -> ColorImage:
    """As `read_colors`, but raises UnreadableError and OSError."""
    file = open_image_file(path)
    if file.has_deep_color:
        raise UnreadableError("it has 16 bits per color channel: convert it to 8 bits first")
    metadata = metadata_of_color(file)
    with SilencedPillow():
        plain = simple_mode(file.image)
        alpha = np.array(plain.getchannel("A")) if plain.mode in ("LA", "RGBA") else None
        colors = plain.convert("RGBA").convert("RGB") if plain.mode == "LA" else plain.convert("RGB")
    flat = colors if alpha is None or alpha.min() == 255 else _flatten(colors, Image.fromarray(alpha))
    return ColorImage(path, colors, flat, alpha, metadata, file.frames)


def metadata_of_color(file: ImageFile) -> Metadata:
    """The metadata of an image whose result is RGB or RGBA: without a color profile of gray, or of inks."""
    metadata, mode = file.metadata, file.image.mode
    if mode in COLOR_MODES or not metadata.profile:
        return metadata
    return replace(metadata, profile=None, lost=(*metadata.lost, f"a color profile for mode {mode}"))


def _flatten(colors: Image.Image, alpha: Image.Image) -> Image.Image:
    """The image on the mean color of its opaque pixels."""
    small = (MEAN_COLOR_SIDE, MEAN_COLOR_SIDE)
    premultiplied = Image.new("RGB", colors.size)
    premultiplied.paste(colors, mask=alpha)
    total = np.asarray(alpha.resize(small, Image.Resampling.BOX), np.float64).sum() / 255
    sums = np.asarray(premultiplied.resize(small, Image.Resampling.BOX), np.float64).sum((0, 1))
    red, green, blue = (int(value) for value in np.rint(np.clip(sums / max(total, 1), 0, 255)))
    flat = Image.new("RGB", colors.size, (red, green, blue))
    flat.paste(colors, mask=alpha)
    return flat


def check_sizes(options: StylizeOptions, contents: Sequence[ContentFile]) -> None:
    """Raise DataError for an image too small for the method, UsageError for one too large for its format.

    By the headers of the files; those that cannot be read are left for later.
    """
    for file in contents:
        with suppress(OSError, UnreadableError):
            width, height = image_file_size(file.path)
            check_side(file.path, (width, height), format_of(file.output))
            if options.method != "color" and min(width, height) < MIN_SIDE:
                raise DataError(
                    f"{file.path} is {width}x{height}, and --method {options.method} needs {MIN_SIDE} pixels a side",
                    "--method color takes any size",
                )
