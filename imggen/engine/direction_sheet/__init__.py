"""imggen directions: what a model's noise changes, as a list and as an image.

`run` checks the options before torch is imported, so that a refusal comes at once.
"""

from __future__ import annotations

from typing import Any

from imggen.engine.options import DirectionsOptions
from imggen.engine.outputs import refuse_file
from imggen.io.image import format_of
from imggen.reporting import Reporter


def check(options: DirectionsOptions) -> None:
    """Raise UsageError or DataError for what can be refused without the model."""
    if options.output is not None:
        format_of(options.output)
        refuse_file(options.output, options.force)


def run(options: DirectionsOptions, reporter: Reporter) -> dict[str, Any]:
    """List the directions (`number`, `share`, `name`, `correlation`), and draw them if there is an output.

    Raises UsageError, DataError, CheckpointError and DeviceError.
    """
    check(options)
    from imggen.engine.direction_sheet.sheet import show_directions

    return show_directions(options, reporter)
