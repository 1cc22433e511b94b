"""imggen interpolate: frames along a path through the noise of several samples or images.

`run` and `dry_run` check the options before torch is imported, so that a refusal comes at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imggen.engine.interpolation.plan import InterpolationPlan, exact_fps, make_plan
from imggen.engine.options import InterpolateOptions
from imggen.engine.outputs import output_kind, refuse_file, refuse_folder
from imggen.errors import UsageError
from imggen.io.animation import animation_format, check_speed
from imggen.io.image import format_of
from imggen.reporting import Reporter, Silent


def run(options: InterpolateOptions, reporter: Reporter) -> dict[str, Any]:
    """Render and write the frames; returns paths, frames, seeds, statistics of the steps, and timings.

    Raises UsageError, DataError, CheckpointError and DeviceError.
    """
    plan = check(options, reporter)
    from imggen.engine.interpolation.interpolate import interpolate

    return interpolate(options, plan, reporter)


def dry_run(options: InterpolateOptions, reporter: Reporter) -> dict[str, Any]:
    """Return what `run` would do, without rendering a frame. Raises as `run` does."""
    plan = check(options, reporter)
    from imggen.engine.interpolation.interpolate import describe_plan

    return describe_plan(options, plan, reporter)


def check(options: InterpolateOptions, reporter: Reporter | None = None) -> InterpolationPlan:
    """Raise UsageError or DataError for what can be refused without the model; returns the plan without classes."""
    _check_output(options)
    return make_plan(options, reporter or Silent())


def _check_output(options: InterpolateOptions) -> None:
    path, kind = Path(options.output), output_kind(options.output)
    if kind in ("stdout", "pattern"):
        raise UsageError("the output is a file or a folder of frames", "-o walk.gif, or -o frames/")
    if kind == "folder":
        if options.strip:
            raise UsageError("a strip is one image", "-o strip.png")
        refuse_folder(path, options.force)
        return
    if options.strip:
        format_of(path)
    else:
        check_speed(animation_format(path), exact_fps(options.fps))
    refuse_file(path, options.force)
