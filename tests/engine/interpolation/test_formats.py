"""Every animation format, read back by Pillow or PyAV: all frames, their durations, odd sizes, any channels."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imggen.engine.checkpoints import save_backend
from imggen.engine.info import describe_file
from imggen.errors import UsageError
from imggen.io.animation import FrameDurations, animation
from tests.engine.interpolation.conftest import interpolate, read_folder
from tests.helpers import read_frames, small_gan


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "mp4"])
@pytest.mark.parametrize("grid", [(1, 1), (3, 1)])
def test_every_format_has_every_frame(model: str, ending: str, grid: tuple[int, int]) -> None:
    fps = 24.0
    if ending == "mp4":  # its colors have a coarser resolution than these images
        save_backend(Path("gray.safetensors"), small_gan(channels=1, gain=8), {})
        model = "gray.safetensors"
    seeds = "1,1,2" if grid == (1, 1) else "1,1,2,2,3,3"  # equal keyframes: equal frames count too
    more = {"seeds": seeds, "frames": 25, "grid": grid, "zoom": 1 if grid == (1, 1) else 3}
    interpolate(model, f"w.{ending}", fps=fps, **more)
    frames, durations = read_frames(f"w.{ending}")
    width, height = (16, 16) if grid == (1, 1) else (3 * (3 * 18 + 2), 3 * 20)
    assert len(frames) == 25 and {frame.shape for frame in frames} == {(height, width, 3)}
    assert abs(sum(durations) - 25_000 / fps) <= 10
    assert all(abs(duration - 1000 / fps) <= 10 for duration in durations)
    interpolate(model, "f/", **more)
    for frame, exact in zip(frames, read_folder("f"), strict=True):
        is_gray = exact.ndim == 2
        error = np.abs(frame.astype(int) - (exact[..., None] if is_gray else exact))
        assert error.max() <= (0 if ending in ("webp", "png") or (is_gray and ending == "gif") else 255)
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
    shown, durations = read_frames(str(path))
    assert len(shown) == 4 and durations == [100] * 4
    # H.264 stores colors in pairs of pixels: odd sides gain a pixel.
    assert shown[0].shape == ((34, 36, 3) if ending == "mp4" else (33, 35, 3))
    if channels == 1:
        for expected, frame in zip(frames, shown, strict=True):
            error = np.abs(frame[:33, :35].astype(int) - expected)
            assert error.max() == 0 if ending != "mp4" else error.mean() < 4
    if channels == 4 and ending != "mp4":
        with Image.open(path) as image:
            for index in range(4):
                image.seek(index)
                alpha = np.asarray(image.convert("RGBA"))[:, :, 3]
                assert np.array_equal(alpha > 0, frames[index][:, :, 3] > 0)
    assert describe_file(path)["a"] == 1


def test_rounded_durations_add_up() -> None:
    durations = FrameDurations(Fraction(30_000, 1001), 100)
    ticks = [durations.next() for _ in range(300)]
    assert set(ticks) == {3, 4} and sum(ticks) == round(300 * 100 * 1001 / 30_000)


def test_mp4_without_its_library(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imggen.io.animation.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="PyAV"):
        interpolate(model, "w.mp4")
