"""The options of `imggen evaluate`, `imggen info` and `imggen cache`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imggen.data.choices import CROPS, KEEP
from imggen.engine.options.shared import (
    CACHE_ACTIONS,
    COMPARISON,
    MAX_SEED,
    ModelOptions,
)
from imggen.errors import UsageError
from imggen.option import (
    REQUIRED,
    SizeLimit,
    argument,
    option,
    parse_limit,
)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ModelOptions):
    """One comparison of a model, or of a folder of images, with data; `masks` are the true classes of its pixels."""

    model: str = argument(REQUIRED, "Model as for sample, or folder of images", metavar="MODEL")
    data: str = option(REQUIRED, "Data to compare with, as for train", panel=COMPARISON, metavar="DATA")
    masks: str | None = option(None, "Masks of DATA, for a segmentation model", panel=COMPARISON, metavar="MASKS")
    count: int = option(10_000, "Images to generate, or to label", panel=COMPARISON, flags=("--count", "-n"), low=1)
    features: str | None = option(
        None,
        "pretrained, inception, inception:FILE or a file",
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
