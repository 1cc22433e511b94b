"""One training run: its learner, its counters, and what a round of the training loop does with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imggen.data.dataset import Order, mirror
from imggen.engine.checkpoints import save_backend
from imggen.engine.device import retry_out_of_memory
from imggen.engine.distributed import launch_name
from imggen.engine.noise import mix_seed
from imggen.engine.training.best_checkpoint import BestCheckpoint
from imggen.engine.training.calibration import measure_temperature
from imggen.engine.training.inspection_kinds import inspection_of
from imggen.engine.training.plan import TrainPlan
from imggen.engine.training.saved_state import SavedState
from imggen.engine.training.timers import Clock
from imggen.errors import DeviceError, DivergedError, ImggenError, first_line
from imggen.io.atomic import atomic_write
from imggen.io.checkpoint import write_checkpoint
from imggen.io.image import encode
from imggen.io.pixels import to_float
from imggen.models import build_learner
from imggen.models.global_batch import part_of_batch, rand
from imggen.models.learner import Learner, NonFiniteError
from imggen.reporting import Reporter

PREFETCHED_STEPS = 2  # decoded ahead, where images are decoded on the fly
MAX_ROLLBACKS = 3
RESET_ROLLBACKS_AFTER_SAVES = 3  # saves without a rollback in between
MIN_IMAGES_TO_HALVE = 4  # in a micro-batch
# Errors during evaluation must not stop training.
EVALUATION_ERRORS = (ImggenError, RuntimeError, MemoryError, OSError)
MIN_HELD_OUT, MAX_HELD_OUT = 16, 500
MAX_HELD_OUT_FRACTION = 1 / 12


class Snapshot(NamedTuple):
    """The state of the learner, and the counters that belong to it."""

    tensors: dict[str, Tensor]
    document: dict[str, Any]
    steps: int
    images: int


class TrainingRun:
    """The state of one run, and its operations: step, save, evaluate, roll back.

    `seconds` of training are set by the loop; `data_wait` are those spent on loading batches.
    """

    def __init__(self, plan: TrainPlan, reporter: Reporter, clock: Clock = time.monotonic) -> None:
        self.plan, self.reporter, self.clock = plan, reporter, clock
        self.run_dir = plan.run_dir
        torch.manual_seed(mix_seed(plan.seed, 0))
        self.learner: Learner = build_learner(plan.config)
        self.learner.precision = plan.precision
        self.learner.to(plan.device)
        self.train_rows, held_out_rows = split_rows(len(plan.dataset), self.learner.held_out_fraction)
        if len(held_out_rows):
            self.learner.held_out = lambda: self._held_out_batches(held_out_rows)
        self.inspection = inspection_of(plan, self.learner, held_out_rows, reporter)
        self.calibration_rows = self.inspection.calibration_rows(self.train_rows)
        self.class_temperature: float | None = None
        self.last_preview = b""
        self.order = Order(len(self.train_rows), plan.seed)

        self.steps = self.images = 0
        self.seconds = self.data_wait = 0.0
        self.rollbacks = self.recent_rollbacks = self.saves_since_rollback = 0
        self.reported_images = 0
        self.recent_metrics: list[dict[str, Tensor]] = []
        self.inspection_metrics: dict[str, float] = {}
        self.write_scalars: Callable[[dict[str, Any]], None] = lambda record: None

        self.learner.set_dataset_size(len(plan.dataset))
        if plan.state is not None:
            self._resume(plan.state)
        elif plan.initial is not None:
            plan.initial.copy_into(self.learner, reporter)
        self.last_good = self._snapshot()

    def _resume(self, saved: SavedState) -> None:
        saved.load_into(self.learner)
        self.steps, self.images, self.rollbacks = saved.steps, saved.images, saved.rollbacks
        self.seconds, self.data_wait = saved.seconds, saved.data_wait
        self.reported_images = self.images
        if saved.data_key != self.plan.dataset.key:
            self.reporter.warn("the data has changed since the run was started: training continues with the new images")
        self.run_dir.truncate_metrics(self.images)
        self.reporter.info(f"resuming {self.run_dir.path} at {self.images:,} images")

    def _snapshot(self) -> Snapshot:
        tensors, document = self.learner.state()
        copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        return Snapshot(copies, document, self.steps, self.images)

    def step(self, progress: float) -> None:
        """Train on one batch. Non-finite numbers roll back; too little memory halves the micro-batch."""
        plan = self.plan
        # All randomness of a step follows from this seed: a resumed run needs no stored generator state. It is the same
        # in all processes, which sample for the whole batch.
        torch.manual_seed(mix_seed(plan.seed, 1, self.images, self.rollbacks))
        with part_of_batch(plan.processes.rank, plan.processes.size):
            start = self.clock()
            images, labels = self._load_batch(self.rows_of_step(self.images))
            if plan.dataset.on_the_fly:
                for step in range(1, PREFETCHED_STEPS + 1):
                    plan.dataset.prefetch(self.rows_of_step(self.images + step * plan.batch))
            if plan.mirror:
                images = mirror(images, rand=rand).contiguous(memory_format=torch.channels_last)
            self.data_wait += self.clock() - start
            try:
                metrics = retry_out_of_memory(
                    lambda: self.learner.step(images, labels, progress, self.images),
                    self._halve_micro_batch,
                    plan.device,
                )
            except NonFiniteError:
                self._roll_back()
                return
        self.steps += 1
        self.images += plan.batch
        self.recent_metrics.append(metrics)

    def rows_of_step(self, images: int) -> npt.NDArray[np.int64]:
        """This process's part of the batch after `images` images, as rows of the data set."""
        processes = self.plan.processes
        count = self.plan.batch // processes.size
        return self.train_rows[self.order.indices(images + processes.rank * count, count)]

    def _load_batch(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H, W) in [-1, 1] and labels (B,) of some rows of the data set, on the device."""
        levels, labels = self.plan.dataset.batch(rows)
        images = to_float(levels.to(self.plan.device))
        images = images.contiguous(memory_format=torch.channels_last)
        return images, labels.to(self.plan.device) if self.plan.config.classes else None

    def _held_out_batches(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor | None]]:
        size = self.learner.micro_batch or self.plan.batch
        for start in range(0, len(rows), size):
            yield self._load_batch(rows[start : start + size])

    def _halve_micro_batch(self, error: BaseException) -> None:
        processes = self.plan.processes.size
        current = self.learner.micro_batch or self.plan.batch // processes
        # With several processes this is an error: the others would wait forever for the gradients of the repeated step.
        if current < MIN_IMAGES_TO_HALVE or processes > 1:
            raise DeviceError("not enough memory to train", "use a smaller --size or --batch") from error
        self.learner.micro_batch = current // 2
        for optimizer in self.learner.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        self.reporter.warn(f"not enough memory: accumulating gradients over parts of {current // 2} images")

    def _roll_back(self) -> None:
        """Return to the last checkpoint, from where other random numbers are used. Raises DivergedError."""
        good = self.last_good
        self.rollbacks += 1
        self.recent_rollbacks += 1
        self.saves_since_rollback = 0
        if self.recent_rollbacks > MAX_ROLLBACKS:
            raise DivergedError(
                f"training diverged {self.recent_rollbacks} times; {self.run_dir.weights} is the last good checkpoint",
                "--resume with a lower --learning-rate, or with --precision fp32",
            )
        self.learner.load_state(good.tensors, good.document)
        self.reporter.warn(
            f"non-finite loss or gradient at {self.images:,} images: rolled back to {good.images:,}"
            f" ({self.recent_rollbacks} of {MAX_ROLLBACKS})"
        )
        self.steps, self.images = good.steps, good.images
        self.recent_metrics.clear()
        if self.plan.processes.is_main:
            self.run_dir.truncate_metrics(good.images)

    def save(self) -> None:
        """Write state, weights and preview, each file completely or not at all.

        The state is first: whenever the process is killed, --resume continues this run, and not one before it.
        """
        self.last_good = self._snapshot()
        self.saves_since_rollback += 1
        if self.saves_since_rollback >= RESET_ROLLBACKS_AFTER_SAVES:
            self.recent_rollbacks = 0
        if not self.plan.processes.is_main:
            return
        preview = encode(self.inspection.preview(), "png", {"steps": self.steps, "images": self.images})
        document = {
            "config": self.plan.config.to_json(),
            "settings": self.plan.fixed_settings(),
            "learner": self.last_good.document,
            "steps": self.steps,
            "images": self.images,
            "rollbacks": self.rollbacks,
            "budget": {"images": self.plan.budget.images, "seconds": self.plan.budget.seconds},
            "seconds": self.seconds,
            "data_wait": self.data_wait,
            "data_key": self.plan.dataset.key,
            "credits": self.plan.credits,
            "launch": launch_name(),
            "saved": time.time(),
        }
        write_checkpoint(self.run_dir.state, self.last_good.tensors, document, kind="state")
        self.last_preview = preview
        self.save_weights()
        self.run_dir.samples.mkdir(parents=True, exist_ok=True)
        atomic_write(self.run_dir.samples / f"{self.steps:06d}.png", preview)

    def save_weights(self) -> None:
        """Write the averaged model, with the last preview."""
        save_backend(
            self.run_dir.weights,
            self.learner.saved_model,
            self.plan.provenance(self.images, self.seconds),
            thumbnail=self.last_preview,
            class_temperature=self.class_temperature,
        )

    def evaluate(self, best: BestCheckpoint) -> None:
        """Measure the quality, as a line of its own in the metrics; an error is only a warning."""
        try:
            metrics = best.evaluate(self.learner.saved_model, self.plan.provenance(self.images, self.seconds))
        except EVALUATION_ERRORS as error:
            self.reporter.warn(f"the {self.inspection.quality} was not measured this time: {first_line(error)}")
            return
        record = {"steps": self.steps, "images": self.images, "seconds": round(self.seconds, 2), **metrics}
        self.run_dir.append_metrics(record)
        self.write_scalars({name: value for name, value in record.items() if not isinstance(value, str)})
        self.reporter.info("  ".join(f"{name} {value}" for name, value in record.items()))

    def calibrate(self) -> bool:
        """Measure the temperature of the class scores, which turns them into probabilities; returns whether it could.

        On held-out images, or on training images where none are held out; an error is only a warning.
        """
        if not self.plan.processes.is_main or not self.plan.config.classes:
            return False
        try:
            self.class_temperature = measure_temperature(
                self.learner.saved_model, self.plan.dataset, self.calibration_rows, self.reporter
            )
        except EVALUATION_ERRORS as error:
            self.reporter.warn(f"the class probabilities were not calibrated: {first_line(error)}")
        return self.class_temperature is not None

    def inspect(self) -> None:
        """Measure for the next line of metrics what warns of a training that fails; an error is only a warning."""
        if not self.plan.processes.is_main:
            return
        try:
            self.inspection_metrics = self.inspection.check(self.images)
        except EVALUATION_ERRORS as error:
            self.reporter.warn(f"{self.inspection.checked} was not measured this time: {first_line(error)}")

    def report(self, progress: float, seconds: float) -> tuple[float, str]:
        """Write a line of metrics: means since the last report, `seconds` ago; returns images per second and losses."""
        images_per_second = max(0, self.images - self.reported_images) / max(seconds, 1e-9)
        self.reported_images = self.images
        recent = self.recent_metrics
        names = dict.fromkeys(name for metrics in recent for name in metrics)
        means = {name: float(torch.stack([m[name].float() for m in recent if name in m]).mean()) for name in names}
        record = {
            "steps": self.steps,
            "images": self.images,
            "seconds": round(self.seconds, 2),
            "progress": round(progress, 6),
            "images_per_second": round(images_per_second, 1),
            **{name: round(value, 6) for name, value in means.items()},
            **self.inspection_metrics,
        }
        if progress >= 1 and self.inspection_metrics:
            measured = ", ".join(f"{name} {value:.4g}" for name, value in self.inspection_metrics.items())
            self.reporter.info(f"at the end of the training: {measured}")
        self.inspection_metrics = {}
        if self.plan.processes.is_main:
            self.run_dir.append_metrics(record)
            self.write_scalars(record)
        self.recent_metrics.clear()
        return images_per_second, " ".join(f"{name} {value:.3f}" for name, value in means.items())


def split_rows(count: int, held_out_fraction: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows to train on and evenly spaced held-out rows: 16 to 500 of them, but none of fewer than 192 images."""
    num_held_out = min(max(round(count * held_out_fraction), MIN_HELD_OUT), MAX_HELD_OUT)
    if held_out_fraction == 0 or num_held_out > count * MAX_HELD_OUT_FRACTION:
        return np.arange(count), np.arange(0)
    held_out = np.arange(num_held_out) * count // num_held_out
    return np.delete(np.arange(count), held_out), held_out
