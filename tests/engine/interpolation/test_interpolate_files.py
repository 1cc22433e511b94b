"""Files of walks: every format read back by another program, whole or not there, drawn again by its own command."""

import shlex
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imggen.cli.app import main
from imggen.engine.checkpoints import save_backend
from imggen.engine.info import describe_file
from imggen.errors import DataError, UsageError
from imggen.io.animation import FrameDurations, animation
from tests.engine.interpolate_help import drawn, folder_frames, frames_of, fresh, walk


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "mp4"])
@pytest.mark.parametrize("grid", [(1, 1), (3, 1)])
def test_every_format_holds_every_frame(model: str, ending: str, grid: tuple[int, int]) -> None:
    fps = 24.0
    if ending == "mp4":  # whose colours are coarser than these pictures' pixels
        save_backend(Path(model), fresh(channels=1), {})
    seeds = "1,1,2" if grid == (1, 1) else "1,1,2,2,3,3"  # a walk that stands still: equal frames count too
    walk(model, f"w.{ending}", seeds=seeds, frames=25, fps=fps, grid=grid, zoom=1 if grid == (1, 1) else 3)
    frames, lasts = frames_of(f"w.{ending}")
    width, height = (16, 16) if grid == (1, 1) else (3 * (3 * 18 + 2), 3 * 20)
    assert len(frames) == 25 and {frame.shape for frame in frames} == {(height, width, 3)}
    assert abs(sum(lasts) - 25_000 / fps) <= 10
    assert all(abs(each - 1000 / fps) <= 10 for each in lasts)
    walk(model, "f/", seeds=seeds, frames=25, grid=grid, zoom=1 if grid == (1, 1) else 3)
    for found, exact in zip(frames, folder_frames("f"), strict=True):
        grey = exact.ndim == 2
        error = np.abs(found.astype(int) - (exact[..., None] if grey else exact))
        assert error.max() <= (0 if ending in ("webp", "png") or (grey and ending == "gif") else 255)
        assert error.mean() < 4


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "mp4"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_odd_sizes_and_any_channels(ending: str, channels: int) -> None:
    random = np.random.default_rng(0)
    smooth = np.linspace(0, 255, 35 * 33).reshape(33, 35, 1).repeat(channels, 2).astype(np.uint8)
    frames = [smooth, smooth, smooth.copy(), np.roll(smooth, 3, 1)]
    frames[2][5:9, 7:12, 0] = random.integers(0, 255, (4, 5))
    if channels == 4:
        for frame in frames:
            frame[:, :, 3] = np.where(frame[:, :, 3] > 90, 255, 0)
    path = Path(f"x.{ending}")
    with animation(path, Fraction(10), 4, {"a": 1}) as add:
        for frame in frames:
            add(frame)
    found, lasts = frames_of(str(path))
    assert len(found) == 4 and lasts == [100] * 4
    # H.264's colours stand in pairs: odd sides gain a pixel.
    assert found[0].shape == ((34, 36, 3) if ending == "mp4" else (33, 35, 3))
    if channels == 1:
        for was, now in zip(frames, found, strict=True):
            error = np.abs(now[:33, :35].astype(int) - was)
            assert error.max() == 0 if ending != "mp4" else error.mean() < 4
    if channels == 4 and ending != "mp4":
        with Image.open(path) as image:
            for index in range(4):
                image.seek(index)
                shown = np.asarray(image.convert("RGBA"))[:, :, 3]
                assert np.array_equal(shown > 0, frames[index][:, :, 3] > 0)
    assert describe_file(path)["a"] == 1


def test_no_time_is_lost_in_ticks() -> None:
    ticks = FrameDurations(Fraction(30_000, 1001), 100)
    lasts = [ticks.next() for _ in range(300)]
    assert set(lasts) == {3, 4} and sum(lasts) == round(300 * 100 * 1001 / 30_000)


def test_strips_and_grids(model: str) -> None:
    walk(model, "s.png", seeds="1,2", strip=True)
    with Image.open("s.png") as image:
        assert image.size == (9 * 18 + 2, 20) and getattr(image, "n_frames", 1) == 1
        assert np.array_equal(np.asarray(image)[2:18, 2:18], drawn(model, 1))
        assert np.array_equal(np.asarray(image)[2:18, -18:-2], drawn(model, 2))
    walk(model, "g.webp", seeds="0-7", strip=True, grid=(2, 2), frames=5)
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
def test_the_command_of_a_file_draws_it_again(model: str, output: str, more: dict[str, Any]) -> None:
    walk(model, output, frames=8, **more)
    words = shlex.split(describe_file(Path(output))["command"])
    first = Path(output).read_bytes()
    Path(output).unlink()
    with pytest.raises(SystemExit) as caught:
        main([*words[1:], "--quiet"])
    assert not caught.value.code and Path(output).read_bytes() == first


def test_a_folder_of_frames_is_whole(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    walk(model, "f/", frames=9)
    assert describe_file(Path("f/00008.png"))["frame"] == 8
    with pytest.raises(UsageError, match="already exists"):
        walk(model, "f/", frames=4)
    for name in ("notes.txt", "00000007.png"):  # a picture as `sample` numbers them is no frame
        Path("f", name).write_text("mine", encoding="utf-8")
    walk(model, "f/", frames=4, force=True)
    left = sorted(path.name for path in Path("f").iterdir())
    assert left == ["00000.png", "00000007.png", *(f"0000{k}.png" for k in range(1, 4)), "notes.txt"]

    def broken(*_: Any, **__: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imggen.engine.interpolation.interpolate.quick_png", broken)
    monkeypatch.setattr("imggen.io.animation.Gif.frame", broken)
    for output in ("new/", "w.gif"):
        with pytest.raises(DataError, match="No space"):
            walk(model, output, frames=4)
    assert not [path for path in Path().iterdir() if path.name.startswith((".", "new", "w."))]


def test_mp4_without_its_library(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imggen.io.animation.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="PyAV"):
        walk(model, "w.mp4")
