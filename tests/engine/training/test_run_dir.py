"""A run's directory: other files stay, one training at a time, partial files are removed."""

import time
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imggen.engine import training
from imggen.engine.distributed import launch_began
from imggen.engine.options import TrainOptions
from imggen.engine.run_dir import RunDir
from imggen.engine.training import loop, plan, training_run
from imggen.engine.training.plan import TrainPlan, make_plan
from imggen.errors import UsageError
from imggen.io.atomic import _target_and_temporary
from imggen.io.checkpoint import write_checkpoint
from imggen.io.locks import lock_directory
from imggen.reporting import Silent
from tests.helpers import RecordingReporter

MakeOptions = Callable[..., TrainOptions]
pytestmark = pytest.mark.usefixtures("few_pairs")


@pytest.mark.slow
def test_files_where_a_run_would_write_stay(image_folder: Path, options: MakeOptions) -> None:
    """Above all the images to train on."""
    image_folder.rename("samples")
    Path("samples/disc/000.png").rename("samples/000000.png")
    for folder in ("samples", "tensorboard"):
        Path(folder).mkdir(exist_ok=True)
        Path(folder, "notes.txt").write_text("mine", encoding="utf-8")
        with pytest.raises(UsageError, match="already holds files"):
            training.run(options(Path("samples"), "."), Silent())
        Path(folder).rename("kept" if folder == "samples" else "tensorboard.old")
    assert len(list(Path("kept").rglob("*.png"))) == 120
    training.run(options(Path("kept"), "run"), Silent())
    Path("run/samples/cat-000001.png").write_bytes(b"mine")
    training.run(options(Path("kept"), "run", force=True), Silent())
    assert Path("run/samples/cat-000001.png").read_bytes() == b"mine"


@pytest.mark.slow
def test_a_run_in_the_folder_of_its_data_can_be_resumed(image_folder: Path, options: MakeOptions) -> None:
    training.run(options(image_folder, "imgs"), Silent())
    assert Path("imgs/samples").is_dir()
    assert len(make_plan(options(image_folder, "other"), Silent()).dataset) == 120
    training.run(options(image_folder, "imgs", resume=True, images=16 * 16), Silent())


@pytest.mark.slow
def test_one_training_at_a_time(image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --resume, with --force, and plainly where the other one has not saved anything yet; before decoding."""
    training.run(options(image_folder, "run"), Silent())
    before = Path("run/weights.safetensors").read_bytes()
    Path("new").mkdir()
    with lock_directory(Path("run")), lock_directory(Path("new")), monkeypatch.context() as patch:
        patch.setattr(plan, "make_plan", None)
        for folder, more in (("run", {"resume": True, "images": 16 * 16}), ("run", {"force": True}), ("new", {})):
            with pytest.raises(UsageError, match="another process is training"):
                training.run(options(image_folder, folder, **more), Silent())
    assert Path("run/weights.safetensors").read_bytes() == before and not list(Path("new").iterdir())
    assert training.run(options(image_folder, "run", resume=True, images=16 * 16), Silent())["images"] == 256


@pytest.mark.parametrize("ended", [False, True])
def test_a_training_that_began_while_this_one_decoded_is_noticed(
    image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """Whether it still trains or has ended by then."""
    original, other = loop.make_plan, ExitStack()

    def decode(*arguments: Any) -> TrainPlan:
        made = original(*arguments)
        Path("run").mkdir()
        if ended:
            Path("run/weights.safetensors").write_bytes(b"theirs")
        else:
            other.enter_context(lock_directory(Path("run")))
        return made

    monkeypatch.setattr(loop, "make_plan", decode)
    with other, pytest.raises(UsageError, match="already holds a run" if ended else "another process is training"):
        training.run(options(image_folder, "run"), Silent())
    assert [path.name for path in Path("run").iterdir()] == (["weights.safetensors"] if ended else [])


def test_partial_files_of_a_killed_process_are_removed() -> None:
    """Whatever atomic writes call them; files of the user stay."""
    run_dir = RunDir(Path("run"))
    Path("run/samples/.folder.1a2b3c4d5e6f0.part").mkdir(parents=True)
    written = (run_dir.weights, run_dir.state, run_dir.best, run_dir.path / "config.toml", run_dir.metrics)
    for path in (*written, run_dir.samples / "000085.png", run_dir.samples / "1234567.png"):
        Path(_target_and_temporary(path)[1]).write_bytes(b"half")
    for name in (".notes.part", ".state.safetensors.part", "samples/.cat.png.1a2b3c4d5e6f0.part"):
        (run_dir.path / name).write_bytes(b"mine")
    run_dir.clear_partial_files()
    assert sorted(path.name for path in Path("run").rglob("*") if path.is_file()) == [
        ".cat.png.1a2b3c4d5e6f0.part", ".notes.part", ".state.safetensors.part",
    ]  # fmt: skip


@pytest.mark.parametrize("resume", [False, True])
def test_the_hint_for_a_run_without_a_state_leads_out(resume: bool) -> None:
    run_dir = RunDir(Path("run"))
    Path("run").mkdir()
    run_dir.weights.write_bytes(b"weights")
    with pytest.raises(UsageError, match=r"state\.safetensors") as caught:
        run_dir.check(resume=resume, force=False)
    assert "--force" in str(caught.value.hint) and "--resume" not in str(caught.value.hint)
    run_dir.check(resume=False, force=True)
    run_dir.state.write_bytes(b"state")
    run_dir.check(resume=True, force=False)


def test_the_configuration_of_a_run_is_toml_whatever_the_names_are() -> None:
    Path("run").mkdir()
    names = ("plain", "caf\udce9", 'quote"', "line\nbreak", "\x1b[31m", "\x7f", "😀", "\\", "a = [")
    for name in names:
        RunDir(Path("run")).write_config({"data": name, "seed": 3})
        settings = tomllib.loads(Path("run/config.toml").read_text(encoding="utf-8"))
        assert settings == ({"seed": 3} if name == "caf\udce9" else {"data": name, "seed": 3})


def test_metrics_of_anyone_are_cut() -> None:
    run_dir = RunDir(Path("run"))
    Path("run").mkdir()
    good = '{"images": 16}\n'
    bad = (good, "[1]\n", '{"images": "x"}\n', '{"images": NaN}\n', "[" * 5000 + "\n", "\xff\n", '{"images": 32}\n')
    run_dir.metrics.write_bytes("".join(bad).encode("latin1"))
    run_dir.truncate_metrics(16)
    assert run_dir.metrics.read_text(encoding="utf-8") == good


@pytest.mark.slow
def test_a_spent_budget_is_reported(image_folder: Path, options: MakeOptions) -> None:
    training.run(options(image_folder, "run"), Silent())
    training.run(options(image_folder, "run", resume=True), reporter := RecordingReporter())
    assert "budget is spent" in reporter.warnings[0]
    training.run(options(image_folder, "run", resume=True, images=16 * 16), reporter := RecordingReporter())
    assert not reporter.warnings


@pytest.mark.parametrize("step", ["save_backend", "atomic_write"])
def test_force_and_an_end_during_the_first_save_continue_the_new_run(
    image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Never the old one, whose model is whole until the new one replaces it."""
    training.run(options(image_folder, "run", images=16), Silent())
    old = Path("run/weights.safetensors").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_run, step, fail)
        training.run(options(image_folder, "run", images=16, seed=6, force=True), Silent())
    assert (Path("run/weights.safetensors").read_bytes() == old) == (step == "save_backend")
    assert training.run(options(image_folder, "run", images=16, seed=None, resume=True), Silent())["seed"] == 6


@pytest.mark.parametrize(
    ("launch", "seconds", "goes_on"), [("1", 5, True), ("1", -5, False), ("2", 5, False), ("1", None, False)]
)
def test_a_restart_by_torchrun_continues_what_it_has_saved_itself(
    monkeypatch: pytest.MonkeyPatch, launch: str, seconds: float | None, goes_on: bool
) -> None:
    """Not the run of an earlier torchrun of the same name, from before this one began."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    saved = None if seconds is None else launch_began() + seconds
    Path("run").mkdir()
    document = {"launch": launch, "saved": saved}
    write_checkpoint(RunDir(Path("run")).state, {"x": torch.zeros(1)}, document, kind="state")
    given = TrainOptions(family="gan", data="imgs", output=Path("run"), force=True)
    assert training._continued(given) == (replace(given, resume=True, force=False) if goes_on else given)


def test_when_the_process_that_starts_the_workers_began() -> None:
    assert 0 < launch_began() < time.time()
    assert abs(launch_began() - launch_began()) < 1
