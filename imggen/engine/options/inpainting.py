"""The options of `imggen inpaint`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imggen.engine.options.shared import (
    IMAGES,
    MASK,
    MAX_SEED,
    METHOD,
    MODEL,
    OUTPUT,
    ModelOptions,
)
from imggen.errors import UsageError
from imggen.option import (
    REQUIRED,
    Box,
    argument,
    join_numbers,
    option,
    parse_box,
    parse_expand,
)


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
