"""The options of `imggen train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imggen.data.choices import CROPS, KEEP
from imggen.engine.options.shared import (
    BUDGET,
    DATA,
    MACHINE,
    MAX_SEED,
    RUN,
    MachineOptions,
)
from imggen.errors import UsageError
from imggen.models import family_config, presets
from imggen.option import (
    REQUIRED,
    check_value,
    option,
    options_of,
    parse_count,
)


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
    author: str | None = option(None, "Who made the images: kept in the model", panel=RUN, metavar="TEXT")
    license: str | None = option(None, "License of the images: kept in the model", panel=RUN, metavar="TEXT")
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
class TrainClassifyOptions(TrainOptions):
    """A training that learns the classes, so these cannot be ignored."""

    use_classes: bool = True  # no option
