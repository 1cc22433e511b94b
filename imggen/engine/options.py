"""The options of every verb: one dataclass each, the only list of options. Imports no torch, to keep --help fast.

A field made by `option` becomes a flag of `imggen VERB`, a `--config` key and an environment variable (cli/build.py),
is checked when the dataclass is made, and is part of the command recorded in files (provenance.py). So a new option is
one line here, and its use. None means: chosen when it is not given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imggen.data.choices import CROPS, KEEP
from imggen.errors import UsageError
from imggen.models import family_config, presets
from imggen.models.config import SAMPLING, SamplingOptions
from imggen.option import (
    REQUIRED,
    Box,
    SizeLimit,
    argument,
    check_value,
    check_values,
    join_numbers,
    option,
    options_of,
    parse_box,
    parse_count,
    parse_expand,
    parse_grid,
    parse_limit,
)

DATA, BUDGET, RUN, MACHINE, GENERAL = "Data", "Budget", "Run", "Machine", "General"
IMAGES, KEYFRAMES, PATH, MASK, METHOD, OUTPUT = "Images", "Keyframes", "Path", "Mask", "Method", "Output"
COMPARISON = "Comparison"

MAX_SEED = 2**63 - 1
NEAR_TEMPERATURE = 0.5  # the default of --near
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
CACHE_ACTIONS = ("list", "prune", "clear")
MODEL = "Family, shipped model, run folder or checkpoint"


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """The options of every verb. Raises UsageError for values out of range."""

    batch: int | None = option(
        None, "Batch size", panel=MACHINE, low=1, chosen="chosen from the device", recorded=False
    )
    device: str = option(
        "auto", "Device: cpu, cuda, cuda:1, mps or auto", panel=MACHINE, metavar="NAME", recorded=False
    )
    force: bool = option(False, "Overwrite existing files", panel=GENERAL, recorded=False)

    def __post_init__(self) -> None:
        """Check the values."""
        check_values(self)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(SamplingOptions, MachineOptions):
    """Which model to use, on which device, and how to sample from it."""

    weights: Path | None = option(None, "Checkpoint to load in place of MODEL's own", panel=SAMPLING, metavar="FILE")

    @property
    def sampling(self) -> SamplingOptions:
        """The sampling options alone, as the model takes them."""
        return SamplingOptions(self.temperature, self.steps, self.guidance, self.top_k, self.top_p)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(MachineOptions):
    """One training run. `overrides` are the options of the family's configuration that were given."""

    family: str
    data: str = option(
        REQUIRED,
        "Folder, .zip, .tar, mnist, cifar10/100 or imagenet:PATH",
        panel=DATA,
        metavar="DATA",
    )
    size: int | None = option(None, "Side length in pixels", panel=DATA, low=1, chosen="chosen from the data")
    channels: int | None = option(
        None, "Channels: 1 gray, 3 RGB, 4 RGBA", panel=DATA, choices=(1, 3, 4), chosen="chosen from the data"
    )
    crop: str | None = option(
        None, "Crop: center, random or pad", panel=DATA, choices=CROPS, metavar="NAME", chosen="center"
    )
    split: str | None = option(None, "Split: train, val, test or all", panel=DATA, metavar="NAME", chosen="train")
    use_classes: bool = option(
        True, "Ignore sub-folder names as classes", panel=DATA, flags=("no_classes", "--no-classes")
    )
    strict: bool = option(False, "Fail on the first unreadable image", panel=DATA)
    mirror: bool = option(False, "Augment with horizontal flips", panel=DATA)
    cache: str = option(
        "auto", "Keep decoded images: auto, disk or none", panel=DATA, choices=KEEP, metavar="NAME", recorded=False
    )
    preset: str | None = option(
        None, "Preset, see above", panel="Model", metavar="NAME", chosen="chosen from the device"
    )
    init_from: str | None = option(None, "Begin from a trained model of any size", panel="Model", metavar="NAME")
    images: int | None = option(None, "Train for this many images, such as 2M", panel=BUDGET, parse=parse_count)
    epochs: float | None = option(None, "Train for this many epochs", panel=BUDGET)
    minutes: float | None = option(None, "Train for this many minutes", panel=BUDGET, chosen="30; 120 on a GPU")
    output: Path | None = option(
        None, "Run folder", panel=RUN, flags=("--output", "-o"), metavar="PATH", chosen="runs/FAMILY"
    )
    resume: bool = option(False, "Resume the run in the run folder", panel=RUN)
    seed: int | None = option(None, "Random seed", panel=RUN, low=0, high=MAX_SEED, chosen="random, printed")
    save_minutes: float = option(2.0, "Minutes between checkpoints and previews", panel=RUN, low=0.0)
    evaluate_every: float | None = option(
        None, "Minutes between evaluations; keeps the best", panel=RUN, low=0.0, chosen="never"
    )
    tensorboard: bool = option(False, "Also log to TensorBoard (extra: log)", panel=RUN)
    precision: str = option(
        "auto", "Precision: fp32, bf16 or auto", panel=MACHINE, choices=("auto", "fp32", "bf16"), metavar="NAME"
    )
    overrides: dict[str, Any] = field(default_factory=dict)
    command: str = ""

    def __post_init__(self) -> None:
        """Check the values, those of the family's options, and that the family has the preset."""
        super().__post_init__()
        for item in options_of(family_config(self.family)):
            check_value(item, self.overrides.get(item.name))
        if self.preset is not None and self.preset not in presets(self.family):
            names = ", ".join(presets(self.family))
            raise UsageError(f"{self.family} has no preset '{self.preset}'", f"presets: {names}")

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.output if self.output is not None else Path("runs") / self.family


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
        super().__post_init__()


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


@dataclass(frozen=True, kw_only=True)
class InpaintOptions(ModelOptions):
    """The images to inpaint, their masks, and the method; `model` is None with the method "classical"."""

    model: str | None = argument(None, MODEL, metavar="MODEL")
    image: Path = option(REQUIRED, "Image, or folder of images", panel=IMAGES, metavar="PATH")
    count: int = option(1, "Results per image", panel=IMAGES, flags=("--count", "-n"), low=1)
    seed: int = option(0, "Seed of the first result", panel=IMAGES, low=0, high=MAX_SEED, chosen="random, printed")
    label: str | None = option(
        None, "Class name", panel=IMAGES, flags=("--class",), metavar="NAME", chosen="chosen by the model"
    )
    mask: Path | None = option(None, "Mask, white is inpainted; or folder of masks", panel=MASK, metavar="PATH")
    boxes: tuple[Box, ...] = option(
        (),
        "Inpaint this box; repeatable",
        panel=MASK,
        flags=("box", "--box"),
        metavar="X,Y,W,H",
        parse=parse_box,
        text=join_numbers,
    )
    from_alpha: bool = option(False, "Inpaint transparent pixels", panel=MASK, flags=("--mask-from-alpha",))
    expand: Box = option(
        (0, 0, 0, 0),
        "Outpaint by N pixels, or by L,T,R,B",
        panel=MASK,
        metavar="N",
        chosen="0",
        parse=parse_expand,
        text=join_numbers,
    )
    invert: bool = option(False, "Inpaint black in place of white", panel=MASK, flags=("--invert-mask",))
    resize_mask: bool = option(False, "Resize masks to their images", panel=MASK)
    grow: int = option(0, "Dilate the mask by N pixels", panel=MASK, low=0, high=4096)
    feather: int = option(0, "Blend over N pixels inside the mask", panel=MASK, low=0, high=4096)
    method: str = option(
        "model",
        "Method: model, or classical for scratches (an extra)",
        panel=METHOD,
        choices=("model", "classical"),
        metavar="NAME",
    )
    context: float = option(
        2.0, "Context, in widths of the mask, 1 or more; 0: all", panel=METHOD, low=0.0, high=1000.0
    )
    output: str = option(
        None,
        "File, folder/ or name-%05d.png",
        panel=OUTPUT,
        flags=("--output", "-o"),
        metavar="PATH",
        chosen="filled.png",
    )
    sheet: bool = option(False, "Write one image: input, mask, results", panel=OUTPUT)
    format: str | None = option(
        None,
        "Format in a folder: png, webp, tiff or jpeg",
        panel=OUTPUT,
        choices=("png", "webp", "tiff", "jpeg"),
        metavar="NAME",
        chosen="the input's",
        recorded=False,
    )

    def __post_init__(self) -> None:
        """Resolve the default of `output`, and check the values."""
        if self.output is None:
            into_folder = self.image.is_dir() and not self.sheet
            object.__setattr__(self, "output", "filled/" if into_folder else "filled.png")
        super().__post_init__()
        if 0 < self.context < 1:
            raise UsageError("--context must be at least 1, the width of the mask", "0 is the whole image")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ModelOptions):
    """One comparison of a model, or of a folder of images, with data."""

    model: str = argument(REQUIRED, "Model as for sample, or folder of images", metavar="MODEL")
    data: str = option(REQUIRED, "Data to compare with, as for train", panel=COMPARISON, metavar="DATA")
    count: int = option(10_000, "Images to generate", panel=COMPARISON, flags=("--count", "-n"), low=1)
    features: str | None = option(
        None,
        "Extractor's file, inception or inception:FILE",
        panel=COMPARISON,
        metavar="NAME",
        chosen="shipped",
    )
    size: int | None = option(None, "Side length, to compare two folders", panel=COMPARISON, low=1)
    crop: str = option("center", "Crop: center, random or pad", panel=COMPARISON, choices=CROPS, metavar="NAME")
    cache: str = option(
        "auto",
        "Keep decoded images: auto, disk or none",
        panel=COMPARISON,
        choices=KEEP,
        metavar="NAME",
        recorded=False,
    )
    iw: int | None = option(None, "Samples of the importance-weighted likelihood bound", panel=COMPARISON, low=1)
    seed: int = option(0, "First seed", panel=COMPARISON, low=0, high=MAX_SEED)
    output: Path | None = option(None, "HTML report", panel=COMPARISON, flags=("--output", "-o"), metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class InfoOptions:
    """The file, run or model that `imggen info` describes."""

    path: str = argument(REQUIRED, "Image, animation, checkpoint, run folder or model", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """What `imggen cache` does, and to which part of the cache. Raises UsageError."""

    action: str = argument("list", "list, prune or clear", metavar="ACTION")
    name: str | None = argument(None, "Only this data, by name or path", metavar="NAME")
    limit: SizeLimit | None = option(
        None,
        "Largest size, such as 50GB, 20% of the disk, or none",
        panel="Limit",
        metavar="SIZE",
        parse=parse_limit,
        chosen="20%",
    )

    def __post_init__(self) -> None:
        """Check the action, and that it takes a name."""
        if self.action not in CACHE_ACTIONS:
            raise UsageError(f"there is no action '{self.action}'", f"one of {', '.join(CACHE_ACTIONS)}")
        if self.action == "prune" and self.name is not None:
            raise UsageError("prune takes no name", f"imggen cache clear {self.name} removes what is named so")
