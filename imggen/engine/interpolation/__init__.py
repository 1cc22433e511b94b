"""imggen interpolate: the door to the package, which loads torch only when a request has been checked."""

from __future__ import annotations

from typing import Any

from imggen.engine.options import InterpolateOptions
from imggen.engine.outputs import check_walk_output
from imggen.reporting import Reporter


def run(options: InterpolateOptions, reporter: Reporter) -> dict[str, Any]:
    """Render the frames. Errors as in `imggen.errors`."""
    check_walk_output(options)
    from imggen.engine.interpolation import interpolate

    return interpolate.interpolate(options, reporter)


def dry_run(options: InterpolateOptions, reporter: Reporter) -> dict[str, Any]:
    """The settings that `run` would use."""
    check_walk_output(options)
    from imggen.engine.interpolation import interpolate

    return interpolate.plan(options, reporter)
