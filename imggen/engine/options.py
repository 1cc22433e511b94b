"""What the verbs are asked to do; no torch, so that the command line may build it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imggen.models.config import SamplingOptions


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model to use, where, and how to sample from it."""

    weights: Path | None = None
    temperature: float = 1.0
    steps: int | None = None
    guidance: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    batch: int | None = None
    device: str = "auto"

    @property
    def sampling(self) -> SamplingOptions:
        """The options that the model needs. Raises UsageError for a value out of range."""
        return SamplingOptions(self.temperature, self.steps, self.guidance, self.top_k, self.top_p)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """One training run; None means: choose from the data and the device."""

    family: str
    data: str
    output: Path | None = None
    preset: str | None = None
    images: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    size: int | None = None
    channels: int | None = None
    crop: str | None = None
    split: str | None = None
    use_classes: bool = True
    strict: bool = False
    mirror: bool = False
    batch: int | None = None
    seed: int | None = None
    device: str = "auto"
    precision: str = "auto"
    save_minutes: float = 2.0
    evaluate_every: float | None = None
    resume: bool = False
    force: bool = False
    tensorboard: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)
    command: str = ""

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.output if self.output is not None else Path("runs") / self.family


@dataclass(frozen=True, kw_only=True)
class SampleOptions(ModelOptions):
    """One drawing of pictures; None means: choose."""

    model: str
    output: str
    count: int = 64
    seeds: str | None = None
    seed: int | None = None
    label: str | None = None
    precision: str = "auto"
    columns: int | None = None
    format: str | None = None
    force: bool = False
    resume: bool = False
    source: Path | None = None
    near: Path | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ModelOptions):
    """One comparison of a model, or of a folder of pictures, with data; None means: choose."""

    model: str
    data: str
    count: int = 10_000
    features: str | None = None
    size: int | None = None
    crop: str = "center"
    iw: int | None = None
    seed: int = 0
    output: Path | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class InterpolateOptions(ModelOptions):
    """One walk, or several side by side; None means: choose. Keys are `seeds`, or the pictures `start` and `end`."""

    model: str
    output: str
    seeds: str | None = None
    seed: int | None = None
    start: tuple[Path, ...] = ()
    end: tuple[Path, ...] = ()
    label: str | None = None
    label_from: str | None = None
    label_to: str | None = None
    path: str | None = None
    loop: bool = False
    ease: str = "none"
    pace: str = "noise"
    steady: bool = False
    frames: int | None = None
    fps: float = 25.0
    grid: tuple[int, int] = (1, 1)
    strip: bool = False
    zoom: int = 1
    precision: str = "auto"
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class InpaintOptions(ModelOptions):
    """Holes to fill in one picture or in a folder of them; None means: choose."""

    image: Path
    output: str
    model: str | None = None
    mask: Path | None = None
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    from_alpha: bool = False
    invert: bool = False
    grow: int = 0
    feather: int = 0
    resize_mask: bool = False
    expand: tuple[int, int, int, int] = (0, 0, 0, 0)
    context: float = 2.0
    method: str = "model"
    count: int = 1
    sheet: bool = False
    format: str | None = None
    seed: int = 0
    label: str | None = None
    force: bool = False
