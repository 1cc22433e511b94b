"""imggen inpaint: the door to the package, which loads torch only when a request has been checked."""

from __future__ import annotations

from typing import Any

from imggen.engine.options import InpaintOptions
from imggen.reporting import Reporter


def run(options: InpaintOptions, reporter: Reporter) -> dict[str, Any]:
    """Inpaint images. Errors as in `imggen.errors`."""
    _check(options)
    from imggen.engine.inpainting import inpaint

    return inpaint.inpaint(options, reporter)


def dry_run(options: InpaintOptions, reporter: Reporter) -> dict[str, Any]:
    """The settings that `run` would use."""
    _check(options)
    from imggen.engine.inpainting import inpaint

    return inpaint.plan(options, reporter)


def _check(options: InpaintOptions) -> None:
    from imggen.engine.inpainting.inputs import check_fill_output, find_pairs

    check_fill_output(options)
    find_pairs(options)
