"""The images to fill, their masks, and the names of the results. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from imggen.data.decode import refuse_pipe, warn_of_frames
from imggen.data.files import images_below
from imggen.engine.inpainting.image_file import (
    FORMATS,
    LOSSLESS_FORMATS,
    Mask,
    SourceImage,
    format_for,
    open_source_image,
)
from imggen.engine.inpainting.mask_files import MaskFiles
from imggen.engine.inpainting.masks import FileMask, box_mask, dilate, explain_mask, read_mask
from imggen.engine.options import InpaintOptions
from imggen.engine.outputs import MAX_GRID_SIDE, check_pattern, output_kind, refuse_file, refuse_folder
from imggen.errors import DataError, UsageError
from imggen.io.metadata import fitting
from imggen.reporting import Reporter

ENDINGS = {"png": ".png", "webp": ".webp", "tiff": ".tif", "jpeg": ".jpg"}
WARN_MASKED_FRACTION = 0.95
WARN_CLASSICAL_MASKED_FRACTION = 0.2
MIN_OPAQUE_ALPHA = 128
SETTINGS_BYTES = 2048  # what a file records besides the options, which it records twice: as settings and as a command
BYTES_PER_PIXEL = 6  # at most 4 of Pillow's image, and 2 masks
MAX_KEPT_BYTES = 1 << 29


@dataclass(frozen=True)
class InpaintInput:
    """An image file, its mask file if there is one, and the result's name below the output folder, without ending."""

    image: Path
    mask: Path | None
    name: Path


def find_inputs(options: InpaintOptions, reporter: Reporter) -> list[InpaintInput]:
    """The images in the order of their names, each with its mask.

    Masks and results that lie in the folder of the images are not taken for images. Raises DataError for a missing
    file, UsageError for a pipe and for an image that would be its own mask.
    """
    if not options.image.exists():
        raise DataError(f"there is no file {options.image}", "--image names an image or a folder of images")
    if options.mask is not None and not options.mask.exists():
        raise DataError(f"there is no file {options.mask}", "--mask names a mask or a folder of masks")
    for path in (options.image, options.mask):
        if path is not None:
            refuse_pipe(path)
    if options.mask is not None and options.mask.is_dir() and options.image.samefile(options.mask):
        raise UsageError(f"the images in {options.image} would be their own masks", "--mask takes another folder")
    masks = MaskFiles(options)
    masks.left_out.report(str(options.mask), reporter)
    if not options.image.is_dir():
        mask = masks.find(Path(options.image.name))
        _refuse_own_mask(options.image, mask)
        return [InpaintInput(options.image, mask, Path(options.image.stem))]
    exclude = [Path(options.output)] + ([] if options.mask is None else [options.mask])
    images, left_out = images_below(options.image, exclude)
    left_out.report(str(options.image), reporter)
    # Of images with the same stem, the results keep the endings in their names, so that none overwrites another.
    stems = Counter(image.with_suffix("") for image in images)
    inputs = []
    for image in images:
        path, mask = options.image / image, masks.find(image)
        _refuse_own_mask(path, mask)
        inputs.append(InpaintInput(path, mask, image.with_suffix("") if stems[image.with_suffix("")] == 1 else image))
    return inputs


def _refuse_own_mask(image: Path, mask: Path | None) -> None:
    """Raise UsageError if both are the same file, by whatever name or link."""
    if mask is not None and image.samefile(mask):
        raise UsageError(f"{image} would be its own mask", "--mask takes another file, or a folder of masks alone")


@dataclass(frozen=True)
class MaskedImage:
    """An image and its mask (H, W), true where it is to be filled.

    `empty` (H, W) is the part of the mask that had no pixels before: transparent, or beyond the image's edges. `note`
    says how the mask was made of its file, where that is not obvious.
    """

    files: InpaintInput
    source: SourceImage
    mask: Mask
    empty: Mask
    note: str | None = None

    @property
    def masked_fraction(self) -> float:
        """The fraction of the pixels that is masked."""
        return float(self.mask.mean())


class MaskedImages:
    """The images of an inpainting, each read and checked when this is made; iterating yields them in order.

    Images are kept in memory up to MAX_KEPT_BYTES; those beyond are read once more when their turn comes.

    Raises UsageError and DataError for what cannot be read, has no masked pixels or has masked pixels only, and for a
    result that its format cannot store. Metadata that cannot be kept is left out with a warning.
    """

    def __init__(self, options: InpaintOptions, inputs: list[InpaintInput], reporter: Reporter) -> None:
        self.options, self.inputs = options, inputs
        self._kept: dict[int, MaskedImage] = {}
        kept_bytes, is_lossy = 0, False
        sheet_cell = (0, 0)
        for index, files in enumerate(inputs):
            image = open_masked_image(options, files)
            sheet_cell = (max(sheet_cell[0], image.source.size[0]), max(sheet_cell[1], image.source.size[1]))
            is_lossy |= result_format(options, image) not in LOSSLESS_FORMATS
            _warn(options, image, reporter)
            kept_bytes += image.mask.size * BYTES_PER_PIXEL
            if kept_bytes <= MAX_KEPT_BYTES:
                self._kept[index] = image
        if options.sheet:
            check_sheet(sheet_cell, len(inputs), options.count)
        if is_lossy and not options.sheet:
            reporter.warn("JPEG changes every pixel a little, unmasked ones too; a name in .png keeps them")

    def __len__(self) -> int:
        return len(self.inputs)

    def __iter__(self) -> Iterator[MaskedImage]:
        for index, files in enumerate(self.inputs):
            kept = index in self._kept
            yield self._kept.pop(index) if kept else open_masked_image(self.options, files)


def _warn(options: InpaintOptions, image: MaskedImage, reporter: Reporter) -> None:
    """Warn of an image that will be filled badly, or of which only the first frame is kept."""
    name, fraction = image.files.image, image.masked_fraction
    if fraction > WARN_MASKED_FRACTION:
        reporter.warn(f"{name}: {fraction:.0%} is masked, so the model sees little of the image")
    if options.method == "classical" and fraction > WARN_CLASSICAL_MASKED_FRACTION:
        reporter.warn(f"{name}: {fraction:.0%} is masked; --method classical is for thin scratches")
    warn_of_frames(name, image.source.frames, "filled and kept", reporter)
    if image.note is not None:
        reporter.info(image.note)
    if image.source.metadata.lost and not options.sheet:
        reporter.warn(f"{name}: not kept: {'; '.join(image.source.metadata.lost)}")


def check_sheet(cell: tuple[int, int], rows: int, count: int) -> None:
    """Raise UsageError if a sheet with `rows` images, each cell (width, height) in pixels, is too large for a file."""
    if max((cell[1] + 2) * rows, (cell[0] + 2) * (2 + count)) > MAX_GRID_SIDE:
        raise UsageError("the sheet is too large for one file", "fewer or smaller images, or -o folder/")


def open_masked_image(options: InpaintOptions, files: InpaintInput) -> MaskedImage:
    """Read an image and make its mask of everything that the options name. Raises UsageError and DataError."""
    source = open_source_image(files.image)
    width, height = source.size
    mask = box_mask(options.boxes, source.size)
    from_file: FileMask | None = None
    if files.mask is not None:
        from_file = read_mask(files.mask, source.size, invert=options.invert, resize=options.resize_mask)
        mask |= from_file.mask
    empty = np.zeros_like(mask)
    if options.from_alpha:
        alpha = source.alpha()
        if alpha is None:
            raise DataError(f"{files.image} has no transparency", "give the mask with --mask FILE")
        empty = alpha < MIN_OPAQUE_ALPHA
        mask |= ~empty if options.invert and files.mask is None else empty
    mask = dilate(mask, options.grow)
    if any(options.expand):
        left, top, right, bottom = options.expand
        if max(width + left + right, height + top + bottom) > MAX_GRID_SIDE:
            raise UsageError(f"{files.image} would grow too large", f"a side may have {MAX_GRID_SIDE:,} pixels")
        margins = ((top, bottom), (left, right))
        source, new_pixels = source.expanded(left, top, right, bottom)
        mask, empty = np.pad(mask, margins) | new_pixels, np.pad(empty, margins) | new_pixels
    if not mask.any() or mask.all():
        raise _explain_mask(options, files, from_file, mask)
    source = source.measured(~mask)
    image = MaskedImage(
        files, source, mask, empty & mask if empty.any() else empty, None if from_file is None else from_file.note
    )
    if options.sheet:
        return image
    settings_length = SETTINGS_BYTES + 3 * len(repr(options))
    metadata = fitting(source.metadata, result_format(options, image), settings_length)
    return replace(image, source=replace(source, metadata=metadata))


def _explain_mask(options: InpaintOptions, files: InpaintInput, from_file: FileMask | None, mask: Mask) -> DataError:
    """The error for an image of which no pixel, or every pixel, is masked."""
    if from_file is not None and files.mask is not None and from_file.mask.all() == from_file.mask.any():
        return explain_mask(from_file, files.mask, options.invert)
    if mask.any():
        return DataError(f"{files.image}: every pixel is masked", "mask less; imggen sample generates whole images")
    return DataError(
        f"{files.image}: no pixel is masked", "--mask-from-alpha masks what is transparent, and nothing is"
    )


def check_output(options: InpaintOptions) -> None:
    """Raise UsageError or DataError for an output that cannot be written or would overwrite a file."""
    kind, path, is_folder = output_kind(options.output), Path(options.output), options.image.is_dir()
    if kind == "stdout":
        raise UsageError("filled images are written to files", "-o filled.png, or -o filled/")
    if options.sheet and kind != "grid":
        raise UsageError("a sheet is one image", "-o sheet.png")
    if kind == "folder":
        refuse_folder(path, options.force)
        return
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"imggen cannot write '{path.suffix}' images here", f"endings: {', '.join(FORMATS)}")
    if options.format is not None:
        raise UsageError("the name's ending is the format", "--format is for folders")
    if is_folder and not options.sheet:
        raise UsageError("several images go into a folder", "-o filled/, or --sheet -o sheet.png")
    if kind == "pattern":
        check_pattern(path)
    for number in range(options.count):
        refuse_file(_single_path(options, number), options.force)


def _single_path(options: InpaintOptions, number: int) -> Path:
    """The file of fill `number` of one image: y.png itself, y-1.png … of several, or the pattern with its seed."""
    path = Path(options.output)
    if output_kind(options.output) == "pattern":
        return path.with_name(path.name % (options.seed + number))
    if options.count == 1 or options.sheet:
        return path
    return path.with_name(f"{path.stem}-{number + 1}{path.suffix}")


def result_format(options: InpaintOptions, image: MaskedImage) -> str:
    """The format of an image's results: that of the output's name or --format, else its own. Raises UsageError."""
    if options.sheet:
        return format_for(image.source, None)
    if output_kind(options.output) == "folder":
        return format_for(image.source, options.format)
    return format_for(image.source, FORMATS[Path(options.output).suffix.lower()])


def result_path(options: InpaintOptions, image: MaskedImage, number: int) -> Path:
    """The file of fill `number` of an image."""
    if output_kind(options.output) != "folder":
        return _single_path(options, number)
    name, tail = image.files.name, f"-{number + 1}" if options.count > 1 else ""
    return Path(options.output) / name.parent / f"{name.name}{tail}{ENDINGS[result_format(options, image)]}"
