"""The one training loop, for every family."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imggen.data.dataset import Order, mirror
from imggen.engine.checkpoints import save_backend
from imggen.engine.device import out_of_memory, release_memory
from imggen.engine.noise import SampleSpec, mix_seed
from imggen.engine.options import TrainOptions
from imggen.engine.render import sample_batches
from imggen.engine.run_dir import RunDir, check_run_output
from imggen.engine.training.best_checkpoint import BestCheckpoint
from imggen.engine.training.mode_collapse import CollapseMonitor
from imggen.engine.training.plan import TrainPlan, describe_plan, duration, make_plan
from imggen.engine.training.signals import StopRequest, stop_requests
from imggen.errors import CheckpointError, DeviceError, DivergedError, ImggenError
from imggen.io.atomic import atomic_write, lock_directory
from imggen.io.checkpoint import read_header, read_tensors, weights_hash, write_checkpoint
from imggen.io.image import encode, grid
from imggen.metrics.features import load_features
from imggen.models import build_learner
from imggen.models.base import Learner, NonFiniteError
from imggen.reporting import Reporter, Task

MAX_ROLLBACKS = 3
RESET_ROLLBACKS_AFTER_SAVES = 3  # saves in a row after which earlier roll-backs are forgotten
SECONDS_BETWEEN_METRICS = 5.0
# What may go wrong where a training is only looked at: never a reason to end it.
EVALUATION_ERRORS = (ImggenError, RuntimeError, MemoryError, OSError)
MIN_HELD_OUT, MAX_HELD_OUT = 16, 500
MAX_HELD_OUT_FRACTION = 1 / 12

Snapshot = tuple[dict[str, Tensor], dict[str, Any]]


class TrainingRun:
    """One run: where it stands, and how it steps, saves and rolls back."""

    def __init__(self, setup: TrainPlan, reporter: Reporter) -> None:
        self.setup = setup
        self.reporter = reporter
        self.folder = RunDir(setup.options.run)
        torch.manual_seed(mix_seed(setup.seed, 0))
        self.learner: Learner = build_learner(setup.config)
        self.learner.precision = setup.precision
        self.learner.to(setup.device)
        if setup.world.size > 1:
            self.learner.reduce_gradients, self.learner.processes = setup.world.average_gradients, setup.world.size
        self.rows, kept_out = split_rows(len(setup.dataset), self.learner.held_out_fraction)
        if len(kept_out):
            self.learner.held_out = lambda: self._held_out(kept_out)
        self.order = Order(len(self.rows), setup.seed)
        self.steps = self.images = self.rollbacks = self.failures = self.saves = 0
        self.seconds = 0.0
        self.waited = 0.0
        self.recent: list[dict[str, Tensor]] = []
        self.variety: CollapseMonitor | None = None
        self.found: dict[str, float] = {}
        self.writer: Callable[[dict[str, Any]], None] = lambda record: None
        self.learner.set_dataset_size(len(setup.dataset))
        if setup.state is not None:
            self._resume(setup)
        self.good = self._snapshot()

    def _resume(self, setup: TrainPlan) -> None:
        state = setup.state
        assert state is not None
        tensors = read_tensors(self.folder.state, state, None)
        document = state.document
        try:
            self.learner.load_state(tensors, document["learner"])
            self.steps, self.images, self.rollbacks = (int(document[k]) for k in ("steps", "images", "rollbacks"))
            self.seconds, self.waited = float(document["seconds"]), float(document.get("waited", 0.0))
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.folder.state} is damaged: {error}", "--force starts afresh") from error
        if document.get("data_key") != setup.dataset.key:
            self.reporter.warn("the data has changed since the run was started: it goes on with the new pictures")
        self.folder.cut_metrics(self.images)
        self.reporter.info(f"resuming {self.folder.path} at {self.images:,} pictures")

    def _snapshot(self) -> tuple[Snapshot, int, int]:
        tensors, document = self.learner.state()
        return ({name: tensor.detach().clone() for name, tensor in tensors.items()}, document), self.steps, self.images

    def step(self, progress: float) -> None:
        """One batch. Non-finite numbers roll back, too little memory halves the micro-batch."""
        setup = self.setup
        local = setup.batch // setup.world.size
        # All randomness of a step follows from this line: a resumed run needs no stored generator.
        torch.manual_seed(mix_seed(setup.seed, 1 + setup.world.rank, self.images, self.rollbacks))
        began = time.monotonic()
        indices = self.rows[self.order.indices(self.images + setup.world.rank * local, local)]
        images, known = self._batch(indices)
        if setup.options.mirror:
            images = mirror(images).contiguous(memory_format=torch.channels_last)
        self.waited += time.monotonic() - began
        while True:
            try:
                metrics = self.learner.step(images, known, progress, self.images)
                break
            except NonFiniteError:
                self._roll_back()
                return
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._shrink(local, error)
        self.steps += 1
        self.images += setup.batch
        self.recent.append(metrics)

    def _batch(self, indices: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        pictures, labels = self.setup.dataset.batch(indices)
        images = pictures.to(self.setup.device).float().div_(127.5).sub_(1)
        known = labels.to(self.setup.device) if self.setup.config.classes else None
        return images.contiguous(memory_format=torch.channels_last), known

    def _held_out(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor | None]]:
        size = self.learner.micro_batch or self.setup.batch
        for start in range(0, len(rows), size):
            yield self._batch(rows[start : start + size])

    def _shrink(self, local: int, error: BaseException) -> None:
        now = self.learner.micro_batch or local
        # The other processes would wait for gradients of a step that this one has begun anew.
        if now < 4 or self.setup.world.size > 1:
            raise DeviceError("not enough memory to train", "--size or --batch smaller") from error
        self.learner.micro_batch = now // 2
        for optimiser in self.learner.optimizers.values():
            optimiser.zero_grad(set_to_none=True)
        release_memory(self.setup.device)
        self.reporter.warn(f"not enough memory: now {now // 2} pictures at a time, gradients added up")

    def _roll_back(self) -> None:
        (tensors, document), steps, images = self.good
        self.rollbacks, self.failures, self.saves = self.rollbacks + 1, self.failures + 1, 0
        if self.failures > MAX_ROLLBACKS:
            raise DivergedError(
                f"training diverged {self.failures} times; {self.folder.weights} is the last good checkpoint",
                "--resume with a lower --learning-rate, or with --precision fp32",
            )
        self.learner.load_state(tensors, document)
        self.reporter.warn(
            f"non-finite loss or gradient at {self.images:,} images: rolled back to {images:,}"
            f" ({self.failures} of {MAX_ROLLBACKS})"
        )
        self.steps, self.images = steps, images
        self.recent.clear()
        if self.setup.world.is_main:
            self.folder.cut_metrics(images)

    def save(self) -> None:
        """Preview, weights, state: each file whole or not at all."""
        self.good = self._snapshot()
        self.saves += 1
        self.failures = 0 if self.saves >= RESET_ROLLBACKS_AFTER_SAVES else self.failures
        if not self.setup.world.is_main:
            return
        preview = self._preview()
        self.folder.samples.mkdir(parents=True, exist_ok=True)
        atomic_write(self.folder.samples / f"{self.steps:06d}.png", preview)
        provenance = self.setup.provenance(self.images, self.seconds)
        save_backend(self.folder.weights, self.learner.backend, provenance, thumbnail=preview)
        (tensors, document), _, _ = self.good
        write_checkpoint(
            self.folder.state,
            tensors,
            {
                "config": self.setup.config.to_json(),
                "fixed": self.setup.fixed(),
                "learner": document,
                "steps": self.steps,
                "images": self.images,
                "rollbacks": self.rollbacks,
                "budget": {"images": self.setup.budget.images, "seconds": self.setup.budget.seconds},
                "seconds": self.seconds,
                "waited": self.waited,
                "data_key": self.setup.dataset.key,
            },
            kind="state",
        )

    def _preview(self) -> bytes:
        """The same noise each time: eight columns, a row a class where there are classes."""
        classes = len(self.setup.config.classes)
        rows = min(classes, 16) if classes else 8
        items = [SampleSpec(seed, row if classes else None) for row in range(rows) for seed in _row(row, classes)]
        pictures = list(sample_batches(self.learner.backend, items, lambda _, pictures: pictures))
        return encode(grid(np.concatenate(pictures), 8), "png", {"steps": self.steps, "images": self.images})

    def look(self, watch: BestCheckpoint) -> None:
        """Compare with the data; a line of its own in the metrics. What goes wrong there does not end the training."""
        try:
            found = watch.look(self.learner.backend, self.setup.provenance(self.images, self.seconds))
        except EVALUATION_ERRORS as error:
            self.reporter.warn(f"no comparison with the data this time: {_line(error)}")
            return
        record = {"steps": self.steps, "images": self.images, "seconds": round(self.seconds, 2), **found}
        self.folder.append_metrics(record)
        self.writer({name: value for name, value in record.items() if not isinstance(value, str)})
        self.reporter.info("  ".join(f"{name} {value}" for name, value in record.items()))

    def look_for_collapse(self) -> None:
        """Whether other noise still draws other pictures; if not, it is said; it goes into the next metrics line."""
        if not self.setup.world.is_main:
            return
        try:
            if self.variety is None:
                self.variety = CollapseMonitor(self.setup.dataset, load_features(None, self.setup.device))
            self.found = self.variety.look(self.learner.backend, self.images, self.reporter)
        except EVALUATION_ERRORS as error:
            self.reporter.warn(f"variety was not measured this time: {_line(error)}")

    def report(self, progress: float, images_per_second: float) -> str:
        """Write a metrics line; returns its losses for the progress bar."""
        names = dict.fromkeys(name for metrics in self.recent for name in metrics)
        means = {name: float(torch.stack([m[name].float() for m in self.recent if name in m]).mean()) for name in names}
        record = {
            "steps": self.steps,
            "images": self.images,
            "seconds": round(self.seconds, 2),
            "progress": round(progress, 6),
            "images_per_second": round(images_per_second, 1),
            **{name: round(value, 6) for name, value in means.items()},
            **self.found,
        }
        self.found = {}
        if self.setup.world.is_main:
            self.folder.append_metrics(record)
            self.writer(record)
        self.recent.clear()
        losses = " ".join(f"{name} {value:.3f}" for name, value in means.items())
        return f"{images_per_second:,.0f} img/s  {losses}"


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def split_rows(count: int, share: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The pictures that are learnt from, and those held out: evenly spaced, 16 to 500; none of fewer than 192."""
    few = min(max(round(count * share), MIN_HELD_OUT), MAX_HELD_OUT)
    if share == 0 or few > count * MAX_HELD_OUT_FRACTION:
        return np.arange(count), np.arange(0)
    held_out = np.arange(few) * count // few
    return np.delete(np.arange(count), held_out), held_out


def _row(row: int, classes: int) -> range:
    return range(8) if classes else range(8 * row, 8 * row + 8)


def train(options: TrainOptions, reporter: Reporter) -> dict[str, Any]:
    """Train to the end of the budget, or until a signal; returns paths, hash, counts and timings.

    Raises UsageError, DataError, CheckpointError, DeviceError, DivergedError, and InterruptedRun after
    saving when a signal came.
    """
    check_run_output(options)
    setup = make_plan(options, reporter)
    try:
        with ExitStack() as stack:
            return _train(setup, reporter, stack)
    finally:
        setup.world.stop()


def _train(setup: TrainPlan, reporter: Reporter, stack: ExitStack) -> dict[str, Any]:
    training = TrainingRun(setup, reporter)
    folder, world = training.folder, setup.world
    describe_plan(setup, training.learner, reporter)
    if setup.dataset.nbytes < _room(setup.device):
        setup.dataset.to(setup.device)
    if world.is_main:
        folder.path.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lock_directory(folder.path))
        check_run_output(setup.options)  # once more: another training may have ended here since
        folder.clear_halves()
        if setup.state is None and folder.exists():
            folder.clear_logs()
        folder.write_config(setup.settings())
    training.save()
    if world.is_main and setup.state is None:
        folder.best.unlink(missing_ok=True)
    with ExitStack() as inner:
        stop = inner.enter_context(stop_requests())
        watch = None
        if setup.options.evaluate_every is not None and world.is_main:
            watch = BestCheckpoint(setup, folder, setup.options.evaluate_every * 60, reporter)
        world.barrier()
        task = inner.enter_context(reporter.task("training", 1.0))
        if setup.options.tensorboard and world.is_main:
            training.writer = _tensorboard(folder, inner)
        _loop(training, stop, task, watch)
        training.save()
        if watch is not None and not stop:
            training.look(watch)
            watch.advise()
        # Together to the end: who leaves while another still writes looks like one that failed.
        world.barrier()
    if stop:
        raise stop.error(f"saved in {folder.path} after {training.images:,} pictures")
    return {
        "weights": str(folder.weights),
        "run": str(folder.path),
        "hash": weights_hash(read_header(folder.weights, kind="weights")) if world.is_main else None,
        "steps": training.steps,
        "images": training.images,
        "seconds": round(training.seconds, 2),
        "data_wait": round(training.waited / max(training.seconds, 1e-9), 4),
        "seed": setup.seed,
    }


def _loop(training: TrainingRun, stop: StopRequest, task: Task, watch: BestCheckpoint | None) -> None:
    setup = training.setup
    budget, every = setup.budget, setup.options.save_minutes * 60
    before = training.seconds
    began = line = saved = time.monotonic()
    images_then, told = training.images, False
    if setup.state is not None and budget.progress(training.images, before) >= 1:
        training.reporter.warn("the budget is spent: give a larger one to train on, such as --minutes or --images")
    while True:
        training.seconds = before + time.monotonic() - began
        looking = watch is not None and watch.due()
        wants = [training.seconds, float(stop.signal), float(time.monotonic() - saved >= every), float(looking)]
        training.seconds, signal, due, looking_now = setup.world.all_reduce_max(wants, setup.device)
        # Only what all processes agree on counts: a signal that comes just now is seen by all in the next round.
        stopping = int(signal)
        stop.signal = stopping or stop.signal
        progress = budget.progress(training.images, training.seconds)
        now = time.monotonic()
        if training.recent and progress >= 1:
            training.look_for_collapse()
        if training.recent and (now - line >= SECONDS_BETWEEN_METRICS or progress >= 1 or stopping):
            rate = max(0, training.images - images_then) / max(now - line, 1e-9)
            note = training.report(progress, rate)
            task.update(progress, note)
            if not told and not stopping and progress < 1:
                told = True
                left = budget.seconds_left(training.images, training.seconds, rate)
                at = time.strftime("%a %H:%M", time.localtime(time.time() + left))
                training.reporter.info(f"{rate:,.0f} pictures a second: expected to end in {duration(left)}, {at}")
            line, images_then = now, training.images
        if progress >= 1 or stopping:
            return
        if due:
            training.save()
            training.look_for_collapse()
            saved = time.monotonic()
        if looking_now:
            paused = time.monotonic()
            if watch is not None:
                training.look(watch)
            # Looking is no training: a budget of minutes does not pay for it, on no process.
            (spent,) = setup.world.all_reduce_max([time.monotonic() - paused], setup.device)
            began, line = began + spent, line + spent
        training.step(progress)


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.4)
    return 0


def _tensorboard(folder: RunDir, stack: ExitStack) -> Callable[[dict[str, Any]], None]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder.path / "tensorboard"))
    stack.callback(writer.close)

    def write(record: dict[str, Any]) -> None:
        for name, value in record.items():
            writer.add_scalar(name, value, record["images"])

    return write


def plan(options: TrainOptions, reporter: Reporter) -> dict[str, Any]:
    """What `train` would do, resolved, without decoding and without a step."""
    check_run_output(options)
    setup = make_plan(options, reporter, decode=False)
    setup.world.stop()
    return {"family": setup.config.family, "run": str(options.run), "device": str(setup.device), **setup.settings()}
