"""The training loop, the same for every family."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from imggen.engine.options import TrainOptions
from imggen.engine.run_dir import RunDir
from imggen.engine.training.best_checkpoint import BestCheckpoint
from imggen.engine.training.describe import describe_plan
from imggen.engine.training.plan import TrainPlan, make_plan
from imggen.engine.training.signals import StopRequest, stop_requests
from imggen.engine.training.timers import Clock, Due, SteadyClock, Timers
from imggen.engine.training.training_run import TrainingRun
from imggen.io.checkpoint import read_header, weights_hash
from imggen.io.locks import lock_directory
from imggen.reporting import Reporter, Task, duration

SECONDS_BETWEEN_REPORTS = 5.0
MAX_GPU_MEMORY_FOR_DATA = 0.4  # of what is free


def train(
    options: TrainOptions, reporter: Reporter, *, stop: StopRequest | None = None, clock: Clock = time.monotonic
) -> dict[str, Any]:
    """Train to the end of the budget, or until `stop`, which signals set; returns paths, hash, counts and timings.

    Raises UsageError, DataError, CheckpointError, DeviceError and DivergedError; InterruptedRun after saving if it
    was stopped.
    """
    plan = make_plan(options, reporter)
    try:
        with ExitStack() as stack:
            return _train(plan, reporter, StopRequest() if stop is None else stop, SteadyClock(clock), stack)
    finally:
        plan.dataset.close()
        plan.processes.stop()


def _train(plan: TrainPlan, reporter: Reporter, stop: StopRequest, clock: Clock, stack: ExitStack) -> dict[str, Any]:
    run_dir, processes = plan.run_dir, plan.processes

    # Build the networks, or load them to resume
    training = TrainingRun(plan, reporter, clock)
    describe_plan(plan, training.learner, reporter)
    if plan.evaluate_seconds is not None:
        training.inspection.check_measurable()
    if plan.dataset.nbytes < _gpu_memory_for_data(plan.device):
        plan.dataset.to(plan.device, reporter)

    # Prepare the run's directory, and lock it until the end
    if processes.is_main:
        run_dir.path.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lock_directory(run_dir.path))
        # Check again: another run may have written here since the first check.
        run_dir.check(resume=plan.state is not None, force=plan.force)
        run_dir.clear_partial_files()
        if plan.state is None and run_dir.exists():
            run_dir.clear_logs()
        run_dir.write_config(plan.settings())
    training.save()
    if processes.is_main and plan.state is None:
        run_dir.best.unlink(missing_ok=True)

    # Train; from here on a first signal only asks to stop
    with ExitStack() as inner:
        inner.enter_context(stop_requests(stop))
        best = None
        if plan.evaluate_seconds is not None and processes.is_main:
            best = BestCheckpoint(plan, training.inspection, reporter)
        processes.barrier()
        task = inner.enter_context(reporter.task("training", 1.0))
        if plan.tensorboard and processes.is_main:
            training.write_scalars = _tensorboard(run_dir, inner)
        _loop(training, stop, task, best)
        training.save()
        if not stop and training.calibrate():
            training.save_weights()
        if best is not None and not stop:
            training.evaluate(best)
            best.report_better_checkpoint()
        processes.barrier()  # a process that ends while others still write counts as failed for torchrun

    if stop:
        raise stop.error(f"saved in {run_dir.path} after {training.images:,} images")
    return {
        "weights": str(run_dir.weights),
        "run": str(run_dir.path),
        "hash": weights_hash(read_header(run_dir.weights, kind="weights")) if processes.is_main else None,
        "steps": training.steps,
        "images": training.images,
        "seconds": round(training.seconds, 2),
        "data_wait": round(training.data_wait / max(training.seconds, 1e-9), 4),
        "seed": plan.seed,
    }


def _loop(training: TrainingRun, stop: StopRequest, task: Task, best: BestCheckpoint | None) -> None:
    plan, reporter = training.plan, training.reporter
    timers = Timers(
        training.seconds,
        {"report": SECONDS_BETWEEN_REPORTS, "save": plan.save_seconds, "evaluate": plan.evaluate_seconds},
        training.clock,
    )
    announced_end = False
    if plan.state is not None and plan.budget.progress(training.images, training.seconds) >= 1:
        reporter.warn("the budget is spent: give a larger one to train further, such as --minutes or --images")
    while True:
        # Agree with the other processes on what to do in this round
        evaluation_due = best is not None and timers.due("evaluate")
        due = Due(timers.trained(), stop.signal, timers.due("save"), evaluation_due)
        due = due.agreed(plan.processes, plan.device)
        training.seconds = due.seconds
        stop.signal = due.signal or stop.signal  # a signal that arrived meanwhile is handled in the next round
        progress = plan.budget.progress(training.images, training.seconds)
        ending = progress >= 1 or due.signal != 0
        report_due, report_seconds = timers.due("report"), timers.elapsed("report")

        # Report losses and speed
        if training.recent_metrics and progress >= 1:
            training.inspect()
        if training.recent_metrics and (report_due or ending):
            images_per_second, losses = training.report(progress, report_seconds)
            timers.restart("report")
            task.update(progress, f"{images_per_second:,.0f} img/s  {losses}")
            if not announced_end and not ending:
                announced_end = True
                _announce_end(training, images_per_second)
        if ending:
            return

        # Save a preview and a checkpoint
        if due.save:
            training.save()
            training.inspect()
            timers.restart("save")

        # Evaluate; the time it takes does not count towards a budget of minutes
        if due.evaluate:
            with timers.pause("report", plan.processes, plan.device):
                if best is not None:
                    training.evaluate(best)
                timers.restart("evaluate")

        # Train on one batch
        training.step(progress)


def _announce_end(training: TrainingRun, images_per_second: float) -> None:
    seconds = training.plan.budget.seconds_left(training.images, training.seconds, images_per_second)
    end = time.strftime("%a %H:%M", time.localtime(time.time() + seconds))
    left = duration(seconds)
    training.reporter.info(f"{images_per_second:,.0f} images per second: expected to end in {left}, {end}")


def _gpu_memory_for_data(device: torch.device) -> int:
    """Bytes of a GPU that the decoded data set may occupy; 0 on other devices, where it stays memory-mapped."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * MAX_GPU_MEMORY_FOR_DATA)
    return 0


def _tensorboard(run_dir: RunDir, stack: ExitStack) -> Callable[[dict[str, Any]], None]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run_dir.path / "tensorboard"))
    stack.callback(writer.close)

    def write_scalars(record: dict[str, Any]) -> None:
        for name, value in record.items():
            writer.add_scalar(name, value, record["images"])

    return write_scalars
