"""A run's directory: other files stay, one training at a time, partial files are removed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imggen.engine import training
from imggen.engine.options import TrainOptions
from imggen.engine.training.plan import make_plan
from imggen.errors import UsageError
from imggen.io.atomic import lock_directory
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
def test_one_training_at_a_time(image_folder: Path, options: MakeOptions) -> None:
    training.run(options(image_folder, "run"), Silent())
    before = Path("run/weights.safetensors").read_bytes()
    with lock_directory(Path("run")):
        for more in ({"resume": True, "images": 16 * 16}, {"force": True}):
            with pytest.raises(UsageError, match="another process is training"):
                training.run(options(image_folder, "run", **more), Silent())
    assert Path("run/weights.safetensors").read_bytes() == before
    assert training.run(options(image_folder, "run", resume=True, images=16 * 16), Silent())["images"] == 256


@pytest.mark.slow
def test_partial_files_of_a_killed_process_are_removed(image_folder: Path, options: MakeOptions) -> None:
    training.run(options(image_folder, "run"), Silent())
    Path("run/.state.safetensors.1a2b3c4d5e6f0.part").write_bytes(b"half")
    Path("run/.notes.part").write_bytes(b"mine")
    training.run(options(image_folder, "run", resume=True, images=16 * 16), Silent())
    assert [path.name for path in Path("run").glob(".*")] == [".notes.part"]


@pytest.mark.slow
def test_a_spent_budget_is_reported(image_folder: Path, options: MakeOptions) -> None:
    training.run(options(image_folder, "run"), Silent())
    training.run(options(image_folder, "run", resume=True), reporter := RecordingReporter())
    assert "budget is spent" in reporter.warnings[0]
    training.run(options(image_folder, "run", resume=True, images=16 * 16), reporter := RecordingReporter())
    assert not reporter.warnings
