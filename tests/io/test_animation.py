"""Every animation format, read back by Pillow or PyAV."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imggen.errors import DataError, UsageError
from imggen.io.animation import WRITERS, FrameDurations, animation, animation_format, animation_text, check_speed
from imggen.io.image import ImageArray, read_info

SETTINGS = {"seeds": "3,14", "class": "Füchse 🦊"}
ENDINGS = {"gif": "gif", "webp": "webp", "apng": "png", "mp4": "mp4"}


def moving_square(channels: int) -> list[ImageArray]:
    """Four frames, of which the second equals the first: smooth gray, and a square that moves."""
    frames = []
    for x in (2, 2, 5, 9):
        frame = np.linspace(0, 255, 18 * 16).reshape(16, 18, 1).repeat(channels, 2).astype(np.uint8)
        frame[4:9, x : x + 5, : min(channels, 3)] = 200
        if channels == 4:
            frame[..., 3] = np.where(np.arange(18) < 12, 255, 0)
        frames.append(frame)
    return frames


def write(path: Path, frames: list[ImageArray], fps: int = 10) -> Path:
    with animation(path, Fraction(fps), len(frames), SETTINGS) as add:
        for frame in frames:
            add(frame)
    return path


def read(path: Path, mode: str) -> tuple[list[ImageArray], list[float]]:
    """All frames, as Pillow shows them, and their durations in milliseconds."""
    frames, durations = [], []
    with Image.open(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(np.asarray(image.convert(mode)))
            durations.append(float(image.info["duration"]))
    return frames, durations


@pytest.mark.parametrize("format", ["gif", "webp", "apng"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_frames_are_read_back(tmp_path: Path, format: str, channels: int) -> None:
    frames = moving_square(channels)
    path = write(tmp_path / f"a.{ENDINGS[format]}", frames)
    shown, durations = read(path, {1: "L", 3: "RGB", 4: "RGBA"}[channels])
    assert len(shown) == 4 and durations == [100] * 4
    for frame, image in zip(frames, shown, strict=True):
        image = image.reshape(frame.shape)
        visible = frame[..., 3] > 0 if channels == 4 else np.ones(frame.shape[:2], bool)
        # GIF quantizes to 256 colors, of which these frames have fewer.
        assert np.abs(image[visible].astype(int) - frame[visible]).max() <= (
            8 if format == "gif" and channels > 1 else 0
        )
        if channels == 4:
            assert np.array_equal(image[..., 3], frame[..., 3])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mp4_is_read_back(tmp_path: Path, channels: int) -> None:
    import av

    frames = [frame[:15, :17] for frame in moving_square(channels)]
    with av.open(str(write(tmp_path / "a.mp4", frames))) as container:
        shown = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 10
    assert len(shown) == 4 and shown[0].shape == (16, 18)  # odd sides gain a pixel


@pytest.mark.parametrize("format", WRITERS)
def test_settings_are_read_back(tmp_path: Path, format: str) -> None:
    path = write(tmp_path / f"a.{ENDINGS[format]}", moving_square(3))
    if format in ("gif", "mp4"):
        assert json.loads(str(animation_text(path))) == SETTINGS
    else:
        assert read_info(path) == SETTINGS


@pytest.mark.parametrize("format", WRITERS)
def test_an_error_leaves_no_file(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"a.{ENDINGS[format]}"
    with pytest.raises(DataError, match="full"), animation(path, Fraction(10), 2, {}) as add:
        add(moving_square(3)[0])
        raise OSError(28, "full")
    assert not list(tmp_path.iterdir())


def test_only_what_changes_is_stored(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    changed = noise.copy()
    changed[10:12, 20:23] = 0
    for format in ("gif", "webp", "apng"):
        one = write(tmp_path / f"one.{ENDINGS[format]}", [noise]).stat().st_size
        three = write(tmp_path / f"three.{ENDINGS[format]}", [noise, changed, changed]).stat().st_size
        assert three < one + 2000


def test_formats_and_speeds() -> None:
    assert {animation_format(Path(f"a.{ending.upper()}")) for ending in ENDINGS.values()} == set(WRITERS)
    with pytest.raises(UsageError, match="avi"):
        animation_format(Path("a.avi"))
    check_speed("gif", Fraction(50))
    with pytest.raises(UsageError, match="at most 50") as caught:
        check_speed("gif", Fraction(51))
    assert caught.value.hint


@pytest.mark.parametrize("fps", [Fraction(7), Fraction(24), Fraction(30_000, 1001), Fraction(50)])
def test_durations_add_up(fps: Fraction) -> None:
    durations = FrameDurations(fps, 100)
    ends = np.cumsum([durations.next() for _ in range(300)])
    exact = [float(100 * k / fps) for k in range(1, 301)]
    assert np.abs(ends - exact).max() <= 0.5


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\0\0\0\x08moov" * 20, b"\0\0\0\x01moov" + b"\xff" * 40])
def test_damaged_mp4_has_no_settings(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    assert animation_text(path) is None
