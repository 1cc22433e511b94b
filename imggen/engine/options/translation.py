"""The options of `imggen translate`, and those that `imggen train translate` has beside all others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imggen.data.layout import is_image_file
from imggen.engine.options.shared import DATA, IMAGES, MAX_SEED, MODEL, OUTPUT, VerbOptions
from imggen.engine.options.training import TrainOptions
from imggen.models.mapper.translate.config import PRESETS
from imggen.option import REQUIRED, argument, option

NEED_PAIRS = ("paired", "l1_only", "noise")  # --paired, and the options that cannot be without it


@dataclass(frozen=True, kw_only=True)
class TrainTranslateOptions(TrainOptions):
    """A training on two sets of images: `data` are translated into images like those of `to`."""

    use_classes: bool = False  # no option: sub-folders mean nothing here
    data: str = option(
        REQUIRED, "Images to translate: folder, .zip or .tar", panel=DATA, flags=("--from",), metavar="A"
    )
    to: str = option(REQUIRED, "Images as the results should be", panel=DATA, metavar="B")
    to_channels: int | None = option(
        None, "Channels of the results", panel=DATA, choices=(1, 3, 4), chosen="chosen from --to"
    )

    def __post_init__(self) -> None:
        """Check also that pairs are given to what needs them, before any image is read."""
        super().__post_init__()
        if not self.resume:
            own = {name: self.overrides[name] for name in NEED_PAIRS if name in self.overrides}
            PRESETS["tiny"].with_overrides(**own)


@dataclass(frozen=True, kw_only=True)
class TranslateOptions(VerbOptions):
    """Images to translate."""

    model: str = argument("translate", MODEL, metavar="MODEL")
    image: str = option(REQUIRED, "File, folder, .zip or .tar", panel=IMAGES, metavar="SOURCE")
    weights: Path | None = option(None, "Checkpoint to load in place of MODEL's own", panel=IMAGES, metavar="FILE")
    count: int = option(
        1, "Results per image, of a model with noise", panel=IMAGES, flags=("--count", "-n"), low=1, high=10_000
    )
    seed: int = option(0, "Seed of the first result's noise", panel=IMAGES, low=0, high=MAX_SEED)
    strength: float = option(1.0, "0 keeps the image as it is, 1 is all of the model", panel=IMAGES, low=0, high=1)
    scale: float | None = option(
        None, "Resize images by this factor first", panel=IMAGES, low=1e-3, high=1e3, chosen="as in training"
    )
    output: str = option(
        None, "File, or folder/", panel=OUTPUT, flags=("--output", "-o"), metavar="PATH", chosen="translated.png"
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
        """Resolve the default of `output`, and check the values."""
        if self.output is None:
            object.__setattr__(self, "output", "translated/" if self.takes_several else "translated.png")
        super().__post_init__()

    @property
    def takes_several(self) -> bool:
        """Whether `image` may be several images: a folder, or an archive."""
        return not is_image_file(self.image)
