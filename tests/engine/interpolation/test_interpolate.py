"""Frames that equal samples, loops that close, and files that their own command makes again."""

import itertools
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imggen.engine.checkpoints import load_backend
from imggen.engine.info import describe_file
from imggen.errors import DataError, UsageError
from tests.engine.interpolation.conftest import interpolate, read_folder, sample_image
from tests.helpers import run_cli


@pytest.mark.parametrize("path", ["slerp", "spline"])
@pytest.mark.parametrize("loop", [False, True])
def test_keyframes_are_bit_for_bit_samples(model: str, path: str, loop: bool) -> None:
    interpolate(model, "f/", path=path, loop=loop, frames=14)
    frames = read_folder("f")
    assert len(frames) == 14
    samples = [sample_image(model, seed) for seed in (3, 14, 15)]
    assert np.array_equal(frames[0], samples[0])
    assert loop or np.array_equal(frames[-1], samples[2])
    for image in samples:
        assert any(np.array_equal(frame, image) for frame in frames)
    assert len({frame.tobytes() for frame in frames}) == 14


def test_classes_of_the_seeds_and_given_classes(class_model: str) -> None:
    interpolate(class_model, "a/", seeds="1,2", frames=6)
    assert np.array_equal(read_folder("a")[0], sample_image(class_model, 1))
    assert np.array_equal(read_folder("a")[-1], sample_image(class_model, 2))
    interpolate(class_model, "b/", seeds="1,2", frames=6, label="owl")
    assert np.array_equal(read_folder("b")[-1], sample_image(class_model, 2, label="owl"))
    interpolate(class_model, "c/", seeds="1,2,3", frames=9, label_from="ant", label_to="bee")
    assert np.array_equal(read_folder("c")[0], sample_image(class_model, 1, label="ant"))
    assert np.array_equal(read_folder("c")[-1], sample_image(class_model, 3, label="bee"))
    with pytest.raises(UsageError, match="no class 'olw'"):
        interpolate(class_model, "d/", label="olw")


def test_perceptual_steps_are_even(model: str) -> None:
    rough = interpolate(model, "a.png", frames=60, loop=True)["steps"]
    even = interpolate(model, "b.png", frames=60, loop=True, pace="perceptual")["steps"]
    assert even["unevenness"] < 0.15 < rough["unevenness"]
    assert even["largest"] <= 1.5 * even["median"] and even["closing"] <= even["median"]
    assert rough["closing"] <= rough["median"]


def test_easing_is_slow_at_the_keyframes(model: str) -> None:
    interpolate(model, "a/", seeds="1,2", frames=30, ease="cubic")
    frames = [frame.astype(float) for frame in read_folder("a")]
    steps = [np.abs(b - a).mean() for a, b in itertools.pairwise(frames)]
    assert steps[0] < np.median(steps) / 2 and steps[-1] < np.median(steps) / 2


@pytest.mark.slow
@pytest.mark.parametrize("path", ["slerp", "spline", "circle"])
@pytest.mark.parametrize(
    ("name", "label", "frames", "firsts"),
    [
        ("gan-digits", "3", 32, (4, 44, 100)),
        ("gan-emoji", None, 32, (4, 44, 100)),
        ("vae", None, 16, (4,)),
        ("transformer-digits", "3", 12, (4,)),
    ],
)
def test_loops_of_shipped_models_close_with_no_longer_step(
    name: str, label: str | None, frames: int, firsts: tuple[int, ...], path: str
) -> None:
    """From several seeds where that is quick."""
    count = 2 if path == "circle" else 4
    for first in firsts:
        more = {"seeds": f"{first}-{first + count - 1}", "label": label, "path": path}
        steps = interpolate(name, "w.png", frames=frames, loop=True, force=True, **more)["steps"]
        assert steps["closing"] <= steps["median"]


def test_a_loop_in_a_grid_closes_as_a_whole(model: str) -> None:
    for strip in (False, True):
        more = {"strip": strip, "path": "slerp", "seeds": "0-7"}
        steps = interpolate(model, "w.png", grid=(2, 1), loop=True, force=True, **more)["steps"]
        assert steps["closing"] <= steps["median"]


@pytest.mark.slow
def test_interpolation_between_shipped_digits() -> None:
    assert load_backend("gan-digits", device="cpu").origin == "shipped"
    steps = interpolate("gan-digits", "w.gif", seeds="3,14,15", label="3", frames=45, loop=True)["steps"]
    assert steps["largest"] <= 5 * steps["median"]
    assert steps["closing"] <= steps["median"]


def test_strips_and_grids(model: str) -> None:
    interpolate(model, "s.png", seeds="1,2", strip=True)
    with Image.open("s.png") as image:
        assert image.size == (9 * 18 + 2, 20) and getattr(image, "n_frames", 1) == 1
        assert np.array_equal(np.asarray(image)[2:18, 2:18], sample_image(model, 1))
        assert np.array_equal(np.asarray(image)[2:18, -18:-2], sample_image(model, 2))
    interpolate(model, "g.webp", seeds="0-7", strip=True, grid=(2, 2), frames=5)
    with Image.open("g.webp") as image:
        assert image.size == (5 * 18 + 2, 4 * 18 + 2)


@pytest.mark.parametrize(
    ("output", "more"),
    [
        ("w.gif", {"loop": True, "ease": "sine"}),
        ("w.webp", {"path": "circle", "seeds": "1,2"}),
        ("w.png", {"pace": "perceptual", "zoom": 2}),
        ("w.mp4", {"fps": 12.5, "temperature": 0.7}),
        ("s.png", {"strip": True, "seeds": "4-7", "grid": (2, 1)}),
    ],
)
def test_the_command_in_a_file_makes_it_again(
    model: str, output: str, more: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    interpolate(model, output, frames=8, **more)
    words = shlex.split(describe_file(Path(output))["command"])
    first = Path(output).read_bytes()
    Path(output).unlink()
    assert run_cli(capsys, *words[1:], "--quiet")[0] == 0 and Path(output).read_bytes() == first


def test_a_folder_of_frames_is_complete_or_absent(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    interpolate(model, "f/", frames=9)
    assert describe_file(Path("f/00008.png"))["frame"] == 8
    with pytest.raises(UsageError, match="already exists"):
        interpolate(model, "f/", frames=4)
    for name in ("notes.txt", "00000007.png"):  # the latter is a name that `sample` gives, not that of a frame
        Path("f", name).write_text("mine", encoding="utf-8")
    interpolate(model, "f/", frames=4, force=True)
    names = sorted(path.name for path in Path("f").iterdir())
    assert names == ["00000.png", "00000007.png", *(f"0000{k}.png" for k in range(1, 4)), "notes.txt"]

    def raise_disk_full(*_: Any, **__: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imggen.engine.interpolation.interpolate.encode_png_fast", raise_disk_full)
    monkeypatch.setattr("imggen.io.animation.Gif.write_frame", raise_disk_full)
    for output in ("new/", "w.gif"):
        with pytest.raises(DataError, match="No space"):
            interpolate(model, output, frames=4)
    assert not [path for path in Path().iterdir() if path.name.startswith((".", "new", "w."))]
