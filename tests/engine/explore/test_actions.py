"""What the page shows is what the commands write, byte for byte."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from imggen.engine import checkpoints
from imggen.engine.checkpoints import keeping_models, load_model, save_backend
from imggen.engine.explore.actions import Actions, PageFile
from imggen.engine.explore.samples import Sample, walk_options
from imggen.engine.options import ExploreOptions
from imggen.errors import InterruptedRun, UsageError
from tests.helpers import run_cli, save_segmenter, small_vae

CLASSES = ("disc", "square")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "vae.safetensors"
    save_backend(path, small_vae(classes=CLASSES, class_counts=(1, 1)), {})
    return path


@pytest.fixture
def actions(model_file: Path, tmp_path: Path) -> Iterator[Actions]:
    """The actions of a model that is given by a path relative to the current folder."""
    Path("vae.safetensors").write_bytes(model_file.read_bytes())
    Path("temporary").mkdir()
    with keeping_models():
        yield Actions(ExploreOptions(model="vae.safetensors", device="cpu"), tmp_path / "temporary")
    assert not any(Path("temporary").iterdir()) and Path.cwd() == tmp_path


def check(command: str, files: list[PageFile], capsys: pytest.CaptureFixture[str], folder: str = ".") -> None:
    """The command writes these files into `folder`."""
    words = shlex.split(command)
    assert words[0] == "imggen"
    code, _, err = run_cli(capsys, *words[1:], "--device", "cpu")
    assert code == 0, err
    for file in files:
        assert Path(folder, file.name).read_bytes() == file.data, file.name


def test_samples(actions: Actions, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"temperature": 0.7}
    files, command = actions.sample(first=5, count=3, label="disc", sampling_options=options)
    assert [file.name for file in files] == ["00000005.png", "00000006.png", "00000007.png"]
    check(command, files, capsys, "samples")
    (alone,), _ = actions.sample(first=6, count=1, label="disc", sampling_options=options)
    check(alone.command, [alone], capsys)
    assert "--seeds 6" in alone.command and alone.name == "00000006.png"
    near = actions.sample_near(alone, count=3, seed=1, temperature=0.3, label="disc")
    check(near.command, [near], capsys)


def test_a_walk(actions: Actions, capsys: pytest.CaptureFixture[str]) -> None:
    made = actions.walk(seeds="3,8,1", path="spline", loop=True, frames=6, zoom=2, output="walk.webp")
    check(made.command, [made], capsys)
    assert "--loop" in made.command and "--zoom 2" in made.command


def test_fills_keep_what_is_not_masked(actions: Actions, capsys: pytest.CaptureFixture[str]) -> None:
    (image,), _ = actions.sample(first=0, count=1, label=None, sampling_options={})
    pixels = np.zeros((16, 16), np.uint8)
    pixels[4:9, 6:11] = 255
    Image.fromarray(pixels).save("mask.png")
    Path(image.name).write_bytes(image.data)
    files, command, _ = actions.fill(image, PageFile("mask.png", Path("mask.png").read_bytes()), count=2, seed=4)
    assert len(files) == 2
    check(command, files, capsys)
    with Image.open(image.name) as before, Image.open(files[0].name) as after:
        assert np.array_equal(np.asarray(before)[pixels == 0], np.asarray(after)[pixels == 0])
        assert not np.array_equal(np.asarray(before), np.asarray(after))


def test_a_sample_is_moved_along_a_direction(actions: Actions, capsys: pytest.CaptureFixture[str]) -> None:
    found = actions.directions(seed=6)
    (name, value), (_, other) = found[0], actions.directions(seed=7)[0]
    assert (
        len(found) > 1 and actions.directions(seed=6)[0] == (name, pytest.approx(value)) and abs(value - other) > 0.01
    )
    options = {"direction": ((2, 1.5),)}
    (moved,), _ = actions.sample(first=6, count=1, label="disc", sampling_options=options)
    check(moved.command, [moved], capsys)
    assert "--direction 2=1.5" in moved.command
    with pytest.raises(UsageError, match="directions"):
        walk_options((Sample(moved, 6, None, options), Sample(moved, 7, None, options)))


def test_the_model_is_read_and_arranged_once(actions: Actions) -> None:
    assert load_model("vae.safetensors", device="cpu") is actions.loaded
    assert actions.loaded.for_inference() is actions.loaded.for_inference()
    Path("vae.safetensors").unlink()
    with patch.object(checkpoints, "read_header", side_effect=AssertionError("read again")):
        files, _ = actions.sample(first=0, count=1, label=None, sampling_options={})
    assert files


def test_an_action_ends_with_the_page(actions: Actions) -> None:
    actions.end(0)
    with pytest.raises(InterruptedRun):
        actions.walk(seeds="1,2", frames=4, output="walk.gif")


def test_the_mask_of_a_segmentation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_segmenter(Path("masks.safetensors"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)).save("photo.png")
    with keeping_models():
        actions = Actions(ExploreOptions(model="masks.safetensors", device="cpu"), tmp_path)
        files, classes, command = actions.segment(PageFile("photo.png", Path("photo.png").read_bytes()))
    assert actions.backend is None and sum(entry["share"] for entry in classes) == pytest.approx(1, abs=1e-5)
    check(command, files, capsys, "segmented")


def make_sample(seed: int, label: str | None = None, temperature: float = 1.0) -> Sample:
    return Sample(PageFile("x.png", b""), seed, label, {"temperature": temperature})


def test_keyframes_of_kept_images() -> None:
    assert walk_options((make_sample(3), make_sample(1))) == {"temperature": 1.0, "seeds": "3,1"}
    assert walk_options((make_sample(3, "disc"), make_sample(1, "disc")))["label"] == "disc"
    two = walk_options((make_sample(3, "disc"), make_sample(1, "square")))
    assert (two["label_from"], two["label_to"]) == ("disc", "square")
    for bad in (
        (make_sample(3),),
        (make_sample(3), make_sample(1, temperature=0.5)),
        (make_sample(3, "disc"), make_sample(1, "square"), make_sample(2, "disc")),
        (make_sample(3, "disc"), make_sample(1)),
    ):
        with pytest.raises(UsageError):
            walk_options(bad)
