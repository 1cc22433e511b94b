"""Training runs as `imggen train` starts them, and the models that the training part leaves to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imggen.engine.device import configure_device, find_precision
from imggen.engine.options import TrainOptions
from imggen.engine.training.plan import TrainPlan, make_plan
from imggen.engine.training.training_run import TrainingRun
from imggen.models.base import Backend
from imggen.reporting import Silent
from tests.benchmarks.gpu_benchmark.rows import SkippedError
from tests.benchmarks.gpu_benchmark.setting import TINY_BATCH, TINY_OVERRIDES, Setting

# The networks that a family trains change during a run: the progress at which the steps of each stage are measured.
STAGES = {
    "gan": {"both networks": 0.3},
    "vae": {"core": 0.3, "partial encoder": 0.9},
    "transformer": {"tokenizer": 0.1, "prior": 0.5},
}


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


class TrainedModels(dict[tuple[str, str], Trained]):
    """The models of the training part by family and preset; raises SkippedError for one that it did not train."""

    def __missing__(self, key: tuple[str, str]) -> Trained:
        raise SkippedError("it was not trained")


class Runs:
    """Starts training runs; the data are read once per family and preset."""

    def __init__(self, setting: Setting, data: str, temporary: Path) -> None:
        self.setting = setting
        self.data = data
        self.temporary = temporary
        self.plans: dict[tuple[str, str], TrainPlan] = {}

    def plan(self, family: str, preset: str) -> TrainPlan:
        """The plan of `imggen train`, with the data on the device."""
        if (family, preset) not in self.plans:
            options = TrainOptions(
                family=family,
                data=self.data,
                preset=preset,
                size=self.setting.size,
                batch=TINY_BATCH if self.setting.tiny else None,
                device=str(self.setting.device),
                seed=0,
                minutes=10,
                output=self.temporary / f"{family}-{preset}",
                overrides=TINY_OVERRIDES[family] if self.setting.tiny else {},
            )
            plan = make_plan(options, Silent())
            if self.setting.on_gpu:
                plan.dataset.to(self.setting.device)
            self.plans[family, preset] = plan
        return self.plans[family, preset]

    def begin(self, family: str, preset: str, precision: str = "auto", *, channels_last: bool = True) -> TrainingRun:
        """A new run, with the global settings of `imggen train`."""
        plan = self.plan(family, preset)
        dtype = find_precision(precision, self.setting.device, training=True)
        plan = replace(plan, machine=replace(plan.machine, precision=dtype))
        configure_device(self.setting.device)
        return TrainingRun(plan, Silent()) if channels_last else ContiguousTrainingRun(plan)
