"""The options of `imggen segment`, and those that `imggen train segment` has beside all others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imggen.engine.options.shared import DATA, IMAGES, MODEL, OUTPUT, VerbOptions
from imggen.engine.options.training import TrainOptions
from imggen.option import REQUIRED, argument, option

RESULT = "Result"


@dataclass(frozen=True, kw_only=True)
class TrainSegmentOptions(TrainOptions):
    """A training on images with masks; `mask_classes` names the classes of their values."""

    use_classes: bool = False  # no option: sub-folders mean nothing here
    masks: str = option(REQUIRED, "Masks of the same names: folder, .zip or .tar", panel=DATA, metavar="MASKS")
    mask_classes: str | None = option(
        None,
        "Names of classes: a,b,c or a file",
        panel=DATA,
        flags=("classes", "--classes"),
        metavar="NAMES",
        chosen="classes.txt",
    )
    void: str = option("auto", "Value of masks to ignore: auto, none or N", panel=DATA, metavar="N")
    lossy_masks: bool = option(False, "Take JPEG masks, by the nearest frequent value", panel=DATA)
    resize_masks: bool = option(False, "Resize masks to their images", panel=DATA)


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(VerbOptions):
    """Images to label pixel by pixel."""

    model: str = argument("segment", MODEL, metavar="MODEL")
    image: str = option(REQUIRED, "File, folder, .zip or .tar", panel=IMAGES, metavar="SOURCE")
    weights: Path | None = option(None, "Checkpoint to load in place of MODEL's own", panel=IMAGES, metavar="FILE")
    scale: float | None = option(
        None, "Resize images by this factor first", panel=IMAGES, low=1e-3, high=1e3, chosen="as in training"
    )
    overlay: bool = option(False, "Also write images with the classes' colors", panel=RESULT)
    probabilities: bool = option(False, "Also write the probability of each class", panel=RESULT)
    sheet: Path | None = option(None, "Also write one image of all: input, overlay, mask", panel=RESULT, metavar="FILE")
    output: str = option("segmented", "Folder for the masks", panel=OUTPUT, flags=("--output", "-o"), metavar="FOLDER")
