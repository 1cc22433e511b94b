"""What the options of several verbs share: headings of the help, limits, the machine and the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imggen.models.config import SAMPLING, SamplingOptions
from imggen.option import GENERAL, check_values, option

DATA, BUDGET, RUN, MACHINE = "Data", "Budget", "Run", "Machine"
IMAGES, KEYFRAMES, PATH, MASK, METHOD, OUTPUT = "Images", "Keyframes", "Path", "Mask", "Method", "Output"
COMPARISON = "Comparison"

MAX_SEED = 2**63 - 1
MAX_DIRECTIONS = 8  # of a model
MAX_DIRECTION_VALUE = 5.0  # in standard deviations
NEAR_TEMPERATURE = 0.5  # the default of --near
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
CACHE_ACTIONS = ("list", "prune", "clear")
MODEL = "Family, shipped model, run folder or checkpoint"


@dataclass(frozen=True, kw_only=True)
class VerbOptions:
    """The options of every verb. Raises UsageError for values out of range."""

    device: str = option(
        "auto", "Device: cpu, cuda, cuda:1, mps or auto", panel=MACHINE, metavar="NAME", recorded=False
    )
    force: bool = option(False, "Overwrite existing files", panel=GENERAL, recorded=False)

    def __post_init__(self) -> None:
        """Check the values."""
        check_values(self)


@dataclass(frozen=True, kw_only=True)
class MachineOptions(VerbOptions):
    """The options of every verb that works on batches of images."""

    batch: int | None = option(
        None, "Batch size", panel=MACHINE, low=1, chosen="chosen from the device", recorded=False
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions(SamplingOptions, MachineOptions):
    """Which model to use, on which device, and how to sample from it."""

    weights: Path | None = option(None, "Checkpoint to load in place of MODEL's own", panel=SAMPLING, metavar="FILE")

    @property
    def sampling(self) -> SamplingOptions:
        """The sampling options alone, as the model takes them."""
        return SamplingOptions(self.temperature, self.steps, self.guidance, self.top_k, self.top_p)
