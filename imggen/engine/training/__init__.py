"""`imggen train`: refuses what cannot succeed before torch is imported, then trains."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from imggen.engine.distributed import ProcessGroup, launch_began, launch_name
from imggen.engine.options import TrainOptions
from imggen.engine.run_dir import RunDir
from imggen.engine.training.budget import Budget
from imggen.errors import UsageError
from imggen.io.checkpoint import read_header
from imggen.reporting import Reporter, readable


def check(options: TrainOptions) -> None:
    """Refuse an impossible budget, and, in the main process, to overwrite files or to resume without a run.

    Raises UsageError and DataError.
    """
    Budget.of(options.images, options.epochs, options.minutes, dataset_size=1, default_minutes=1)
    if options.tensorboard and find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs tensorboard", "pip install 'imggen[log]'")
    if options.tensorboard and readable(str(options.run)) != str(options.run):
        raise UsageError(f"TensorBoard cannot write to {options.run}: it is not Unicode", "choose another with -o")
    if options.resume and options.init_from is not None:
        raise UsageError("--init-from is for a new run, which --resume is not", "leave one of them out")
    if ProcessGroup.from_environment().is_main:
        RunDir(options.run).check(resume=options.resume, force=options.force)


def run(options: TrainOptions, reporter: Reporter) -> dict[str, Any]:
    """Train; returns paths, hash, counts and timings. Errors as in `imggen.errors`."""
    is_main = ProcessGroup.from_environment().is_main
    options = _continued(options) if is_main else options
    check(options)
    if is_main:
        RunDir(options.run).refuse_if_locked()
    from imggen.engine.training import loop

    return loop.train(options, reporter)


def dry_run(options: TrainOptions, reporter: Reporter) -> dict[str, Any]:
    """The settings that `run` would use, without decoding the data and without training."""
    check(options)
    from imggen.engine.training import describe

    return describe.resolved_settings(options, reporter)


def _continued(options: TrainOptions) -> TrainOptions:
    """With --resume where torchrun repeats a command after a failure: the run that this torchrun has started goes on.

    A run that was there before is not touched: the repeated command is refused as the first one was. torchrun's count
    of restarts does not tell: on a machine where no process failed it stays 0, though all processes start again.
    """
    state = RunDir(options.run).state
    if launch_name() is None or not state.exists():
        return options
    document = read_header(state, kind="state").document
    saved, began = document.get("saved"), launch_began()
    # The name may be that of an earlier torchrun: --rdzv-id may give every one the same.
    if document.get("launch") != launch_name() or not isinstance(saved, int | float) or saved < began:
        return options
    return replace(options, resume=True, force=False, init_from=None)
