"""imggen interpolate MODEL."""

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
    Precision,
    Steps,
    Temperature,
    TopK,
    TopP,
    Weights,
    drawing,
    verb,
)
from imggen.errors import UsageError

WAY, WHERE = "Way", "Where to"


def parse_grid(text: str) -> tuple[int, int]:
    """4x2 → (4, 2). Raises UsageError."""
    found = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", text.strip().lower())
    if not found:
        raise UsageError(f"'{text}' is not a grid", "columns x rows, such as 4x2")
    return int(found[1]), int(found[2])


@verb
def interpolate(
    model: Annotated[str, typer.Argument(help="A family, a run's folder or a checkpoint.", metavar="MODEL")],
    console: Console,
    seeds: Annotated[
        str | None,
        typer.Option(help="Walk through these, such as 3,14,15; four.", rich_help_panel=WHAT, metavar="LIST"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="The first of four; drawn and printed.", rich_help_panel=WHAT),
    ] = None,
    start: Annotated[
        list[Path] | None,
        typer.Option("--from", help="A picture or a folder; as often as you like.", rich_help_panel=WHAT, metavar="P"),
    ] = None,
    end: Annotated[
        list[Path] | None, typer.Option("--to", help="And on to these.", rich_help_panel=WHAT, metavar="P")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--class", help="One class all the way.", rich_help_panel=WHAT, metavar="NAME")
    ] = None,
    label_from: Annotated[
        str | None, typer.Option("--class-from", help="From this class …", rich_help_panel=WHAT, metavar="NAME")
    ] = None,
    label_to: Annotated[
        str | None, typer.Option("--class-to", help="… to this one.", rich_help_panel=WHAT, metavar="NAME")
    ] = None,
    temperature: Temperature = 1.0,
    steps: Steps = None,
    guidance: Guidance = None,
    top_k: TopK = None,
    top_p: TopP = None,
    weights: Weights = None,
    path: Annotated[
        str | None,
        typer.Option(
            help="slerp (arcs), spline (no corners) or circle (two keys); slerp, spline with --loop.",
            rich_help_panel=WAY,
            metavar="NAME",
        ),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="And back to the first.", rich_help_panel=WAY)] = False,
    ease: Annotated[
        str, typer.Option(help="none, sine or cubic: slow at the keys.", rich_help_panel=WAY, metavar="NAME")
    ] = "none",
    pace: Annotated[
        str, typer.Option(help="noise, or perceptual: steps look alike.", rich_help_panel=WAY, metavar="NAME")
    ] = "noise",
    steady: Annotated[
        bool,
        typer.Option(
            "--steady", help="The first one's details all the way; families with layers.", rich_help_panel=WAY
        ),
    ] = False,
    frames: Annotated[int | None, typer.Option(min=2, help="In all; 40 from key to key.", rich_help_panel=WAY)] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="walk.gif, .webp, .png (animated), .mp4 (extra: video), or a folder/ of frames.",
            rich_help_panel=WHERE,
            metavar="PATH",
        ),
    ] = "walk.gif",
    fps: Annotated[float, typer.Option(min=0.1, max=1000.0, help="Frames a second.", rich_help_panel=WHERE)] = 25.0,
    grid: Annotated[
        str, typer.Option(help="Walks side by side, as 4x2; they share the keys.", rich_help_panel=WHERE, metavar="CxR")
    ] = "1x1",
    strip: Annotated[bool, typer.Option("--strip", help="All frames on one picture.", rich_help_panel=WHERE)] = False,
    zoom: Annotated[int, typer.Option(min=1, max=64, help="Pixels this large.", rich_help_panel=WHERE)] = 1,
    batch: Batch = None,
    device: Device = "auto",
    precision: Precision = "auto",
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Walk from picture to picture.

    Example: imggen interpolate gan --seeds 3,14,15 --frames 120 --loop -o walk.gif

    Example: imggen interpolate gan --from a.png --to b.png -o walk.webp

    Example: imggen interpolate gan --seeds 0-31 --grid 4x2 --class 3 -o walks.mp4

    Example: imggen interpolate gan --class-from 3 --class-to 8 --strip -o strip.png
    """
    from imggen.engine.options import InterpolateOptions
    from imggen.engine.seeds import parse_seeds

    if seeds is not None:
        if seed is not None:
            raise UsageError("--seeds says it all: --seed does not go with it", "--seeds 3-6 is --seed 3")
        parse_seeds(seeds)
    if (start or end) and (seeds is not None or seed is not None):
        raise UsageError("a walk goes through seeds or through pictures", "leave --seeds, or --from and --to, out")
    if (label_from is None) != (label_to is None):
        raise UsageError("--class-from and --class-to go together", "--class is one class all the way")
    if label is not None and label_from is not None:
        raise UsageError("--class is one class all the way", "leave it out, or --class-from and --class-to")
    known = (("path", path, ("slerp", "spline", "circle")), ("ease", ease, ("none", "sine", "cubic")))
    for name, value, names in (*known, ("pace", pace, ("noise", "perceptual"))):
        if value is not None and value not in names:
            raise UsageError(f"there is no {name} '{value}'", f"--{name} is one of {', '.join(names)}")
    drawn = seeds is None and seed is None and not start and not end
    options = InterpolateOptions(
        model=model,
        output=output,
        weights=weights,
        seeds=seeds,
        seed=secrets.randbelow(2**31) if drawn else seed,
        start=tuple(start or ()),
        end=tuple(end or ()),
        label=label,
        label_from=label_from,
        label_to=label_to,
        temperature=temperature,
        **drawing(steps=steps, guidance=guidance, top_k=top_k, top_p=top_p),
        path=path,
        loop=loop,
        ease=ease,
        pace=pace,
        steady=steady,
        frames=frames,
        fps=fps,
        grid=parse_grid(grid),
        strip=strip,
        zoom=zoom,
        batch=batch,
        device=device,
        precision=precision,
        force=force,
    )
    if drawn:
        console.info(f"seed {options.seed}")
    from imggen.engine import interpolation

    if dry_run:
        plan = interpolation.dry_run(options, console)
        console.result(plan, [f"{name:12} {value}" for name, value in plan.items()])
        return
    result = interpolation.run(options, console)
    far = result["steps"]
    closing = f", the closing one {far['closing']:.1f}" if "closing" in far else ""
    if far:
        console.info(
            f"{result['frames']} frames; the median step is {far['median']:.1f} levels, "
            f"the largest {far['largest']:.1f}{closing}"
        )
    console.result(result, result["paths"])
