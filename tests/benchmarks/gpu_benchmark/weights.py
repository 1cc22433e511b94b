"""Part 5, weights: one model per family is trained at once, and its weights, samples and metrics are kept."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imggen.engine import evaluation
from imggen.engine.checkpoints import load_backend, save_backend
from imggen.engine.device import configure_device
from imggen.engine.noise import SampleSpec
from imggen.engine.options import EvaluateOptions
from imggen.engine.render import sample_batches
from imggen.io.image import encode, grid
from imggen.reporting import Silent
from tests.benchmarks.gpu_benchmark.rows import Rows, SkippedError
from tests.benchmarks.gpu_benchmark.setting import TINY_BATCH, TINY_IMAGES, TINY_OVERRIDES, Setting
from tests.benchmarks.gpu_benchmark.table import OURS

ROOT = Path(__file__).resolve().parents[3]
SECONDS_AROUND_TRAINING = 45.0  # to start, save and sample
SECONDS_PER_COMPARISON = 15.0
MIN_SECONDS_OF_TRAINING = 20.0
NUM_COMPARED = 2000
MAX_FLOAT32_BYTES = 16 << 20  # larger weights are kept in float16


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


class Weights:
    """Trains, saves and evaluates the models of the options, in the time that is left."""

    def __init__(self, options: argparse.Namespace, setting: Setting, rows: Rows, temporary: Path) -> None:
        self.options = options
        self.setting = setting
        self.rows = rows
        self.temporary = temporary

    def train_and_evaluate(self) -> None:
        """All trainings at once in the time that is left; then the weights, samples and metrics of each."""
        options = self.options
        jobs = [(family, data) for data in options.data for family in options.families]
        seconds = self.rows.clock.seconds_left() - SECONDS_AROUND_TRAINING - SECONDS_PER_COMPARISON * len(jobs)
        running: dict[tuple[str, str], TrainingProcess] = {}

        def apply(method: Callable[[TrainingProcess], dict[str, Any]], job: tuple[str, str]) -> dict[str, Any]:
            if job not in running:
                raise SkippedError("no time left")
            return method(running[job])

        try:
            if self.setting.tiny or seconds > MIN_SECONDS_OF_TRAINING:
                for job in jobs:
                    running[job] = self.start_training(*job, seconds)
            for measure, method in (
                ("training, images/s", self.finish_training),
                ("samples", self.write_samples),
                ("comparison with the data", self.evaluate),
            ):
                for job in jobs:
                    row = ("weights", f"{job[0]} {options.preset}", f"{Path(job[1]).stem}, {measure}")
                    self.rows.attempt(row, math.inf, partial(apply, method, job), may_use_all_time=True)
        finally:
            for training in running.values():
                training.process.kill()
                training.process.wait()

    def start_training(self, family: str, data: str, seconds: float) -> TrainingProcess:
        """Start `imggen train` for `seconds` of training in a process of its own."""
        name = f"{family}-{Path(data).stem}"
        run_dir = self.temporary / f"run-{name}"
        words = [sys.executable, "-m", "imggen", "train", family, "--data", data, "--preset", self.options.preset]
        words += ["--size", str(self.setting.size), "--device", str(self.setting.device)]
        words += ["--seed", "0", "--json", "-o", str(run_dir)]
        if self.setting.tiny:
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
            code = training.process.wait(max(1.0, self.rows.clock.seconds_left() - SECONDS_PER_COMPARISON))
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
        loaded = load_backend(training.weights, device=str(self.setting.device))
        configure_device(self.setting.device, full_precision=loaded.backend.needs_full_precision)
        classes = len(loaded.backend.classes)
        specs = [SampleSpec(seed, (seed // 8) % classes if classes else None) for seed in range(64)]
        images = np.concatenate(list(sample_batches(loaded.backend.for_inference(), specs)))
        path = self.options.output / f"{training.name}.png"
        path.write_bytes(encode(grid(images, 8), "png", {"model": training.name}))
        return {"note": path.name}

    def evaluate(self, training: TrainingProcess) -> dict[str, Any]:
        """The metrics of `imggen evaluate` for 2,000 samples."""
        if self.setting.tiny:
            raise SkippedError("the networks of --tiny are too small for that")
        options = EvaluateOptions(
            model=str(training.weights), data=training.data, count=NUM_COMPARED, device=str(self.setting.device)
        )
        report = evaluation.run(options, Silent())
        metrics = [f"{name} {metric['value']:.4g}" for name, metric in report["metrics"].items()]
        return {"note": ", ".join(metrics), "details": {key: report[key] for key in ("metrics", "floor", "seconds")}}
