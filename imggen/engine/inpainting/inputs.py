"""Which pictures have holes to fill, where their masks are, and what the results are called; no torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from imggen.data.layout import EXTENSIONS, images_below
from imggen.engine.inpainting.image_file import FORMATS
from imggen.engine.options import InpaintOptions
from imggen.engine.outputs import PATTERN, output_kind, refuse_file, refuse_folder
from imggen.errors import DataError, UsageError

ENDINGS = {"png": ".png", "webp": ".webp", "tiff": ".tif", "jpeg": ".jpg"}


@dataclass(frozen=True)
class Pair:
    """A picture, its mask if that is a file, and its result's path below the output's folder, without an ending."""

    image: Path
    mask: Path | None
    name: Path


def find_pairs(options: InpaintOptions) -> list[Pair]:
    """The pictures in the order of their names, each with its mask. Raises DataError for what is not there."""
    if not options.image.exists():
        raise DataError(f"there is no file {options.image}", "--image names a picture or a folder of them")
    if options.mask is not None and not options.mask.exists():
        raise DataError(f"there is no file {options.mask}", "--mask names a mask or a folder of them")
    if not options.image.is_dir():
        return [Pair(options.image, _mask_for(options, Path(options.image.name)), Path(options.image.stem))]
    images = images_below(options.image)
    if not images:
        raise DataError(f"there are no pictures in {options.image}", f"endings: {', '.join(sorted(EXTENSIONS))}")
    stems = Counter(image.with_suffix("") for image in images)
    # Two pictures of one stem keep their endings in the results' names: none is written over the other.
    return [
        Pair(
            options.image / image,
            _mask_for(options, image),
            image.with_suffix("") if stems[image.with_suffix("")] == 1 else image,
        )
        for image in images
    ]


def _mask_for(options: InpaintOptions, image: Path) -> Path | None:
    if options.mask is None or not options.mask.is_dir():
        return options.mask
    folder = options.mask / image.parent
    same = sorted(folder.iterdir()) if folder.is_dir() else []
    stem = [path for path in same if path.stem == image.stem and path.suffix.lower() in EXTENSIONS]
    exact = [path for path in stem if path.name == image.name]
    if not stem:
        raise DataError(
            f"{image} has no mask in {options.mask}", f"it would be called {image.stem}.png, in the same place"
        )
    if len(stem) > 1 and not exact:
        raise DataError(f"{image} has more than one mask: {', '.join(path.name for path in stem)}", "keep one of them")
    return (exact or stem)[0]


def check_fill_output(options: InpaintOptions) -> None:
    """Refuse what cannot be written, or would overwrite something. Raises UsageError, DataError."""
    kind, path, many = output_kind(options.output), Path(options.output), options.image.is_dir()
    if kind == "stdout":
        raise UsageError("filled pictures are files", "-o filled.png, or -o filled/")
    if options.sheet and kind != "grid":
        raise UsageError("a sheet is one picture", "-o sheet.png")
    if kind == "folder":
        refuse_folder(path, options.force)
        return
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"imggen does not fill holes of '{path.suffix}' pictures", f"endings: {', '.join(FORMATS)}")
    if options.format is not None:
        raise UsageError("the name's ending is the format", "--format is for folders")
    if many and not options.sheet:
        raise UsageError("several pictures go into a folder", "-o filled/, or --sheet -o sheet.png")
    if kind == "pattern" and not PATTERN.fullmatch(path.name):
        raise UsageError(f"'{path.name}' needs one number, such as name-%05d.png")
    for number in range(options.count):
        refuse_file(single_path(options, number), options.force)


def single_path(options: InpaintOptions, number: int) -> Path:
    """The file of fill `number`: y.png itself, y-1.png … of several, or the pattern with the seed put in."""
    path = Path(options.output)
    if output_kind(options.output) == "pattern":
        return path.with_name(path.name % (options.seed + number))
    if options.count == 1 or options.sheet:
        return path
    return path.with_name(f"{path.stem}-{number + 1}{path.suffix}")


def wanted_format(options: InpaintOptions) -> str | None:
    """What the output's name, or --format, asks for; none leaves each picture its own."""
    if output_kind(options.output) == "folder":
        return options.format
    return FORMATS[Path(options.output).suffix.lower()]


def result_path(options: InpaintOptions, pair: Pair, number: int, format: str) -> Path:
    """Where fill `number` of a picture goes."""
    if output_kind(options.output) != "folder":
        return single_path(options, number)
    tail = f"-{number + 1}" if options.count > 1 else ""
    return Path(options.output) / pair.name.parent / f"{pair.name.name}{tail}{ENDINGS[format]}"
