"""imggen inpaint MODEL."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Annotated

import typer

from imggen.cli.console import Console
from imggen.cli.options import (
    WHAT,
    Batch,
    Device,
    DryRun,
    Force,
    Guidance,
    Steps,
    Temperature,
    TopK,
    TopP,
    Weights,
    drawing,
    verb,
)
from imggen.errors import UsageError

HOLE, HOW, WHERE = "Hole", "How", "Where to"
FORMATS = ("png", "webp", "tiff", "jpeg")


def parse_box(text: str) -> tuple[int, int, int, int]:
    """X,Y,W,H in pixels from the upper left. Raises UsageError."""
    numbers = _numbers(text)
    if len(numbers) != 4 or not numbers[2] or not numbers[3]:
        raise UsageError(f"'{text}' is not a box", "X,Y,WIDTH,HEIGHT in pixels, such as 40,30,64,64")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def parse_expand(text: str) -> tuple[int, int, int, int]:
    """N, or LEFT,TOP,RIGHT,BOTTOM, in pixels. Raises UsageError."""
    numbers = _numbers(text)
    numbers = numbers * 4 if len(numbers) == 1 else numbers
    if len(numbers) != 4 or not any(numbers):
        raise UsageError(f"'{text}' does not say how far", "N pixels on every side, or LEFT,TOP,RIGHT,BOTTOM")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _numbers(text: str) -> list[int]:
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", text.replace(" ", "")):
        return []
    return [int(part) for part in text.replace(" ", "").split(",")]


@verb
def inpaint(
    console: Console,
    image: Annotated[
        Path, typer.Option(help="A picture, or a folder, searched through.", rich_help_panel=WHAT, metavar="PATH")
    ],
    model: Annotated[
        str | None, typer.Argument(help="A family, a run's folder or a checkpoint.", metavar="MODEL")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Fills of each.", rich_help_panel=WHAT)] = 1,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="Of the first fill; drawn and printed.", rich_help_panel=WHAT),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--class", help="A class; the model chooses.", rich_help_panel=WHAT, metavar="NAME")
    ] = None,
    temperature: Temperature = 1.0,
    steps: Steps = None,
    guidance: Guidance = None,
    top_k: TopK = None,
    top_p: TopP = None,
    weights: Weights = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="White is the hole; a file for all pictures, or a folder of the same names.",
            rich_help_panel=HOLE,
            metavar="PATH",
        ),
    ] = None,
    box: Annotated[
        list[str] | None, typer.Option(help="A hole; as often as you like.", rich_help_panel=HOLE, metavar="X,Y,W,H")
    ] = None,
    from_alpha: Annotated[
        bool, typer.Option("--mask-from-alpha", help="What is transparent is the hole.", rich_help_panel=HOLE)
    ] = False,
    expand: Annotated[
        str | None,
        typer.Option(help="Grow the picture by N, or L,T,R,B; what is new is hole.", rich_help_panel=HOLE, metavar="N"),
    ] = None,
    invert: Annotated[bool, typer.Option("--invert-mask", help="Black is the hole.", rich_help_panel=HOLE)] = False,
    resize_mask: Annotated[
        bool, typer.Option("--resize-mask", help="Fit masks of other sizes.", rich_help_panel=HOLE)
    ] = False,
    grow: Annotated[int, typer.Option(min=0, max=4096, help="Pixels wider.", rich_help_panel=HOLE)] = 0,
    feather: Annotated[
        int, typer.Option(min=0, max=4096, help="Fade in over N pixels, inside the hole.", rich_help_panel=HOLE)
    ] = 0,
    method: Annotated[
        str, typer.Option(help="model, or classical: thin scratches (extra).", rich_help_panel=HOW, metavar="NAME")
    ] = "model",
    context: Annotated[
        float,
        typer.Option(
            min=0.0, max=1000.0, help="What is looked at, in widths of the hole; 0: all.", rich_help_panel=HOW
        ),
    ] = 2.0,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", help="filled.png, name-%05d.png, or a folder/.", rich_help_panel=WHERE, metavar="PATH"
        ),
    ] = "",
    sheet: Annotated[
        bool, typer.Option("--sheet", help="One picture: original, hole, fills.", rich_help_panel=WHERE)
    ] = False,
    format: Annotated[
        str | None,
        typer.Option(help="png, webp, tiff or jpeg, in a folder; its own.", rich_help_panel=WHERE, metavar="NAME"),
    ] = None,
    batch: Batch = None,
    device: Device = "auto",
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Fill holes in pictures.

    Example: imggen inpaint gan --image x.png --mask m.png -o y.png

    Example: imggen inpaint gan --image x.png --box 8,8,16,16 -n 6 --sheet -o fills.png

    Example: imggen inpaint runs/cats --image photos/ --mask masks/ -o filled/

    Example: imggen inpaint --method classical --image scan.tif --mask scratches.png -o clean.tif
    """
    from imggen.engine.options import InpaintOptions

    if method not in ("model", "classical"):
        raise UsageError(f"there is no method '{method}'", "methods: model, classical")
    if method == "model" and model is None:
        raise UsageError("which model fills the hole?", "imggen inpaint MODEL …, or --method classical")
    if method == "classical" and (count > 1 or label is not None):
        raise UsageError("--method classical has one fill and no classes", "leave -n and --class out")
    settings = drawing(steps=steps, guidance=guidance, top_k=top_k, top_p=top_p)
    if method == "classical" and settings:
        raise UsageError("--method classical draws nothing", "leave --steps, --guidance, --top-k and --top-p out")
    if format is not None and format not in FORMATS:
        raise UsageError(f"there is no picture format '{format}'", f"formats: {', '.join(FORMATS)}")
    if not 0 <= temperature <= 2:
        raise UsageError("--temperature is between 0 and 2", "1 draws as trained, less is tamer")
    if context and context < 1:
        raise UsageError("--context is at least 1, the hole itself", "0 looks at the whole picture")
    drawn = seed is None and method == "model"
    options = InpaintOptions(
        model=model,
        image=image,
        output=output or ("filled/" if image.is_dir() and not sheet else "filled.png"),
        weights=weights,
        mask=mask,
        boxes=tuple(map(parse_box, box or ())),
        from_alpha=from_alpha,
        invert=invert,
        grow=grow,
        feather=feather,
        resize_mask=resize_mask,
        expand=(0, 0, 0, 0) if expand is None else parse_expand(expand),
        context=context,
        method=method,
        count=count,
        sheet=sheet,
        format=format,
        seed=secrets.randbelow(2**31) if drawn else seed or 0,
        label=label,
        temperature=temperature,
        **settings,
        batch=batch,
        device=device,
        force=force,
    )
    if drawn:
        console.info(f"seed {options.seed}")
    from imggen.engine import inpainting

    if dry_run:
        plan = inpainting.dry_run(options, console)
        images = plan.pop("images")
        lines = [f"{name:12} {value}" for name, value in plan.items()]
        lines += [
            f"{one['image']}: {one['masked_fraction']:.1%} masked, {one['tiles']} tiles, to {', '.join(one['paths'])}"
            for one in images
        ]
        console.result({**plan, "images": images}, lines)
        return
    result = inpainting.run(options, console)
    console.result(result, result["paths"])
