"""`imggen train`: refuses what cannot succeed before torch is imported, then trains."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from imggen.engine.options import TrainOptions
from imggen.engine.run_dir import RunDir
from imggen.engine.training.budget import Budget
from imggen.errors import UsageError
from imggen.reporting import Reporter, readable


def check(options: TrainOptions) -> None:
    """Refuse an impossible budget, and to overwrite files or to resume without a run.

    Raises UsageError and DataError.
    """
    Budget.of(options.images, options.epochs, options.minutes, dataset_size=1, default_minutes=1)
    if options.tensorboard and find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs tensorboard", "pip install 'imggen[log]'")
    if options.tensorboard and readable(str(options.run)) != str(options.run):
        raise UsageError(f"TensorBoard cannot write to {options.run}: it is not Unicode", "choose another with -o")
    RunDir(options.run).check(resume=options.resume, force=options.force)


def run(options: TrainOptions, reporter: Reporter) -> dict[str, Any]:
    """Train; returns paths, hash, counts and timings. Errors as in `imggen.errors`."""
    check(options)
    if os.environ.get("RANK", "0") == "0":
        RunDir(options.run).refuse_if_locked()
    from imggen.engine.training import loop

    return loop.train(options, reporter)


def dry_run(options: TrainOptions, reporter: Reporter) -> dict[str, Any]:
    """The settings that `run` would use, without decoding the data and without training."""
    check(options)
    from imggen.engine.training import plan

    return plan.resolved_settings(options, reporter)
