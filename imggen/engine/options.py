"""What the verbs are asked to do; no torch, so that the command line may build it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
class SampleOptions:
    """One drawing of pictures; None means: choose."""

    model: str
    output: str
    weights: Path | None = None
    count: int = 64
    seeds: str | None = None
    seed: int | None = None
    label: str | None = None
    temperature: float = 1.0
    batch: int | None = None
    device: str = "auto"
    precision: str = "auto"
    columns: int | None = None
    format: str | None = None
    force: bool = False
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """One comparison of a model, or of a folder of pictures, with data; None means: choose."""

    model: str
    data: str
    weights: Path | None = None
    count: int = 10_000
    features: str | None = None
    size: int | None = None
    crop: str = "center"
    temperature: float = 1.0
    seed: int = 0
    batch: int | None = None
    device: str = "auto"
    output: Path | None = None
    force: bool = False
