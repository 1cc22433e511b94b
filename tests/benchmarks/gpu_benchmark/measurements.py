"""The rows of parts 1 to 4, in their order and with their time limits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.gpu_benchmark.agreement import Agreement
from tests.benchmarks.gpu_benchmark.cuda_graphs import CudaGraphs
from tests.benchmarks.gpu_benchmark.machine import Machine
from tests.benchmarks.gpu_benchmark.rows import Rows
from tests.benchmarks.gpu_benchmark.runs import STAGES, Runs, TrainedModels
from tests.benchmarks.gpu_benchmark.sampling_speed import SamplingSpeed
from tests.benchmarks.gpu_benchmark.setting import Setting
from tests.benchmarks.gpu_benchmark.training_speed import TrainingSpeed

STAGES_AS_TRAINED_ONLY = ("partial encoder",)  # not measured with PyTorch's defaults
NO_TF32_STAGES = {"gan": "both networks", "vae": "core", "transformer": "prior"}


class Measurements:
    """Fills the rows of the machine, and of training, agreement and sampling of each model."""

    def __init__(self, rows: Rows, setting: Setting, data: str, temporary: Path) -> None:
        runs = Runs(setting, data, temporary)
        self.rows = rows
        self.trained = TrainedModels()
        self.machine = Machine(setting)
        self.training = TrainingSpeed(setting, runs, self.trained, self.machine)
        self.agreement = Agreement(setting, runs, self.trained)
        self.sampling = SamplingSpeed(setting, self.trained)
        self.graphs = CudaGraphs(setting, self.trained)

    def measure(self, models: list[tuple[str, str]]) -> None:
        """Fill all rows for the models, each a family and a preset."""
        self.rows.attempt(("machine", "", "matrix products, copy"), 30, self.machine.measure)
        # R3GAN last: its first gradient penalty takes more than a minute, and no time limit interrupts it.
        models = sorted(models, key=lambda model: model == ("gan", "base"))
        for family, preset in models:
            self.measure_model(family, preset)
        for family, preset in models:
            stage = NO_TF32_STAGES[family]
            work = partial(self.training.as_pytorch, family, preset, stage, tf32=False)
            self.rows.attempt(("training", f"{family} {preset}", f"{stage}, images/s"), 15, work)

    def measure_model(self, family: str, preset: str) -> None:
        """Fill the rows of one model; its run is dropped before PyTorch's defaults are measured."""
        name = f"{family} {preset}"

        def attempt(part: str, measure: str, limit: float, method: Callable[..., dict[str, Any]], *given: Any) -> None:
            self.rows.attempt((part, name, measure), limit, partial(method, *given))

        for stage in STAGES[family]:
            attempt("training", f"{stage}, images/s", 150, self.training.as_imggen, family, preset, stage)
        if family == "transformer":
            attempt("sampling", "CUDA graphs equal to no graphs", 20, self.graphs.compare, preset)
        attempt("agreement", "losses of a step", 25, self.agreement.compare_losses, family, preset)
        attempt("agreement", "images of the same seeds", 20, self.agreement.compare_images, family, preset)
        attempt("sampling", "networks, images/s", 30, self.sampling.measure_networks, family, preset, None)
        attempt("sampling", "one image at a time, images/s", 15, self.sampling.measure_networks, family, preset, 1)
        attempt("sampling", "seeds to bytes, images/s", 25, self.sampling.measure_seeds_to_bytes, family, preset)
        self.trained.pop((family, preset), None)
        for stage in STAGES[family]:
            if stage not in STAGES_AS_TRAINED_ONLY:
                method = partial(self.training.as_pytorch, tf32=True)
                attempt("training", f"{stage}, images/s", 25, method, family, preset, stage)
