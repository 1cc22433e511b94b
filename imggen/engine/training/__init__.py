"""imggen train: the door to the package, which loads torch only when a request has been checked."""

from __future__ import annotations

from typing import Any

from imggen.engine.options import TrainOptions
from imggen.engine.run_dir import check_run_output
from imggen.reporting import Reporter


def run(options: TrainOptions, reporter: Reporter) -> dict[str, Any]:
    """Train a model. Errors as in `imggen.errors`."""
    check_run_output(options)
    from imggen.engine.training import loop

    return loop.train(options, reporter)


def dry_run(options: TrainOptions, reporter: Reporter) -> dict[str, Any]:
    """The settings that `run` would use."""
    check_run_output(options)
    from imggen.engine.training import loop

    return loop.plan(options, reporter)
