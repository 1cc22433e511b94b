"""imggen sample: generate images, or compare given images with what the model makes of them.

`run` and `dry_run` check the options before torch is imported, so that a refusal comes at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from imggen.engine.distributed import ProcessGroup
from imggen.engine.options import SampleOptions
from imggen.engine.outputs import check_pattern, check_writable, is_occupied, output_kind, refuse_file
from imggen.errors import DataError, UsageError
from imggen.io.image import format_of
from imggen.reporting import Reporter


def run(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """Generate and write images; returns paths, seeds, the model's hash and timings.

    With `source` or `near` the output is one grid of given images and the model's versions of them. If the output is
    "-", the encoded image is returned under "png" and nothing is written.

    Raises UsageError, DataError, CheckpointError and DeviceError.
    """
    check(options)
    if options.source is None and options.near is None:
        from imggen.engine.sampling.sample import sample

        return sample(options, reporter)
    from imggen.engine.sampling.reconstruct import reconstruct

    return reconstruct(options, reporter)


def dry_run(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """Return what `run` would do, without generating an image. Raises as `run` does."""
    check(options)
    if options.source is None and options.near is None:
        from imggen.engine.sampling.sample import describe_plan

        return describe_plan(options, reporter)
    from imggen.engine.sampling.reconstruct import describe_grid

    return describe_grid(options, reporter)


def check(options: SampleOptions) -> None:
    """Raise UsageError or DataError for what can be refused without the model."""
    if output_kind(options.output) in ("grid", "stdout") and ProcessGroup.from_environment().size > 1:
        raise UsageError("several processes can share the images of a folder, but not of one file", "-o folder/")
    _check_output(options)
    if options.colors is not None:
        _check_colors(options)
    if options.source is not None or options.near is not None:
        _check_one_grid(options)


def _check_colors(options: SampleOptions) -> None:
    if options.source is not None or options.near is not None:
        raise UsageError("--colors is for new samples, not for --from and --near", "leave --colors out")
    kind = output_kind(options.output)
    format = options.format if kind in ("folder", "stdout") else format_of(Path(options.output))
    if format == "jpeg":
        raise UsageError("JPEG cannot keep few colors: it changes them", "write PNG or WebP, or leave --colors out")


def _check_output(options: SampleOptions) -> None:
    kind, path = output_kind(options.output), Path(options.output)
    if kind == "stdout":
        if sys.stdout.isatty():
            raise UsageError("PNG bytes would fill the terminal", "pipe them: imggen sample … -o - > grid.png")
        return
    if kind != "folder":
        format_of(path)
    if kind == "pattern":
        check_pattern(path)
    if kind == "grid":
        refuse_file(path, options.force)
        return
    if kind == "folder" and path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a folder", "give an image file's name or another folder")
    check_writable(path if kind == "folder" else path.parent)
    occupied = path if is_occupied(path) else None
    existing = _file_of_pattern(path) if kind == "pattern" else occupied
    if existing is not None and not options.force and not options.resume:
        raise UsageError(f"{existing} already exists", "--force overwrites it, --resume adds to it")


def _file_of_pattern(pattern: Path) -> Path | None:
    """An existing file whose name the pattern could have produced, if any."""
    prefix, suffix = pattern.name.split("%", 1)
    suffix = suffix.split("d", 1)[-1]
    if not pattern.parent.is_dir():
        return None
    for path in pattern.parent.iterdir():
        number = path.name[len(prefix) : len(path.name) - len(suffix)]
        if path.name.startswith(prefix) and path.name.endswith(suffix) and number.isdigit():
            return path
    return None


def _check_one_grid(options: SampleOptions) -> None:
    """Check the options of --from and --near, whose output is one grid."""
    flag = "--from" if options.near is None else "--near"
    if output_kind(options.output) not in ("grid", "stdout"):
        raise UsageError(f"{flag} makes one grid of images", "-o side-by-side.png")
    if options.direction and options.near is None:
        raise UsageError("--from reconstructs images as they are", "leave --direction out; --near takes it")
    if options.label == "all":
        raise UsageError(f"{flag} takes one class", "leave --class out: the model then chooses the most likely class")
    if options.near is None:
        return
    if not options.near.is_file():
        hint = "--from takes a folder" if options.near.is_dir() else None
        raise DataError(f"{options.near} is not an image file", hint)
    if options.temperature > 1:
        raise UsageError(
            f"--near takes temperatures from 0 to 1, not {options.temperature:g}",
            "at 1 the samples no longer depend on the image",
        )
