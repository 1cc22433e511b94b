"""Budgets: what ends a run, and what takes nothing of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from imggen.engine.noise import mix_seed
from imggen.engine.options import TrainOptions
from imggen.engine.training.budget import Budget
from imggen.engine.training.loop import train
from imggen.engine.training.training_run import TrainingRun
from imggen.errors import UsageError
from imggen.models.gan.learner import GanLearner
from imggen.reporting import Silent
from tests.helpers import RecordingReporter

MakeOptions = Callable[..., TrainOptions]
pytestmark = pytest.mark.usefixtures("few_pairs")


def read_metrics() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_budgets_are_progress() -> None:
    assert Budget.of(1000, None, None, 50, 30).progress(250, 1e9) == 0.25
    assert Budget.of(None, 2, None, 50, 30).progress(50, 0) == 0.5
    assert Budget.of(None, None, 2, 50, 30).progress(0, 30) == 0.25
    assert Budget.of(None, None, None, 50, 30).progress(0, 1800) == 1
    assert Budget.of(None, None, 2, 50, 30).seconds_left(0, 100, 1) == 20
    with pytest.raises(UsageError):
        Budget.of(0, None, None, 50, 30)
    assert mix_seed(1, 2) != mix_seed(2, 1) != mix_seed(12) and 0 <= mix_seed(1, 2) < 2**63


class FakeClock:
    """Seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_minutes_end_a_run(image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 10 seconds: six are a minute. A resumed run has what is left of its budget."""
    clock = FakeClock()

    def step(learner: GanLearner, *arguments: Any) -> dict[str, Tensor]:
        clock.seconds += 10
        return {"loss_d": torch.zeros(())}

    monkeypatch.setattr(GanLearner, "step", step)
    reporter = RecordingReporter()
    result = train(options(image_folder, "run", images=None, minutes=1.0), reporter, clock=clock)
    assert result["steps"] == 6 and result["seconds"] == 60
    assert [line["progress"] for line in read_metrics()] == [round(step / 6, 6) for step in range(1, 7)]
    assert all(line["images_per_second"] == 1.6 for line in read_metrics())
    assert sum("2 images per second: expected to end in 50 s" in line for line in reporter.infos) == 1
    clock.seconds += 1000
    result = train(options(image_folder, "run", images=None, minutes=1.5, resume=True), Silent(), clock=clock)
    assert result["steps"] == 9 and result["seconds"] == 90


def test_evaluations_take_nothing_from_the_budget(
    image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are due by the clock, as saves are; the speed that is reported is that of training alone."""
    clock, steps_at_evaluation = FakeClock(), []

    def step(learner: GanLearner, *arguments: Any) -> dict[str, Tensor]:
        clock.seconds += 10
        return {"loss_d": torch.zeros(())}

    def evaluate(run: TrainingRun, best: object) -> None:
        clock.seconds += 500
        steps_at_evaluation.append(run.steps)

    monkeypatch.setattr(GanLearner, "step", step)
    monkeypatch.setattr(TrainingRun, "evaluate", evaluate)
    given = options(image_folder, "run", images=None, minutes=1.0, evaluate_every=0.5, save_minutes=5.0)
    result = train(given, Silent(), clock=clock)
    assert result["steps"] == 6 and result["seconds"] == 60
    assert steps_at_evaluation == [3, 6]  # after 30 seconds, and at the end
    assert all(line["images_per_second"] == 1.6 for line in read_metrics())
    assert [path.name for path in sorted(Path("run/samples").iterdir())] == ["000000.png", "000004.png", "000006.png"]
