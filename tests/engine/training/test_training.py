"""The loop: exact resume, rolling back, memory, budgets, what lies in a run's folder."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator
from torch import Tensor

from imggen.engine.checkpoints import load_backend
from imggen.engine.noise import mix_seed
from imggen.engine.options import TrainOptions
from imggen.engine.run_dir import RunDir
from imggen.engine.training import loop as engine
from imggen.engine.training.budget import Budget
from imggen.engine.training.plan import make_plan
from imggen.engine.training.signals import StopRequest
from imggen.errors import CheckpointError, DataError, DeviceError, DivergedError, InterruptedRun, UsageError
from imggen.io.checkpoint import read_header, read_tensors
from imggen.metrics.compare import Estimate, Measure
from imggen.models import presets
from imggen.models.base import NonFiniteError
from imggen.models.gan.config import GanConfig as GanConfig
from imggen.models.gan.dcgan import Discriminator
from imggen.models.gan.learner import GanLearner
from imggen.reporting import Silent


def options(data: Path, output: str, **more: Any) -> TrainOptions:
    defaults: dict[str, Any] = {"images": 12 * 16, "batch": 16, "seed": 5, "size": 16, "preset": "tiny"}
    overrides = {"width": 8, "max_width": 16}
    return TrainOptions(
        family="gan", data=str(data), output=Path(output), device="cpu", overrides=overrides, **{**defaults, **more}
    )


def everything(run: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path = RunDir(Path(run)).state
    header = read_header(path, kind="state")
    return read_tensors(path, header, None), {
        k: v for k, v in header.document.items() if k not in ("seconds", "waited")
    }


def train_until(steps: int, given: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    request: list[StopRequest] = []
    original = engine._loop

    def loop(training: engine.TrainingRun, stop: StopRequest, task: Any, watch: Any) -> None:
        request.append(stop)
        step = training.step

        def counted(progress: float) -> None:
            step(progress)
            if training.steps == steps:
                stop.signal = 2

        monkeypatch.setattr(training, "step", counted)
        original(training, stop, task, watch)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_loop", loop)
        with pytest.raises(InterruptedRun) as caught:
            engine.train(given, Silent())
    assert caught.value.exit_code == 130


@pytest.mark.parametrize("preset", ["tiny", "dcgan"])
def test_stopped_and_resumed_is_the_same_run(image_folder: Path, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.train(options(image_folder, "whole", preset=preset, mirror=True), Silent())
    train_until(5, options(image_folder, "parts", preset=preset, mirror=True), monkeypatch)
    engine.train(options(image_folder, "parts", preset=preset, mirror=True, resume=True), Silent())
    tensors, document = everything("whole")
    again, other = everything("parts")
    assert document == other
    assert tensors.keys() == again.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, again[name]), name
    lines = [json.loads(line) for line in Path("parts/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["images"] for line in lines] == sorted({line["images"] for line in lines})


def test_a_run_leaves_what_it_should(image_folder: Path) -> None:
    result = engine.train(options(image_folder, "run"), Silent())
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
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert records[-1]["images"] == 192 and np.isfinite(records[-1]["loss_d"])


def test_same_seed_same_run_other_seed_other(image_folder: Path) -> None:
    one = engine.train(options(image_folder, "one"), Silent())["hash"]
    assert engine.train(options(image_folder, "two"), Silent())["hash"] == one
    assert engine.train(options(image_folder, "three", seed=6), Silent())["hash"] != one


def test_refusals(image_folder: Path) -> None:
    with pytest.raises(UsageError, match="nothing to resume"):
        engine.train(options(image_folder, "run", resume=True), Silent())
    engine.train(options(image_folder, "run"), Silent())
    with pytest.raises(UsageError, match="already holds"):
        engine.train(options(image_folder, "run"), Silent())
    with pytest.raises(UsageError, match="batch 16, not 8"):
        engine.train(options(image_folder, "run", resume=True, batch=8), Silent())
    with pytest.raises(UsageError, match="no preset"):
        engine.train(options(image_folder, "other", preset="tniy"), Silent())
    with pytest.raises(UsageError, match="sizes"):
        engine.train(options(image_folder, "other", size=20), Silent())
    with pytest.raises(UsageError, match="exclude"):
        engine.train(options(image_folder, "other", minutes=1.0), Silent())
    with pytest.raises(DataError):
        engine.train(options(image_folder / "nowhere", "other"), Silent())
    with pytest.raises(DeviceError):
        engine.train(TrainOptions(family="gan", data=str(image_folder), device="cuda:97"), Silent())
    assert not Path("other").exists()
    Path("run/state.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError):
        engine.train(options(image_folder, "run", resume=True), Silent())


def test_force_replaces_only_the_run(image_folder: Path) -> None:
    first = engine.train(options(image_folder, "run"), Silent())["hash"]
    Path("run/notes.txt").write_text("mine", encoding="utf-8")
    second = engine.train(options(image_folder, "run", force=True, seed=9), Silent())["hash"]
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
def test_a_look_that_fails_does_not_end_the_training(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    said: list[str] = []

    class Heard(Silent):
        def warn(self, message: str) -> None:
            said.append(message)

    monkeypatch.setattr(engine, "load_features", fail)
    assert engine.train(options(image_folder, "run"), Heard())["images"] == 192
    assert load_backend("run").provenance["images"] == 192
    assert any("variety was not measured" in line for line in said)


def test_non_finite_numbers_roll_back(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LINE_SECONDS", 0)
    failing = Failing(monkeypatch, NonFiniteError(), lambda call, _: call in (4, 9))
    result = engine.train(options(image_folder, "run"), Silent())
    assert result["images"] == 192
    assert failing.calls == 12 + 4 + 5
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["images"] for record in records] == sorted({record["images"] for record in records})
    assert read_header(Path("run/state.safetensors")).document["rollbacks"] == 2


def test_diverging_for_good_ends_with_the_last_good_checkpoint(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Failing(monkeypatch, NonFiniteError(), lambda call, _: call % 3 == 0)
    with pytest.raises(DivergedError) as caught:
        engine.train(options(image_folder, "run"), Silent())
    assert caught.value.exit_code == 5
    load_backend("run", device="cpu")


def test_what_diverged_goes_on_with_a_lower_learning_rate(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its message says; no other option of the family may change."""
    with monkeypatch.context() as patch:
        Failing(patch, NonFiniteError(), lambda call, _: call > 4)
        with pytest.raises(DivergedError, match="4 times") as caught:
            engine.train(options(image_folder, "run"), Silent())
    assert "--resume with a lower --learning-rate" in (caught.value.hint or "")
    slower = options(image_folder, "run", resume=True)
    slower.overrides["learning_rate"] = 1e-5
    assert engine.train(slower, Silent())["images"] == 192
    config = load_backend("run", device="cpu").backend.config
    assert isinstance(config, GanConfig) and config.learning_rate == 1e-5 and config.width == 8
    with pytest.raises(UsageError, match="width"):
        wider = options(image_folder, "run", resume=True, images=256)
        wider.overrides["width"] = 16
        engine.train(wider, Silent())


def test_roll_backs_long_ago_do_not_count(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Failing(monkeypatch, NonFiniteError(), lambda call, _: call in (5, 10, 15, 20, 25))
    result = engine.train(options(image_folder, "run", images=24 * 16, save_minutes=0.0), Silent())
    assert result["images"] == 24 * 16 and read_header(Path("run/state.safetensors")).document["rollbacks"] == 5


def test_too_little_memory_halves_the_micro_batch(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    Failing(monkeypatch, error, lambda _, learner: (learner.micro_batch or 16) > 4)
    assert engine.train(options(image_folder, "run"), Silent())["images"] == 192
    Failing(monkeypatch, error, lambda _, learner: True)
    with pytest.raises(DeviceError, match="memory"):
        engine.train(options(image_folder, "other"), Silent())


def test_tensorboard_gets_the_metrics(image_folder: Path) -> None:
    engine.train(options(image_folder, "run", tensorboard=True), Silent())
    events = event_accumulator.EventAccumulator("run/tensorboard").Reload()
    assert "loss_d" in events.Tags()["scalars"]
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert events.Scalars("loss_d")[-1].value == pytest.approx(records[-1]["loss_d"], rel=1e-5)


def test_tensorboard_that_is_missing(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imggen.engine.run_dir.find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        engine.train(options(image_folder, "run", tensorboard=True), Silent())
    assert "imggen[log]" in str(caught.value.hint) and not Path("run").exists()


def test_memory_that_ends_in_the_generators_pass(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = Discriminator.forward, 0

    def forward(self: Discriminator, *arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:  # real, fake, then the generator's own
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return original(self, *arguments)

    monkeypatch.setattr(Discriminator, "forward", forward)
    assert engine.train(options(image_folder, "run", preset="dcgan"), Silent())["images"] == 192


def test_the_budget_is_remembered(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_until(5, options(image_folder, "run"), monkeypatch)
    assert engine.train(options(image_folder, "run", images=None, resume=True), Silent())["images"] == 192
    assert engine.train(options(image_folder, "run", images=256, resume=True), Silent())["images"] == 256


def test_a_resumed_run_takes_grown_data(image_folder: Path) -> None:
    engine.train(options(image_folder, "run"), Silent())
    with Image.open(image_folder / "disc" / "000.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(image_folder / "disc" / "new.png")
    result = engine.train(options(image_folder, "run", images=256, resume=True), Silent())
    assert result["images"] == 256 and load_backend("run", device="cpu").backend.config.class_counts == (60, 60)
    with pytest.raises(UsageError, match="crop center"):
        engine.train(options(image_folder, "run", images=256, resume=True, crop="pad"), Silent())
    with pytest.raises(UsageError, match="batch"):
        engine.train(options(image_folder, "other", batch=1), Silent())


def test_own_previews_are_no_data(image_folder: Path) -> None:
    engine.train(options(image_folder, "imgs/run"), Silent())
    assert engine.plan(options(image_folder, "other"), Silent())["size"] == 16
    setup = make_plan(options(image_folder, "other"), Silent())
    assert len(setup.dataset) == 120 and setup.config.classes == ("disc", "square")


def test_a_plan_decodes_nothing(image_folder: Path) -> None:
    engine.plan(options(image_folder, "run"), Silent())
    assert [path.name for path in Path("cache").iterdir()] == ["surveys"] and not Path("run").exists()
    with pytest.raises(TypeError):
        _ = make_plan(options(image_folder, "run"), Silent(), decode=False).dataset


def test_the_best_checkpoint_is_kept(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imggen.engine.training.best_checkpoint.COUNT", 20)
    values = iter((3.0, 1.0, 2.0))

    def frechet(self: Measure, _: Any, features: Tensor) -> Estimate:
        return Estimate("fd", next(values), 0.0, 9.0, len(features), self.features)

    monkeypatch.setattr(Measure, "frechet", frechet)
    said: list[str] = []

    class Heard(Silent):
        def info(self, message: str) -> None:
            said.append(message)

    given = options(image_folder, "run", images=32, evaluate_every=0.0)
    engine.train(given, Heard())
    assert any("nearer, 1.00 against 2.00" in line and "best.safetensors" in line for line in said)
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    looked = [record for record in records if "fd" in record]
    assert [record["fd"] for record in looked] == [3.0, 1.0, 2.0] and looked[-1]["best"] == 1.0
    best = read_header(Path("run/best.safetensors"), kind="weights").document["provenance"]
    assert best["figure"]["value"] == 1.0 and best["images"] == looked[1]["images"]


def test_budgets_are_progress() -> None:
    assert Budget.of(1000, None, None, 50, 30).progress(250, 1e9) == 0.25
    assert Budget.of(None, 2, None, 50, 30).progress(50, 0) == 0.5
    assert Budget.of(None, None, 2, 50, 30).progress(0, 30) == 0.25
    assert Budget.of(None, None, None, 50, 30).progress(0, 1800) == 1
    assert Budget.of(None, None, 2, 50, 30).seconds_left(0, 100, 1) == 20
    with pytest.raises(UsageError):
        Budget.of(0, None, None, 50, 30)
    assert mix_seed(1, 2) != mix_seed(2, 1) != mix_seed(12) and 0 <= mix_seed(1, 2) < 2**63


def test_minutes_end_a_run(image_folder: Path) -> None:
    result = engine.train(options(image_folder, "run", images=None, minutes=0.03), Silent())
    assert 1.5 < result["seconds"] < 10


def test_setup_reads_size_and_channels_off_the_data(image_folder: Path) -> None:
    setup = make_plan(TrainOptions(family="gan", data=str(image_folder), device="cpu"), Silent())
    assert (setup.config.size, setup.config.channels, setup.config.preset) == (16, 3, "tiny")
    assert setup.batch == 32 and setup.budget.seconds == 1800
    textbook = TrainOptions(family="gan", data=str(image_folder), device="cpu", preset="dcgan")
    assert make_plan(textbook, Silent()).batch == 64


def test_a_small_folder_wants_dropout_unless_told_otherwise(image_folder: Path) -> None:
    asked = TrainOptions(family="transformer", data=str(image_folder), device="cpu", preset="tiny", size=16)
    assert make_plan(asked, Silent()).config.to_json()["dropout"] > 0
    told = replace(asked, overrides={"dropout": 0.0})
    assert make_plan(told, Silent()).config.to_json()["dropout"] == 0
    tiny = presets("transformer")["tiny"]
    assert tiny.for_dataset_size(1_000_000) == tiny
