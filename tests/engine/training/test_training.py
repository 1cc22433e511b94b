"""Training: exact resume, rollbacks, memory, budgets, the files of a run."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from imggen.engine import training
from imggen.engine.checkpoints import load_backend
from imggen.engine.options import TrainOptions
from imggen.engine.run_dir import RunDir
from imggen.engine.training import inspections, loop
from imggen.engine.training.loop import train
from imggen.engine.training.signals import StopRequest
from imggen.engine.training.training_run import TrainingRun
from imggen.errors import CheckpointError, DataError, DeviceError, DivergedError, InterruptedRun, UsageError
from imggen.io.checkpoint import read_header, read_tensors
from imggen.metrics.compare import Estimate, Estimator
from imggen.models.gan.config import GanConfig
from imggen.models.gan.dcgan import Discriminator
from imggen.models.gan.learner import GanLearner
from imggen.models.learner import NonFiniteError
from imggen.reporting import Silent
from tests.helpers import RecordingReporter

MakeOptions = Callable[..., TrainOptions]
pytestmark = pytest.mark.usefixtures("few_pairs")


def read_state(run: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path = RunDir(Path(run)).state
    header = read_header(path, kind="state")
    return read_tensors(path, header, None), {
        k: v for k, v in header.document.items() if k not in ("seconds", "data_wait", "saved")
    }


def train_until(steps: int, given: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and ask to stop after so many steps."""
    stop, original = StopRequest(), TrainingRun.step

    def step(run: TrainingRun, progress: float) -> None:
        original(run, progress)
        if run.steps == steps:
            stop.signal = 2

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "step", step)
        with pytest.raises(InterruptedRun) as caught:
            train(given, Silent(), stop=stop)
    assert caught.value.exit_code == 130


def read_metrics(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "dcgan"])
def test_stopped_and_resumed_is_the_same_run(
    image_folder: Path, options: MakeOptions, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training.run(options(image_folder, "whole", preset=preset, mirror=True), Silent())
    train_until(5, options(image_folder, "parts", preset=preset, mirror=True), monkeypatch)
    training.run(options(image_folder, "parts", preset=preset, mirror=True, resume=True), Silent())
    tensors, document = read_state("whole")
    again, other = read_state("parts")
    assert document == other
    assert tensors.keys() == again.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, again[name]), name
    lines = read_metrics("parts")
    assert [line["images"] for line in lines] == sorted({line["images"] for line in lines})


def test_the_files_of_a_run(image_folder: Path, options: MakeOptions) -> None:
    result = training.run(options(image_folder, "run"), Silent())
    assert result["images"] == 192 and result["seed"] == 5 and 0 <= result["data_wait"] < 1
    loaded = load_backend("run", device="cpu")
    assert loaded.backend.classes == ("disc", "square")
    assert loaded.backend.config.class_counts == (60, 60)
    assert loaded.hash == result["hash"]
    assert loaded.provenance["images"] == 192
    settings = tomllib.loads(Path("run/config.toml").read_text(encoding="utf-8"))
    assert settings["width"] == 8 and settings["images"] == 192 and settings["seed"] == 5
    previews = sorted(Path("run/samples").glob("*.png"))
    assert [path.name for path in previews] == ["000000.png", "000012.png"]
    with Image.open(previews[-1]) as image:
        assert image.size == (8 * 18 + 2, 2 * 18 + 2)
    records = read_metrics("run")
    assert records[-1]["images"] == 192 and np.isfinite(records[-1]["loss_d"])


@pytest.mark.slow
def test_same_seed_same_run_other_seed_other(image_folder: Path, options: MakeOptions) -> None:
    one = training.run(options(image_folder, "one"), Silent())["hash"]
    assert training.run(options(image_folder, "two"), Silent())["hash"] == one
    assert training.run(options(image_folder, "three", seed=6), Silent())["hash"] != one


def test_refusals(image_folder: Path, options: MakeOptions) -> None:
    with pytest.raises(UsageError, match="nothing to resume"):
        training.run(options(image_folder, "run", resume=True), Silent())
    training.run(options(image_folder, "run"), Silent())
    with pytest.raises(UsageError, match="already holds"):
        training.run(options(image_folder, "run"), Silent())
    with pytest.raises(UsageError, match="batch 16, not 8"):
        training.run(options(image_folder, "run", resume=True, batch=8), Silent())
    with pytest.raises(UsageError, match="no preset"):
        training.run(options(image_folder, "other", preset="tniy"), Silent())
    with pytest.raises(UsageError, match="size must be from 16 to 512"):
        training.run(options(image_folder, "other", size=18), Silent())
    with pytest.raises(UsageError, match="exclude"):
        training.run(options(image_folder, "other", minutes=1.0), Silent())
    with pytest.raises(DataError):
        training.run(options(image_folder / "nowhere", "other"), Silent())
    with pytest.raises(DeviceError):
        training.run(TrainOptions(family="gan", data=str(image_folder), device="cuda:97"), Silent())
    assert not Path("other").exists()
    Path("run/state.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError):
        training.run(options(image_folder, "run", resume=True), Silent())


@pytest.mark.slow
def test_a_resumed_run_refuses_other_classes(image_folder: Path, options: MakeOptions) -> None:
    training.run(options(image_folder, "run"), Silent())
    (image_folder / "disc").rename(image_folder / "circle")
    with pytest.raises(CheckpointError, match="started with 2 classes: disc, square"):
        training.run(options(image_folder, "run", resume=True, images=256), Silent())
    with pytest.raises(UsageError, match="run of gan, not vae"):
        training.run(replace(options(image_folder, "run", resume=True, images=256), family="vae"), Silent())


@pytest.mark.slow
def test_force_replaces_only_the_run(image_folder: Path, options: MakeOptions) -> None:
    first = training.run(options(image_folder, "run"), Silent())["hash"]
    Path("run/notes.txt").write_text("mine", encoding="utf-8")
    second = training.run(options(image_folder, "run", force=True, seed=9), Silent())["hash"]
    assert first != second
    assert Path("run/notes.txt").read_text(encoding="utf-8") == "mine"
    assert len(list(Path("run/samples").glob("*.png"))) == 2


class Failing:
    """Makes chosen steps of the learner fail."""

    def __init__(self, patch: pytest.MonkeyPatch, error: Exception, when: Any) -> None:
        self.calls = 0
        original = GanLearner.step

        def step(learner: GanLearner, *arguments: Any) -> dict[str, Tensor]:
            self.calls += 1
            if when(self.calls, learner):
                raise error
            return original(learner, *arguments)

        patch.setattr(GanLearner, "step", step)


@pytest.mark.parametrize("error", [MemoryError(), NotImplementedError("no such op here")])
def test_an_evaluation_that_fails_does_not_end_the_training(
    image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(inspections, "load_features", fail)
    reporter = RecordingReporter()
    assert training.run(options(image_folder, "run"), reporter)["images"] == 192
    assert load_backend("run").provenance["images"] == 192
    assert any("diversity was not measured" in line for line in reporter.warnings)


@pytest.mark.slow
def test_non_finite_numbers_roll_back(
    image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_REPORTS", 0.0)
    failing = Failing(monkeypatch, NonFiniteError(), lambda call, _: call in (4, 9))
    result = training.run(options(image_folder, "run"), Silent())
    assert result["images"] == 192
    assert failing.calls == 12 + 4 + 5
    records = read_metrics("run")
    assert [record["images"] for record in records] == sorted({record["images"] for record in records})
    assert read_header(Path("run/state.safetensors")).document["rollbacks"] == 2


def test_diverging_for_good_ends_with_the_last_good_checkpoint(
    image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    Failing(monkeypatch, NonFiniteError(), lambda call, _: call % 3 == 0)
    with pytest.raises(DivergedError) as caught:
        training.run(options(image_folder, "run"), Silent())
    assert caught.value.exit_code == 5
    load_backend("run", device="cpu")


@pytest.mark.slow
def test_a_diverged_run_continues_with_a_lower_learning_rate(
    image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the error suggests; no other option of the family may change."""
    with monkeypatch.context() as patch:
        Failing(patch, NonFiniteError(), lambda call, _: call > 4)
        with pytest.raises(DivergedError, match="4 times") as caught:
            training.run(options(image_folder, "run"), Silent())
    assert "--resume with a lower --learning-rate" in (caught.value.hint or "")
    slower = options(image_folder, "run", resume=True)
    slower.overrides["learning_rate"] = 1e-5
    assert training.run(slower, Silent())["images"] == 192
    config = load_backend("run", device="cpu").backend.config
    assert isinstance(config, GanConfig) and config.learning_rate == 1e-5 and config.width == 8
    with pytest.raises(UsageError, match="width"):
        wider = options(image_folder, "run", resume=True, images=256)
        wider.overrides["width"] = 16
        training.run(wider, Silent())


@pytest.mark.slow
def test_roll_backs_long_ago_do_not_count(
    image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    Failing(monkeypatch, NonFiniteError(), lambda call, _: call in (5, 10, 15, 20, 25))
    result = training.run(options(image_folder, "run", images=24 * 16, save_minutes=0.0), Silent())
    assert result["images"] == 24 * 16 and read_header(Path("run/state.safetensors")).document["rollbacks"] == 5


@pytest.mark.slow
def test_too_little_memory_halves_the_micro_batch(
    image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    Failing(monkeypatch, error, lambda _, learner: (learner.micro_batch or 16) > 4)
    assert training.run(options(image_folder, "run"), Silent())["images"] == 192
    Failing(monkeypatch, error, lambda _, learner: True)
    with pytest.raises(DeviceError, match="memory"):
        training.run(options(image_folder, "other"), Silent())


def test_tensorboard_gets_the_metrics(image_folder: Path, options: MakeOptions) -> None:
    from tensorboard.backend.event_processing import event_accumulator  # takes a second

    training.run(options(image_folder, "run", tensorboard=True), Silent())
    events = event_accumulator.EventAccumulator("run/tensorboard").Reload()
    assert "loss_d" in events.Tags()["scalars"]
    records = read_metrics("run")
    assert events.Scalars("loss_d")[-1].value == pytest.approx(records[-1]["loss_d"], rel=1e-5)


def test_a_missing_tensorboard_is_refused(
    image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imggen.engine.training.find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        training.run(options(image_folder, "run", tensorboard=True), Silent())
    assert "imggen[log]" in str(caught.value.hint) and not Path("run").exists()


@pytest.mark.slow
def test_memory_that_runs_out_in_the_generators_pass(
    image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Discriminator.forward, 0

    def forward(self: Discriminator, *arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:  # real, fake, then the generator's own
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return original(self, *arguments)

    monkeypatch.setattr(Discriminator, "forward", forward)
    assert training.run(options(image_folder, "run", preset="dcgan"), Silent())["images"] == 192


@pytest.mark.slow
def test_the_budget_is_remembered(image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    train_until(5, options(image_folder, "run"), monkeypatch)
    assert training.run(options(image_folder, "run", images=None, resume=True), Silent())["images"] == 192
    assert training.run(options(image_folder, "run", images=256, resume=True), Silent())["images"] == 256


@pytest.mark.slow
def test_a_resumed_run_takes_grown_data(image_folder: Path, options: MakeOptions) -> None:
    training.run(options(image_folder, "run"), Silent())
    with Image.open(image_folder / "disc" / "000.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(image_folder / "disc" / "new.png")
    result = training.run(options(image_folder, "run", images=256, resume=True), Silent())
    assert result["images"] == 256 and load_backend("run", device="cpu").backend.config.class_counts == (60, 60)
    with pytest.raises(UsageError, match="crop center"):
        training.run(options(image_folder, "run", images=256, resume=True, crop="pad"), Silent())
    with pytest.raises(UsageError, match="batch"):
        training.run(options(image_folder, "other", batch=1), Silent())


@pytest.mark.slow
def test_the_best_checkpoint_is_kept(image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imggen.engine.training.inspections.NUM_SAMPLES", 20)
    values = iter((3.0, 1.0, 2.0))

    def frechet(self: Estimator, _: Any, features: Tensor) -> Estimate:
        return Estimate("fd", next(values), 0.0, 9.0, len(features), self.features)

    monkeypatch.setattr(Estimator, "frechet", frechet)
    reporter = RecordingReporter()
    training.run(options(image_folder, "run", images=32, evaluate_every=0.0), reporter)
    assert any(
        "lower distance to the data, 1.00 instead of 2.00: --weights run/best" in line for line in reporter.infos
    )
    evaluated = [record for record in read_metrics("run") if "fd" in record]
    assert [record["fd"] for record in evaluated] == [3.0, 1.0, 2.0] and evaluated[-1]["best"] == 1.0
    best = read_header(Path("run/best.safetensors"), kind="weights").document["provenance"]
    assert best["distance"]["value"] == 1.0 and best["images"] == evaluated[1]["images"]
