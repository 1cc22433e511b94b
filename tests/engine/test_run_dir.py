"""A run's folder: what of others stays, one training at a time, signals that ask to stop."""

import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from imggen.engine.training import loop as engine
from imggen.engine.training.plan import make_plan
from imggen.engine.training.signals import stop_requests
from imggen.errors import InterruptedRun, UsageError
from imggen.io.atomic import lock_directory
from imggen.reporting import Silent
from tests.engine.training.test_training import options


def test_what_lies_where_a_run_would_write_stays(image_folder: Path) -> None:
    """Above all the pictures it is to learn from."""
    image_folder.rename("samples")
    Path("samples/disc/000.png").rename("samples/000000.png")
    for folder in ("samples", "tensorboard"):
        Path(folder).mkdir(exist_ok=True)
        Path(folder, "notes.txt").write_text("mine", encoding="utf-8")
        with pytest.raises(UsageError, match="already holds something"):
            engine.train(options(Path("samples"), "."), Silent())
        Path(folder).rename("kept" if folder == "samples" else "tensorboard.old")
    assert len(list(Path("kept").rglob("*.png"))) == 120
    engine.train(options(Path("kept"), "run"), Silent())
    Path("run/samples/cat-000001.png").write_bytes(b"mine")
    engine.train(options(Path("kept"), "run", force=True), Silent())
    assert Path("run/samples/cat-000001.png").read_bytes() == b"mine"


def test_a_run_in_the_folder_of_its_data_goes_on(image_folder: Path) -> None:
    engine.train(options(image_folder, "imgs"), Silent())
    assert Path("imgs/samples").is_dir()
    assert len(make_plan(options(image_folder, "other"), Silent()).dataset) == 120
    engine.train(options(image_folder, "imgs", resume=True, images=16 * 16), Silent())


def test_one_training_at_a_time(image_folder: Path) -> None:
    engine.train(options(image_folder, "run"), Silent())
    before = Path("run/weights.safetensors").read_bytes()
    with lock_directory(Path("run")):
        for more in ({"resume": True, "images": 16 * 16}, {"force": True}):
            with pytest.raises(UsageError, match="another training is at work"):
                engine.train(options(image_folder, "run", **more), Silent())
    assert Path("run/weights.safetensors").read_bytes() == before
    assert engine.train(options(image_folder, "run", resume=True, images=16 * 16), Silent())["images"] == 256


def test_what_a_killed_save_left_goes(image_folder: Path) -> None:
    engine.train(options(image_folder, "run"), Silent())
    Path("run/.state.safetensors.1a2b3c4d5e6f0.part").write_bytes(b"half")
    Path("run/.notes.part").write_bytes(b"mine")
    engine.train(options(image_folder, "run", resume=True, images=16 * 16), Silent())
    assert [path.name for path in Path("run").glob(".*")] == [".notes.part"]


def test_a_spent_budget_is_said(image_folder: Path) -> None:
    class Listening(Silent):
        said = ""

        def warn(self, message: str) -> None:
            self.said += message

    engine.train(options(image_folder, "run"), Silent())
    listening = Listening()
    engine.train(options(image_folder, "run", resume=True), listening)
    assert "budget is spent" in listening.said
    engine.train(options(image_folder, "run", resume=True, images=16 * 16), fresh := Listening())
    assert not fresh.said


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_asks_and_the_second_ends(name: str) -> None:
    number = getattr(signal, name)
    outer = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run where it is ignored
    before = signal.getsignal(number)
    with pytest.raises(InterruptedRun, match="stopped at once") as caught, stop_requests() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop and stop.exit_code == 128 + number
        assert ("Ctrl-C" if name == "SIGINT" else name) in stop.error("saved").message
        os.kill(os.getpid(), number)
    after = signal.signal(number, outer)
    assert caught.value.exit_code == 128 + number and after == before


def test_a_lost_terminal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_pictures_stay_where_they_are_looked_for_first() -> None:
    """A name of ours is a model, whatever folder is called so."""
    from imggen.engine.evaluation.evaluate import is_pictures
    from imggen.engine.options import EvaluateOptions

    for name in ("gan-emoji", "cats"):
        Path(name).mkdir()
        Image.new("L", (8, 8)).save(f"{name}/0.png")
    Path("weights").write_bytes(b"a checkpoint by another name")
    found = {name: is_pictures(EvaluateOptions(model=name, data="x")) for name in ("gan-emoji", "cats", "weights")}
    assert found == {"gan-emoji": False, "cats": True, "weights": False}
