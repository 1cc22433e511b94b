"""Part 2, training: images per second as `imggen train` runs them, and with PyTorch's defaults."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from imggen.engine.device import configure_device
from imggen.engine.training.training_run import TrainingRun
from imggen.models import build_backend
from imggen.models.base import Backend
from imggen.models.learner import GeneratorLearner
from tests.benchmarks.gpu_benchmark.flops import FlopCounter
from tests.benchmarks.gpu_benchmark.machine import Machine
from tests.benchmarks.gpu_benchmark.runs import STAGES, Runs, Trained, TrainedModels
from tests.benchmarks.gpu_benchmark.setting import Setting, set_arithmetic
from tests.benchmarks.gpu_benchmark.table import DEFAULTS, NO_TF32, OURS


class TrainingSpeed:
    """Measures training; the runs as of `imggen train` are kept in `trained`."""

    def __init__(self, setting: Setting, runs: Runs, trained: TrainedModels, machine: Machine) -> None:
        self.setting = setting
        self.runs = runs
        self.trained = trained
        self.machine = machine

    def as_imggen(self, family: str, preset: str, stage: str) -> dict[str, Any]:
        """Train as `imggen train` does; the run is kept for the parts that follow."""
        progress = STAGES[family][stage]
        trained = self.trained.get((family, preset))
        if trained is None:
            training = self.runs.begin(family, preset)
        else:
            training = trained.training
            configure_device(self.setting.device)
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

    def as_pytorch(self, family: str, preset: str, stage: str, *, tf32: bool) -> dict[str, Any]:
        """The same learner in fp32 without channels_last; convolutions in TF32, PyTorch's default, if `tf32`."""
        training = self.runs.begin(family, preset, "fp32", channels_last=False)
        set_arithmetic(tf32=False, convolutions_tf32=tf32)
        result = self.measure_training(training, STAGES[family][stage])
        cells: dict[str, Any] = {DEFAULTS if tf32 else NO_TF32: result["rate"], "details": result}
        if result["micro_batch"]:
            cells["note"] = f"micro-batch {result['micro_batch']} in fp32"
        return cells

    def measure_training(self, training: TrainingRun, progress: float) -> dict[str, Any]:
        """Images per second, seconds of the first steps, the micro-batch if memory ran out, and GiB of memory."""
        if self.setting.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        self.train_steps(training, progress)
        self.setting.wait()
        result: dict[str, Any] = {"first_seconds": time.perf_counter() - start}
        result["rate"] = self.setting.rate(lambda: self.train_steps(training, progress))
        result["micro_batch"] = training.learner.micro_batch
        if self.setting.on_gpu:
            result["gib"] = torch.cuda.max_memory_allocated() / 2**30
        return result

    def train_steps(self, training: TrainingRun, progress: float) -> int:
        """As many steps as contain one gradient penalty; returns the number of images."""
        images_before = training.images
        for _ in range(self.steps_per_round(training)):
            training.step(progress)
        training.recent_metrics = training.recent_metrics[-1:]
        return training.images - images_before

    def steps_per_round(self, training: TrainingRun) -> int:
        """Steps between two looks at the clock: a GAN's gradient penalty is not computed in every step."""
        return int(getattr(training.plan.config, "penalty_every", 1 if self.setting.tiny else 2))

    def measure_work(self, training: TrainingRun, progress: float, rate: float) -> dict[str, Any]:
        """GFLOP per image, that as a fraction of the bf16 rate, and the kernels of a step."""
        with FlopCounter() as counter:
            images = self.train_steps(training, progress)
        gflop = counter.total / images / 1e9
        bf16_tflops = self.machine.bf16_tflops
        fraction = gflop * rate / 1e3 / bf16_tflops if bf16_tflops else math.nan
        kernels = self.profile_step(training, progress, training.plan.batch / rate) if self.setting.on_gpu else {}
        return {"gflop": gflop, "bf16_fraction": fraction, **kernels}

    def profile_step(self, training: TrainingRun, progress: float, seconds: float) -> dict[str, Any]:
        """The fraction of a step's `seconds` in which kernels run, and the slowest kernels; without a GAN's penalty."""
        try:
            training.step(progress)
            self.setting.wait()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
                training.step(progress)
                self.setting.wait()
            training.recent_metrics = training.recent_metrics[-1:]
            events = [event for event in profiler.key_averages() if event.self_device_time_total > 0]
            total = sum(event.self_device_time_total for event in events) / 1e6
            slowest = sorted(events, key=lambda event: -event.self_device_time_total)[:12]
            names = [[event.key[:90], event.count, round(event.self_device_time_total / 1e3, 2)] for event in slowest]
            return {"busy": total / seconds, "kernels": sum(event.count for event in events), "slowest_ms": names}
        except (RuntimeError, AttributeError) as error:
            return {"profiler": str(error)}

    def copy_backend(self, training: TrainingRun) -> Backend:
        """The averaged backend as a checkpoint would give it: a copy in contiguous memory."""
        assert isinstance(training.learner, GeneratorLearner)
        source = training.learner.backend
        backend = build_backend(source.config)
        backend.load_state_dict({name: tensor.cpu().contiguous() for name, tensor in source.state_dict().items()})
        return backend.to(self.setting.device).eval().requires_grad_(False)
