"""The options of `imggen sample` and `imggen interpolate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imggen.engine.options.shared import (
    IMAGES,
    KEYFRAMES,
    MAX_DIRECTION_VALUE,
    MAX_DIRECTIONS,
    MAX_SEED,
    MODEL,
    NEAR_TEMPERATURE,
    OUTPUT,
    PATH,
    PRECISIONS,
    ModelOptions,
)
from imggen.errors import UsageError
from imggen.models.config import SAMPLING
from imggen.option import (
    REQUIRED,
    argument,
    option,
    parse_direction,
    parse_grid,
)


@dataclass(frozen=True, kw_only=True)
class SampleOptions(ModelOptions):
    """One set of samples: seeds `seeds`, or `count` seeds from `seed` on; with `source` or `near`, of given images."""

    model: str = argument(REQUIRED, MODEL, metavar="MODEL")
    count: int = option(64, "Number of images", panel=IMAGES, flags=("--count", "-n"), low=1)
    seed: int | None = option(None, "First seed", panel=IMAGES, low=0, high=MAX_SEED, chosen="random, printed")
    seeds: str | None = option(None, "Seeds, in place of --seed and -n, such as 0-63,70", panel=IMAGES, metavar="LIST")
    label: str | None = option(
        None, "Class name; all: one row per class", panel=IMAGES, flags=("--class",), metavar="NAME", chosen="random"
    )
    source: Path | None = option(
        None, "Reconstruct these images, side by side", panel=IMAGES, flags=("--from",), metavar="PATH"
    )
    near: Path | None = option(None, "Sample variations of this image", panel=IMAGES, metavar="FILE")
    direction: tuple[tuple[int, float], ...] = option(
        (),
        "Value along a direction, such as 2=1.5; repeatable",
        panel=IMAGES,
        metavar="N=VALUE",
        parse=parse_direction,
        text=lambda pair: f"{pair[0]}={pair[1]:g}",
    )
    # The declared type is that of a made instance: None is replaced by the default, which depends on `near`.
    temperature: float = option(
        None,
        "Sampling temperature, 0 to 2",
        panel=SAMPLING,
        low=0.0,
        high=2.0,
        chosen=f"1; {NEAR_TEMPERATURE} with --near",
    )
    precision: str = option(
        "auto", "Precision: fp32, bf16, fp16 or auto", panel=SAMPLING, choices=PRECISIONS, metavar="NAME"
    )
    output: str = option(
        None,
        "File, folder/, name-%05d.png, or - for stdout",
        panel=OUTPUT,
        flags=("--output", "-o"),
        metavar="PATH",
        chosen="samples.png",
    )
    colors: int | None = option(None, "Colors of each image at most", panel=OUTPUT, low=2, high=256, chosen="any")
    columns: int | None = option(None, "Columns of the grid", panel=OUTPUT, low=1, chosen="about a square")
    format: str | None = option(
        None,
        "Format: png, jpeg or webp, for a folder or stdout",
        panel=OUTPUT,
        choices=("png", "jpeg", "webp"),
        metavar="NAME",
        chosen="png",
        recorded=False,
    )
    resume: bool = option(False, "Only generate the images missing in the folder", panel=OUTPUT, recorded=False)

    def __post_init__(self) -> None:
        """Resolve the defaults that depend on other options, and check the values."""
        if self.temperature is None:
            object.__setattr__(self, "temperature", 1.0 if self.near is None else NEAR_TEMPERATURE)
        if self.output is None:
            object.__setattr__(self, "output", f"samples.{self.format or 'png'}")
        numbers = [number for number, _ in self.direction]
        if len(set(numbers)) < len(numbers):
            raise UsageError("--direction has two values for one direction", "give each direction once")
        if any(not 1 <= number <= MAX_DIRECTIONS for number in numbers):
            raise UsageError(
                f"directions are numbered from 1 to {MAX_DIRECTIONS}", "imggen directions MODEL lists them"
            )
        if any(not abs(value) <= MAX_DIRECTION_VALUE for _, value in self.direction):
            raise UsageError(
                f"--direction takes values from {-MAX_DIRECTION_VALUE:g} to {MAX_DIRECTION_VALUE:g}",
                "in standard deviations: beyond 3 no image is plausible",
            )
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class DirectionsOptions(ModelOptions):
    """The directions of a model's noise; with `output`, a sheet of one sample moved along each."""

    model: str = argument(REQUIRED, MODEL, metavar="MODEL")
    seed: int = option(0, "Seed of the sample", panel=IMAGES, low=0, high=MAX_SEED)
    label: str | None = option(
        None, "Class of the sample", panel=IMAGES, flags=("--class",), metavar="NAME", chosen="that of the seed"
    )
    output: Path | None = option(
        None, "Image: a row per direction, values -2 to 2", panel=OUTPUT, flags=("--output", "-o"), metavar="FILE"
    )


@dataclass(frozen=True, kw_only=True)
class InterpolateOptions(ModelOptions):
    """One latent path, or a grid of them. Keyframes are `seeds`, or the images `start` and `end`."""

    model: str = argument(REQUIRED, MODEL, metavar="MODEL")
    seeds: str | None = option(None, "Seeds of the keyframes, such as 3,14,15", panel=KEYFRAMES, metavar="LIST")
    seed: int | None = option(
        None, "Seed of the first of four keyframes", panel=KEYFRAMES, low=0, high=MAX_SEED, chosen="random, printed"
    )
    start: tuple[Path, ...] = option(
        (), "Image, or folder, to start from; repeatable", panel=KEYFRAMES, flags=("--from",), metavar="PATH"
    )
    end: tuple[Path, ...] = option(
        (), "Image, or folder, to go to; repeatable", panel=KEYFRAMES, flags=("--to",), metavar="PATH"
    )
    label: str | None = option(
        None, "Class of all frames", panel=KEYFRAMES, flags=("--class",), metavar="NAME", chosen="that of each seed"
    )
    label_from: str | None = option(
        None, "Class of the first keyframe", panel=KEYFRAMES, flags=("--class-from",), metavar="NAME"
    )
    label_to: str | None = option(
        None, "Class of the last keyframe", panel=KEYFRAMES, flags=("--class-to",), metavar="NAME"
    )
    precision: str = option(
        "auto", "Precision: fp32, bf16, fp16 or auto", panel=SAMPLING, choices=PRECISIONS, metavar="NAME"
    )
    path: str | None = option(
        None,
        "Path: slerp, spline or circle",
        panel=PATH,
        choices=("slerp", "spline", "circle"),
        metavar="NAME",
        chosen="slerp; spline with --loop",
    )
    loop: bool = option(False, "Return to the first keyframe", panel=PATH)
    ease: str = option(
        "none",
        "Slow down at keyframes: none, sine or cubic",
        panel=PATH,
        choices=("none", "sine", "cubic"),
        metavar="NAME",
    )
    pace: str = option(
        "noise",
        "Equal steps in: noise or perceptual",
        panel=PATH,
        choices=("noise", "perceptual"),
        metavar="NAME",
    )
    steady: bool = option(False, "Keep the first keyframe's fine latents (VAE)", panel=PATH)
    frames: int | None = option(None, "Number of frames", panel=PATH, low=2, chosen="40 per segment; 8 with --strip")
    output: str = option(
        "walk.gif",
        "GIF, WebP, PNG or MP4 (extra: video), or folder/",
        panel=OUTPUT,
        flags=("--output", "-o"),
        metavar="PATH",
    )
    fps: float = option(25.0, "Frames per second", panel=OUTPUT, low=0.1, high=1000.0)
    grid: tuple[int, int] = option(
        (1, 1),
        "Paths side by side, columns x rows, such as 4x2",
        panel=OUTPUT,
        metavar="CxR",
        parse=parse_grid,
        text=lambda grid: f"{grid[0]}x{grid[1]}",
    )
    strip: bool = option(False, "Write all frames into one image", panel=OUTPUT)
    zoom: int = option(1, "Enlarge every pixel N times", panel=OUTPUT, low=1, high=64)
