"""Speed and precision of every family on a GPU in one table, and models trained there: one command.

    python tests/benchmarks/gpu.py --data sprites.zip [--minutes 9] [--output gpu]
    python tests/benchmarks/gpu.py --data FOLDER --device cpu --tiny

On a GPU the script first runs itself with small networks at 16 pixels, for at most a minute; if a row of that fails, it
ends. Then there are five parts. Each row has a time limit, an error in a row is written into it, and the table is
written again after every row:

1. machine: rates of matrix products in bf16, TF32 and fp32, and of a copy within the memory.
2. training: images per second of `tiny` and `base` of each family as `imggen train` runs them, beside the same learner
   with PyTorch's defaults (fp32, convolutions in TF32, no channels_last), and beside fp32 without TF32; FLOPs as a
   fraction of the rate of bf16 matrix products.
3. agreement: losses of the same step, and images of the same seeds, in bf16 and in fp32.
4. sampling: images per second as `imggen sample` generates them, beside the network with PyTorch's defaults; whether
   CUDA graphs give the same images as the same operations without a graph.
5. weights: the rest of the time trains one model per family at once, each by `imggen train` in its own process, with
   small batches. All weights are copied to OUTPUT before anything else is done with them; then each model generates 64
   samples, and 2,000 that are compared with the data.

OUTPUT/gpu.md is the table. OUTPUT/gpu.json has the same rows, and details: tracebacks, the slowest kernels, each loss.

A time limit ends a row between two Python operations: a single long call into PyTorch, such as a backward pass, is
finished first. Results so far: tests/benchmarks/gpu.md.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from imggen.engine import evaluation
from imggen.engine.checkpoints import load_backend, save_backend
from imggen.engine.device import configure_device, find_device, find_precision
from imggen.engine.noise import SampleSpec, noise_for
from imggen.engine.options import EvaluateOptions, TrainOptions
from imggen.engine.render import default_batch_size, sample_batches
from imggen.engine.training.plan import TrainPlan, make_plan
from imggen.engine.training.training_run import TrainingRun
from imggen.io.image import encode, grid
from imggen.io.pixels import to_levels, to_uint8
from imggen.models import FAMILIES, build_backend
from imggen.models.base import Backend
from imggen.models.transformer.backend import TransformerBackend
from imggen.models.transformer.cuda_graphs import Work, record_on_gpu
from imggen.reporting import Silent

ROOT = Path(__file__).resolve().parents[2]
PRESETS = ("tiny", "base")
# The networks that a family trains change during a run: the progress at which the steps of each stage are measured.
STAGES = {
    "gan": {"both networks": 0.3},
    "vae": {"core": 0.3, "partial encoder": 0.9},
    "transformer": {"tokenizer": 0.1, "prior": 0.5},
}
STAGES_AS_TRAINED_ONLY = ("partial encoder",)  # not measured with PyTorch's defaults
NO_TF32_STAGES = {"gan": "both networks", "vae": "core", "transformer": "prior"}
NOT_LOSSES = ("skipped", "codes", "augment")  # metrics of a step

# How the time is divided, if models are trained too
MAX_FRACTION_FOR_MEASURING = 0.55
SECONDS_AROUND_TRAINING = 45.0  # to start, save and sample
SECONDS_PER_COMPARISON = 15.0
MIN_SECONDS_OF_TRAINING = 20.0
MINUTES_OF_SELF_CHECK = 1.0

NUM_COMPARED = 2000
MAX_FLOAT32_BYTES = 16 << 20  # larger weights are kept in float16
BATCH_SIZES_OF_GRAPHS = ((1, False), (8, False), (64, False), (8, True))  # and whether in bf16
TURNS_OF_GRAPHS = 5
# Of --tiny
TINY_SIZE, TINY_BATCH, TINY_IMAGES = 16, 8, 16
TINY_OVERRIDES: dict[str, dict[str, Any]] = {
    "gan": {"max_width": 16, "penalty_every": 1},
    "vae": {"width": 16, "max_width": 16, "depth": 0.1},
    "transformer": {"width": 32, "depth": 2, "heads": 2, "tokenizer_width": 8},
}

OURS, DEFAULTS, NO_TF32 = "imggen", "PyTorch's defaults", "fp32, no TF32"
COLUMNS = ("part", "model", "measure", OURS, DEFAULTS, NO_TF32, "ratio", "note")


class SkippedError(Exception):
    """A row is left out: there is no time left, no GPU, or the row before it failed."""


@dataclass
class Table:
    """Rows by part, model and measure; both files are written after each change, so that nothing is lost."""

    folder: Path
    rows: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    failures: int = 0

    def put(self, part: str, model: str, measure: str, **cells: Any) -> None:
        """Add cells to a row: a `note` is appended to the row's note, `details` go to the JSON file only."""
        details = cells.pop("details", None)
        if details is not None:
            self.details.setdefault(" / ".join((part, model, measure)), []).append(details)
        row = self.rows.setdefault((part, model, measure), {})
        note = cells.pop("note", "")
        row.update(cells, note="; ".join(filter(None, [row.get("note", ""), note])))
        if isinstance(row.get(OURS), float) and row.get(DEFAULTS):
            row["ratio"] = row[OURS] / row[DEFAULTS]
        self.write()
        values = ", ".join(f"{name} {_short(value)}" for name, value in cells.items())
        print(f"[{time.strftime('%H:%M:%S')}] {part} / {model} / {measure}: {values} {note}", flush=True)

    def write(self) -> None:
        """Write gpu.md and gpu.json."""
        lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
        for key, row in self.rows.items():
            cells = [*key, *(_short(row.get(name, "")) for name in COLUMNS[3:])]
            lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        rows = [{**dict(zip(COLUMNS, key, strict=False)), **row} for key, row in self.rows.items()]
        document = {"rows": rows, "details": self.details, "failures": self.failures}
        (self.folder / "gpu.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after `seconds`; no limit on systems without SIGALRM."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"stopped after {seconds:.0f} s")

    start = time.monotonic()
    previous_handler = signal.signal(signal.SIGALRM, stop)
    previous_delay, _ = signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous_handler)
        if previous_delay:  # a timer of the caller's, such as that of pytest-timeout
            signal.setitimer(signal.ITIMER_REAL, max(0.1, previous_delay - (time.monotonic() - start)))


class ContiguousTrainingRun(TrainingRun):
    """The same training without channels_last memory."""

    def __init__(self, plan: TrainPlan) -> None:
        super().__init__(plan, Silent())
        for network in self.learner.networks.values():
            network.to(memory_format=torch.contiguous_format)

    def _load_batch(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        images, labels = super()._load_batch(rows)
        return images.contiguous(), labels


@dataclass
class Trained:
    """A run after its measured steps, and its averaged backend as a checkpoint would hold it."""

    training: TrainingRun
    backend: Backend


@dataclass
class TrainingProcess:
    """`imggen train` in a process of its own, and the files of its output."""

    name: str
    data: str
    run_dir: Path
    process: subprocess.Popen[bytes]
    stderr: Path

    @property
    def weights(self) -> Path:
        """The checkpoint that it saves."""
        return self.run_dir / "weights.safetensors"


class Benchmark:
    """The options, the clock, the table, and the models that one part leaves to the next."""

    def __init__(self, options: argparse.Namespace, temporary: Path) -> None:
        self.start = time.monotonic()
        self.options = options
        self.temporary = temporary
        self.device = find_device(options.device)  # with an index: "cuda" alone is refused by set_device
        self.on_gpu = self.device.type == "cuda"
        self.tiny = bool(options.tiny)
        self.size = TINY_SIZE if self.tiny else 64
        self.seconds = 0.0 if self.tiny else 1.0  # of one timing, at least
        self.table = Table(options.output)
        self.bf16_tflops = 0.0
        self.plans: dict[tuple[str, str], TrainPlan] = {}
        self.trained: dict[tuple[str, str], Trained] = {}

    def seconds_left(self) -> float:
        """Seconds until the end of --minutes."""
        return float(self.options.minutes * 60 - (time.monotonic() - self.start))

    def attempt(
        self,
        row: tuple[str, str, str],
        limit: float,
        work: Callable[[], dict[str, Any]],
        *,
        may_use_all_time: bool = False,
    ) -> None:
        """Put the cells that `work` returns, or its error, into a row (part, model, measure).

        Without `may_use_all_time`, the time that training needs is kept free.
        """
        trains = "weights" in self.options.parts and not may_use_all_time
        left = self.seconds_left()
        if trains:
            left -= (1 - MAX_FRACTION_FOR_MEASURING) * self.options.minutes * 60
        start = time.monotonic()
        try:
            if left < (1 if may_use_all_time else 5):
                raise SkippedError("no time left")
            with time_limit(min(limit, left)):
                cells = work()
            cells.setdefault("details", {})["row_seconds"] = round(time.monotonic() - start, 1)
            self.table.put(*row, **cells)
        except SkippedError as error:
            self.table.put(*row, note=f"skipped: {error}")
        except Exception as error:
            self.table.failures += 1
            text = traceback.format_exc()
            print(text, flush=True)
            line = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            self.table.put(*row, note=f"failed: {line[:200]}", details={"error": text})
        finally:
            if self.on_gpu:
                gc.collect()
                torch.cuda.empty_cache()

    def wait(self) -> None:
        """Wait until the GPU has finished."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def rate(self, work: Callable[[], int], *, seconds: float | None = None, warm_up: int = 1) -> float:
        """Images per second of `work`, which returns the number of images that it handled."""
        for _ in range(warm_up):
            work()
        self.wait()
        images, start = 0, time.perf_counter()
        while True:
            images += work()
            self.wait()
            elapsed = time.perf_counter() - start
            if elapsed >= (self.seconds if seconds is None else seconds):
                return images / elapsed

    def autocast(self, bf16: bool) -> Any:
        """Mixed precision if `bf16`."""
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()

    # 1. Machine

    def measure_machine(self) -> dict[str, Any]:
        """Name, TFLOP/s of matrix products, and GB/s of a copy."""
        name = torch.cuda.get_device_name() if self.on_gpu else platform.processor() or platform.machine()
        large = self.on_gpu and not self.tiny
        side = 8192 if large else 64
        tflops = {}
        for label, dtype, tf32 in (
            ("bf16", torch.bfloat16, True),
            ("TF32", torch.float32, True),
            ("fp32", torch.float32, False),
        ):
            set_arithmetic(tf32=tf32)
            a, b = (torch.randn(side, side, device=self.device, dtype=dtype) for _ in range(2))

            def multiply(a: Tensor = a, b: Tensor = b) -> int:
                for _ in range(10):
                    a @ b
                return 10

            tflops[label] = self.rate(multiply, seconds=self.seconds / 2) * 2 * side**3 / 1e12
        self.bf16_tflops = tflops["bf16"]

        source = torch.empty((1 << 30) if large else (1 << 20), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)

        def copy_block() -> int:
            for _ in range(10):
                target.copy_(source)
            return 10

        copied = 2 * self.rate(copy_block, seconds=self.seconds / 2) * source.numel() / 1e9  # read and written
        rates = ", ".join(f"{label} {_short(value)} TFLOP/s" for label, value in tflops.items())
        software = f"torch {torch.__version__}, Python {platform.python_version()}"
        return {
            "note": f"{name}; {software}; {rates}; copy {copied:,.0f} GB/s",
            "details": {"tflops": tflops, "gb_per_second": copied, "cores": os.cpu_count()},
        }

    # 2. Training

    def plan(self, family: str, preset: str) -> TrainPlan:
        """The plan of `imggen train`, with the data on the device."""
        if (family, preset) not in self.plans:
            options = TrainOptions(
                family=family,
                data=self.options.data[0],
                preset=preset,
                size=self.size,
                batch=TINY_BATCH if self.tiny else None,
                device=str(self.device),
                seed=0,
                minutes=10,
                output=self.temporary / f"{family}-{preset}",
                overrides=TINY_OVERRIDES[family] if self.tiny else {},
            )
            plan = make_plan(options, Silent())
            if self.on_gpu:
                plan.dataset.to(self.device)
            self.plans[family, preset] = plan
        return self.plans[family, preset]

    def begin(self, family: str, preset: str, precision: str = "auto", *, channels_last: bool = True) -> TrainingRun:
        """A new run, with the global settings of `imggen train`."""
        plan = self.plan(family, preset)
        dtype = find_precision(precision, self.device, training=True)
        plan = replace(plan, machine=replace(plan.machine, precision=dtype))
        configure_device(self.device)
        return TrainingRun(plan, Silent()) if channels_last else ContiguousTrainingRun(plan)

    def train_steps(self, training: TrainingRun, progress: float) -> int:
        """As many steps as contain one gradient penalty; returns the number of images."""
        images_before = training.images
        for _ in range(self.steps_per_round(training)):
            training.step(progress)
        training.recent_metrics = training.recent_metrics[-1:]
        return training.images - images_before

    def steps_per_round(self, training: TrainingRun) -> int:
        """Steps between two looks at the clock: a GAN's gradient penalty is not computed in every step."""
        return int(getattr(training.plan.config, "penalty_every", 1 if self.tiny else 2))

    def measure_training(self, training: TrainingRun, progress: float) -> dict[str, Any]:
        """Images per second, seconds of the first steps, the micro-batch if memory ran out, and GiB of memory."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        self.train_steps(training, progress)
        self.wait()
        result: dict[str, Any] = {"first_seconds": time.perf_counter() - start}
        result["rate"] = self.rate(lambda: self.train_steps(training, progress))
        result["micro_batch"] = training.learner.micro_batch
        if self.on_gpu:
            result["gib"] = torch.cuda.max_memory_allocated() / 2**30
        return result

    def measure_work(self, training: TrainingRun, progress: float, rate: float) -> dict[str, Any]:
        """GFLOP per image, that as a fraction of the bf16 rate, and the kernels of a step."""
        with FlopCounter() as counter:
            images = self.train_steps(training, progress)
        gflop = counter.total / images / 1e9
        fraction = gflop * rate / 1e3 / self.bf16_tflops if self.bf16_tflops else math.nan
        kernels = self.profile_step(training, progress, training.plan.batch / rate) if self.on_gpu else {}
        return {"gflop": gflop, "bf16_fraction": fraction, **kernels}

    def profile_step(self, training: TrainingRun, progress: float, seconds: float) -> dict[str, Any]:
        """The fraction of a step's `seconds` in which kernels run, and the slowest kernels; without a GAN's penalty."""
        try:
            training.step(progress)
            self.wait()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
                training.step(progress)
                self.wait()
            training.recent_metrics = training.recent_metrics[-1:]
            events = [event for event in profiler.key_averages() if event.self_device_time_total > 0]
            total = sum(event.self_device_time_total for event in events) / 1e6
            slowest = sorted(events, key=lambda event: -event.self_device_time_total)[:12]
            names = [[event.key[:90], event.count, round(event.self_device_time_total / 1e3, 2)] for event in slowest]
            return {"busy": total / seconds, "kernels": sum(event.count for event in events), "slowest_ms": names}
        except (RuntimeError, AttributeError) as error:
            return {"profiler": str(error)}

    def train_as_imggen(self, family: str, preset: str, stage: str) -> dict[str, Any]:
        """Train as `imggen train` does; the run is kept for the parts that follow."""
        progress = STAGES[family][stage]
        trained = self.trained.get((family, preset))
        if trained is None:
            training = self.begin(family, preset)
        else:
            training = trained.training
            configure_device(self.device)
        result = self.measure_training(training, progress)
        result.update(self.measure_work(training, progress, result["rate"]))
        self.trained[family, preset] = Trained(training, self.copy_backend(training))

        notes = [
            "bf16" if training.learner.precision == torch.bfloat16 else "fp32",
            f"batch {training.plan.batch}",
            f"{result['gflop']:.3g} GFLOP per image",
            f"{result['bf16_fraction']:.1%} of the bf16 rate",
        ]
        if "busy" in result:
            notes.append(f"GPU busy {result['busy']:.0%}")
        if "gib" in result:
            notes.append(f"{result['gib']:.1f} GiB")
        if result["micro_batch"]:
            notes.append(f"micro-batch {result['micro_batch']}")
        notes.append(f"first {self.steps_per_round(training)} steps {result['first_seconds']:.1f} s")
        return {OURS: result["rate"], "note": ", ".join(notes), "details": result}

    def train_as_pytorch(self, family: str, preset: str, stage: str, *, tf32: bool) -> dict[str, Any]:
        """The same learner in fp32 without channels_last; convolutions in TF32, PyTorch's default, if `tf32`."""
        training = self.begin(family, preset, "fp32", channels_last=False)
        set_arithmetic(tf32=False, convolutions_tf32=tf32)
        result = self.measure_training(training, STAGES[family][stage])
        cells: dict[str, Any] = {DEFAULTS if tf32 else NO_TF32: result["rate"], "details": result}
        if result["micro_batch"]:
            cells["note"] = f"micro-batch {result['micro_batch']} in fp32"
        return cells

    def copy_backend(self, training: TrainingRun) -> Backend:
        """The averaged backend as a checkpoint would give it: a copy in contiguous memory."""
        source = training.learner.backend
        backend = build_backend(source.config)
        backend.load_state_dict({name: tensor.cpu().contiguous() for name, tensor in source.state_dict().items()})
        return backend.to(self.device).eval().requires_grad_(False)

    def trained_model(self, family: str, preset: str) -> Trained:
        """The model of the training part. Raises SkippedError."""
        trained = self.trained.get((family, preset))
        if trained is None:
            raise SkippedError("it was not trained")
        return trained

    # 3. Agreement

    def compare_losses(self, family: str, preset: str) -> dict[str, Any]:
        """One step in fp32 and in bf16, from the same weights, on the same images, with the same random numbers."""
        trained = self.trained_model(family, preset).training
        tensors, document = trained.learner.state()
        notes, details = [], {}
        for stage, progress in STAGES[family].items():
            if stage == "tokenizer":
                continue  # it is frozen by now
            losses: dict[str, dict[str, float]] = {}
            for precision in ("fp32", "bf16"):
                training = self.begin(family, preset, precision)
                set_arithmetic(tf32=False)
                training.learner.load_state(tensors, document)
                training.learner.micro_batch = trained.learner.micro_batch
                training.images = trained.images
                training.step(progress)
                if not training.recent_metrics:
                    raise ArithmeticError(f"a loss or gradient was not finite in {precision}")
                losses[precision] = {name: float(value) for name, value in training.recent_metrics[-1].items()}
            names = [name for name in losses["fp32"] if name not in NOT_LOSSES]
            notes += [f"{name} {losses['fp32'][name]:.5g} / {losses['bf16'][name]:.5g}" for name in names]
            details[stage] = losses
        return {"note": "fp32 / bf16: " + ", ".join(notes), "details": details}

    def compare_images(self, family: str, preset: str) -> dict[str, Any]:
        """The same seeds as `imggen sample` generates them, and in bf16, relative to fp32 without TF32."""
        backend = self.trained_model(family, preset).backend
        noise, labels = self.noise(backend, TINY_BATCH if self.tiny else 64)
        set_arithmetic(tf32=False)
        exact, exact_tokens = generate_with_tokens(backend, noise, labels)
        notes, details = [], {}
        for name in ("as sampled", "bf16"):
            configure_device(self.device, full_precision=backend.needs_full_precision)
            with self.autocast(name == "bf16"):
                network = backend if name == "bf16" else backend.for_inference()
                levels, tokens = generate_with_tokens(network, noise, labels)
            difference = (exact - levels).abs()
            equal_images = float((difference.flatten(1).amax(1) == 0).float().mean())
            result = {"mean": float(difference.mean()), "max": float(difference.max()), "equal_images": equal_images}
            note = f"{name}: mean {result['mean']:.3g}, max {result['max']:.0f}, equal images {equal_images:.0%}"
            if exact_tokens is not None and tokens is not None:
                equal = (exact_tokens == tokens).all(-1)
                result["equal_tokens"] = float(equal.float().mean())
                result["all_tokens_equal"] = float(equal.all(1).float().mean())
                note += f", equal tokens {result['equal_tokens']:.2%}"
                note += f", images with all tokens equal {result['all_tokens_equal']:.0%}"
            details[name] = result
            notes.append(note)
        return {"note": "difference from fp32 in levels of 255; " + "; ".join(notes), "details": details}

    def noise(self, backend: Backend, count: int, first_seed: int = 0) -> tuple[Tensor, Tensor | None]:
        """Noise and labels of `count` seeds, on the device."""
        noise, labels = noise_for([SampleSpec(first_seed + row) for row in range(count)], backend)
        return noise.to(self.device), None if labels is None else labels.to(self.device)

    # 4. Sampling

    def measure_networks(self, family: str, preset: str, batch: int | None) -> dict[str, Any]:
        """The networks alone: noise is on the device, and images stay there."""
        backend = self.trained_model(family, preset).backend
        batch = batch or (TINY_BATCH if self.tiny else default_batch_size(backend))
        noise, labels = self.noise(backend, batch)

        def rate_of(network: Backend, *, bf16: bool = False) -> float:
            def work() -> int:
                for _ in range(2):
                    with torch.inference_mode(), self.autocast(bf16):
                        network.generate(noise, labels)
                return 2 * batch

            return self.rate(work, seconds=self.seconds / 2, warm_up=1 if self.tiny else 2)

        configure_device(self.device, full_precision=backend.needs_full_precision)
        rates = {OURS: rate_of(backend.for_inference())}
        others = {}
        if batch > 1:
            others["bf16"] = rate_of(backend.for_inference(), bf16=True)
        if batch > 1 and family != "transformer":
            channels_last = copy.deepcopy(backend).to(memory_format=torch.channels_last)
            others["channels_last"] = rate_of(channels_last.for_inference())
        set_arithmetic(tf32=False, convolutions_tf32=True)
        rates[DEFAULTS] = rate_of(backend)
        note = ", ".join(f"{name} {_short(value)}" for name, value in others.items())
        return {**rates, "note": f"batch {batch}; {note}" if note else "", "details": {**rates, **others}}

    def measure_seeds_to_bytes(self, family: str, preset: str) -> dict[str, Any]:
        """From seeds to bytes in the machine's memory, beside `randn` on the device, the network, and a copy."""
        backend = self.trained_model(family, preset).backend
        batch = TINY_BATCH if self.tiny else default_batch_size(backend)
        configure_device(self.device, full_precision=backend.needs_full_precision)
        fast = backend.for_inference()

        def sample(num_batches: int = 4) -> int:
            specs = map(SampleSpec, range(num_batches * batch))
            return sum(sample_batches(fast, specs, lambda part, images: len(images), batch=batch))

        sample(1)
        result = {"imggen": self.rate(sample, seconds=self.seconds / 2, warm_up=0)}
        start = time.perf_counter()
        noise_for([SampleSpec(seed) for seed in range(batch)], backend)
        result["noise"] = batch / (time.perf_counter() - start)
        set_arithmetic(tf32=False, convolutions_tf32=True)
        labels = torch.zeros(batch, dtype=torch.int64, device=self.device) if backend.classes else None

        def eager() -> int:
            with torch.inference_mode():
                to_uint8(backend.generate(torch.randn(batch, *backend.noise_shape, device=self.device), labels))
            return batch

        result["eager"] = self.rate(eager, seconds=self.seconds / 2)
        return {
            OURS: result["imggen"],
            DEFAULTS: result["eager"],
            "note": f"batch {batch}; noise of seeds alone {_short(result['noise'])} images/s on one core",
            "details": result,
        }

    def compare_graphs(self, preset: str) -> dict[str, Any]:
        """Whether CUDA graphs are used, and generate the same as the same operations without a graph."""
        if not self.on_gpu:
            raise SkippedError("there is no GPU")
        backend = self.trained_model("transformer", preset).backend
        assert isinstance(backend, TransformerBackend)
        notes, details = [], {}
        for batch, bf16 in BATCH_SIZES_OF_GRAPHS:
            name = f"batch {batch}{' bf16' if bf16 else ''}"
            result = self.compare_graphs_of_batch(backend, batch, bf16=bf16)
            details[name] = result
            speed = f"{1000 * result['graph']:.1f} ms, without {1000 * result['plain']:.1f} ms"
            notes.append(f"{name}: {result['equal']} of {TURNS_OF_GRAPHS} equal, {result['replays']} replays, {speed}")
            if result["errors"]:
                notes.append(f"not recorded: {result['errors'][0].splitlines()[0][:80]}")
        good = all(result["equal"] == result["replays"] == TURNS_OF_GRAPHS for result in details.values())
        return {OURS: "equal" if good else "NOT EQUAL", "note": "; ".join(notes), "details": details}

    def compare_graphs_of_batch(self, backend: TransformerBackend, batch: int, *, bf16: bool) -> dict[str, Any]:
        """Number of turns with equal images, number of replays, errors, and seconds of the last turn of each way."""
        configure_device(self.device, full_precision=True)
        fast = backend.for_inference()
        cache = fast.graph_cache
        assert cache is not None
        replays: list[int] = []
        errors: list[str] = []

        def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
            try:
                replay = record_on_gpu(work, inputs)
            except RuntimeError as error:
                errors.append(str(error))
                raise

            def counted(*inputs: Tensor) -> Tensor:
                replays.append(1)
                return replay(*inputs)

            return counted

        cache.record = record
        equal, seconds = 0, {"graph": 0.0, "plain": 0.0}
        for turn in range(TURNS_OF_GRAPHS):
            noise, labels = self.noise(backend, batch, first_seed=100 * turn)
            images = {}
            for way in seconds:
                fast.graph_cache = cache if way == "graph" else None
                self.wait()
                start = time.perf_counter()
                with torch.inference_mode(), self.autocast(bf16):
                    images[way] = fast.generate(noise, labels)
                self.wait()
                seconds[way] = time.perf_counter() - start
            equal += torch.equal(images["graph"], images["plain"])
        return {"equal": equal, "replays": len(replays), "errors": errors, **seconds}

    # 5. Weights

    def start_training(self, family: str, data: str, seconds: float) -> TrainingProcess:
        """Start `imggen train` for `seconds` of training in a process of its own."""
        name = f"{family}-{Path(data).stem}"
        run_dir = self.temporary / f"run-{name}"
        words = [sys.executable, "-m", "imggen", "train", family, "--data", data, "--preset", self.options.preset]
        words += ["--size", str(self.size), "--device", str(self.device), "--seed", "0", "--json", "-o", str(run_dir)]
        if self.tiny:
            words += ["--images", str(TINY_IMAGES), "--batch", str(TINY_BATCH)]
            for option, value in TINY_OVERRIDES[family].items():
                words += [f"--{option.replace('_', '-')}", str(value)]
        else:
            words += ["--minutes", f"{seconds / 60:.3f}", "--batch", str(self.options.batch), "--save-minutes", "60"]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        stderr = self.temporary / f"{name}.err"
        with (self.temporary / f"{name}.out").open("wb") as out, stderr.open("wb") as err:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
            )
        return TrainingProcess(name, data, run_dir, process, stderr)

    def finish_training(self, training: TrainingProcess) -> dict[str, Any]:
        """Wait for a process, and copy its weights and metrics to OUTPUT; large weights in float16."""
        try:
            code = training.process.wait(max(1.0, self.seconds_left() - SECONDS_PER_COMPARISON))
        except subprocess.TimeoutExpired:
            training.process.terminate()  # it saves before it ends
            code = training.process.wait(30)
        log = training.stderr.read_text(encoding="utf-8", errors="replace")
        if not training.weights.exists():
            last_line = (log.strip().splitlines() or ["no weights were saved"])[-1]
            raise RuntimeError(f"{last_line} (exit code {code})")
        dtype = torch.float16 if training.weights.stat().st_size > MAX_FLOAT32_BYTES else torch.float32
        target = self.options.output / f"{training.name}.safetensors"
        loaded = load_backend(training.weights, device="cpu")
        provenance = loaded.provenance
        save_backend(target, loaded.backend, provenance, dtype=dtype)
        lines = (training.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        (self.options.output / f"{training.name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        images, seconds = provenance["images"], provenance["seconds"]
        mebibytes = target.stat().st_size / 2**20
        note = f"{images:,} images in {seconds:.0f} s beside the other trainings, {mebibytes:.1f} MiB"
        details = {"code": code, "provenance": provenance, "log": log[-3000:], "last": lines[-1:]}
        return {OURS: images / max(seconds, 1e-9), "note": note, "details": details}

    def write_samples(self, training: TrainingProcess) -> dict[str, Any]:
        """A grid of 64 samples, each row of one class."""
        loaded = load_backend(training.weights, device=str(self.device))
        configure_device(self.device, full_precision=loaded.backend.needs_full_precision)
        classes = len(loaded.backend.classes)
        specs = [SampleSpec(seed, (seed // 8) % classes if classes else None) for seed in range(64)]
        images = np.concatenate(list(sample_batches(loaded.backend.for_inference(), specs)))
        path = self.options.output / f"{training.name}.png"
        path.write_bytes(encode(grid(images, 8), "png", {"model": training.name}))
        return {"note": path.name}

    def evaluate(self, training: TrainingProcess) -> dict[str, Any]:
        """The metrics of `imggen evaluate` for 2,000 samples."""
        if self.tiny:
            raise SkippedError("the networks of --tiny are too small for that")
        options = EvaluateOptions(
            model=str(training.weights), data=training.data, count=NUM_COMPARED, device=str(self.device)
        )
        report = evaluation.run(options, Silent())
        metrics = [f"{name} {metric['value']:.4g}" for name, metric in report["metrics"].items()]
        return {"note": ", ".join(metrics), "details": {key: report[key] for key in ("metrics", "floor", "seconds")}}


def set_arithmetic(*, tf32: bool, convolutions_tf32: bool | None = None) -> None:
    """TF32 as given, for convolutions as for matrix products by default; no search for the fastest convolution.

    PyTorch's defaults are `tf32=False, convolutions_tf32=True`.
    """
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = tf32 if convolutions_tf32 is None else convolutions_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the FLOPs of the operations in the block by PyTorch's formulas.

    FlopCounterMode also assigns them to modules, which fails in a gradient penalty. Its formula for a convolution's
    gradients ignores the groups in the gradient of the weights.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and add its FLOPs."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        operation = func._overloadpacket
        if operation == torch.ops.aten.convolution_backward:
            self.total += convolution_backward_flops(*args)
        elif operation in flop_registry:
            self.total += flop_registry[operation](*args, **kwargs, out_val=result)
        return result


def convolution_backward_flops(gradient: Tensor, image: Tensor, weight: Tensor, *settings: Any) -> int:
    """FLOPs of a convolution's gradients, given the arguments of aten.convolution_backward.

    The gradients of the image and of the weights each cost as much as the forward pass.
    """
    transposed, wanted = settings[4], settings[7]
    positions = math.prod((image if transposed else gradient).shape[2:])
    return 2 * len(image) * positions * weight.numel() * (bool(wanted[0]) + bool(wanted[1]))


@torch.inference_mode()
def generate_with_tokens(backend: Backend, noise: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Levels 0 to 255 (B, C, H, W), float32, and the tokens (B, side², d) if the backend is a transformer."""
    tokens: list[Tensor] = []
    if isinstance(backend, TransformerBackend):
        # A copy made by `for_inference` is used as it is: it belongs to the caller.
        backend = copy.deepcopy(backend) if backend.graph_cache is None else backend
        backend.graph_cache = None
        decode = backend._decode

        def decode_and_keep(values: Tensor) -> Tensor:
            tokens.append(values)
            return decode(values)

        backend._decode = decode_and_keep  # type: ignore[method-assign]
    levels = to_levels(backend.generate(noise, labels)).float()
    return levels, torch.cat(tokens)[: len(noise)] if tokens else None


def measure(benchmark: Benchmark) -> None:
    """The first four parts."""
    benchmark.attempt(("machine", "", "matrix products, copy"), 30, benchmark.measure_machine)
    models = [(family, preset) for preset in benchmark.options.presets for family in benchmark.options.families]
    # R3GAN last: its first gradient penalty takes more than a minute, and no time limit interrupts it.
    models.sort(key=lambda model: model == ("gan", "base"))
    for family, preset in models:
        measure_model(benchmark, family, preset)
    for family, preset in models:
        stage = NO_TF32_STAGES[family]
        work = partial(benchmark.train_as_pytorch, family, preset, stage, tf32=False)
        benchmark.attempt(("training", f"{family} {preset}", f"{stage}, images/s"), 15, work)


def measure_model(benchmark: Benchmark, family: str, preset: str) -> None:
    """Training, agreement and sampling of one preset; the run is dropped before PyTorch's defaults are measured."""
    name = f"{family} {preset}"

    def attempt(part: str, measure: str, limit: float, method: Callable[..., dict[str, Any]], *given: Any) -> None:
        benchmark.attempt((part, name, measure), limit, partial(method, *given))

    for stage in STAGES[family]:
        attempt("training", f"{stage}, images/s", 150, benchmark.train_as_imggen, family, preset, stage)
    if family == "transformer":
        attempt("sampling", "CUDA graphs equal to no graphs", 20, benchmark.compare_graphs, preset)
    attempt("agreement", "losses of a step", 25, benchmark.compare_losses, family, preset)
    attempt("agreement", "images of the same seeds", 20, benchmark.compare_images, family, preset)
    attempt("sampling", "networks, images/s", 30, benchmark.measure_networks, family, preset, None)
    attempt("sampling", "one image at a time, images/s", 15, benchmark.measure_networks, family, preset, 1)
    attempt("sampling", "seeds to bytes, images/s", 25, benchmark.measure_seeds_to_bytes, family, preset)
    benchmark.trained.pop((family, preset), None)
    for stage in STAGES[family]:
        if stage not in STAGES_AS_TRAINED_ONLY:
            method = partial(benchmark.train_as_pytorch, tf32=True)
            attempt("training", f"{stage}, images/s", 25, method, family, preset, stage)


def train_and_evaluate(benchmark: Benchmark) -> None:
    """The last part: all trainings at once in the time that is left; then the weights, samples and metrics of each."""
    options = benchmark.options
    jobs = [(family, data) for data in options.data for family in options.families]
    seconds = benchmark.seconds_left() - SECONDS_AROUND_TRAINING - SECONDS_PER_COMPARISON * len(jobs)
    benchmark.plans.clear()
    running: dict[tuple[str, str], TrainingProcess] = {}

    def apply(method: Callable[[TrainingProcess], dict[str, Any]], job: tuple[str, str]) -> dict[str, Any]:
        if job not in running:
            raise SkippedError("no time left")
        return method(running[job])

    try:
        if benchmark.tiny or seconds > MIN_SECONDS_OF_TRAINING:
            for job in jobs:
                running[job] = benchmark.start_training(*job, seconds)
        for measure, method in (
            ("training, images/s", benchmark.finish_training),
            ("samples", benchmark.write_samples),
            ("comparison with the data", benchmark.evaluate),
        ):
            for job in jobs:
                row = ("weights", f"{job[0]} {options.preset}", f"{Path(job[1]).stem}, {measure}")
                benchmark.attempt(row, math.inf, partial(apply, method, job), may_use_all_time=True)
    finally:
        for training in running.values():
            training.process.kill()
            training.process.wait()


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """The options, with absolute paths: trainings run in another folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", nargs="+", required=True, help="as for `imggen train`; speed is measured with the first"
    )
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--output", type=Path, default=Path("gpu"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS), help="to measure")
    parser.add_argument("--preset", choices=PRESETS, default="base", help="of the models of part 5")
    parser.add_argument("--batch", type=int, default=64, help="of the trainings of part 5")
    parser.add_argument("--parts", nargs="+", choices=("measure", "weights"), default=["measure", "weights"])
    parser.add_argument("--tiny", action="store_true", help="16 pixels and small networks, to test this script")
    options = parser.parse_args(arguments)
    options.data = [str(Path(data).resolve()) if Path(data).exists() else data for data in options.data]
    options.output = options.output.resolve()
    return options


def check_itself(benchmark: Benchmark) -> bool:
    """Whether every row of a run of `--tiny` on the same device succeeds."""
    options = benchmark.options
    words = ["--data", options.data[0], "--tiny", "--parts", "measure", "--minutes", str(MINUTES_OF_SELF_CHECK)]
    words += ["--families", *options.families, "--presets", *options.presets, "--device", str(benchmark.device)]
    return main([*words, "--output", str(benchmark.temporary / "check")]) == 0


def main(arguments: list[str] | None = None) -> int:
    """Write the table; returns 0, or 1 if a row failed, or 2 if the check of the script itself failed."""
    options = parse_options(arguments)
    with tempfile.TemporaryDirectory(prefix="imggen-gpu-", ignore_cleanup_errors=True) as temporary:
        benchmark = Benchmark(options, Path(temporary))
        if benchmark.on_gpu and not options.tiny and not check_itself(benchmark):
            return 2
        benchmark.table.write()
        if "measure" in options.parts:
            measure(benchmark)
        set_arithmetic(tf32=False, convolutions_tf32=True)
        if "weights" in options.parts:
            train_and_evaluate(benchmark)
        print((options.output / "gpu.md").read_text(encoding="utf-8"), flush=True)
        return int(benchmark.table.failures > 0)


if __name__ == "__main__":
    sys.exit(main())
