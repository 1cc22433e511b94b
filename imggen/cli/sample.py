"""imggen sample MODEL."""

from __future__ import annotations

import os
import secrets
import sys
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
    TopK,
    TopP,
    Weights,
    drawing,
    verb,
)
from imggen.errors import UsageError

WHERE = "Where to"
NEAR = 0.5  # the temperature of --near


@verb
def sample(
    model: Annotated[str, typer.Argument(help="A family, a run's folder or a checkpoint.", metavar="MODEL")],
    console: Console,
    count: Annotated[
        int | None, typer.Option("-n", "--count", min=1, help="How many; 64.", rich_help_panel=WHAT)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="The first seed; drawn and printed.", rich_help_panel=WHAT)
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds such as 0-63,70.", rich_help_panel=WHAT, metavar="LIST")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--class", help="A class by name, or all, a row each.", rich_help_panel=WHAT, metavar="NAME"),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, max=2.0, help="Below 1: tamer, or nearer, pictures; 1, near 0.5.", rich_help_panel=WHAT),
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    top_k: TopK = None,
    top_p: TopP = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Pictures to reconstruct, side by side with them.", rich_help_panel=WHAT, metavar="PATH"
        ),
    ] = None,
    near: Annotated[
        Path | None, typer.Option(help="A picture to draw near to.", rich_help_panel=WHAT, metavar="FILE")
    ] = None,
    weights: Weights = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            rich_help_panel=WHERE,
            metavar="PATH",
            help="grid.png, folder/, name-%05d.png, or - for PNG bytes on stdout; samples.png.",
        ),
    ] = None,
    columns: Annotated[int | None, typer.Option(min=1, help="Of a grid.", rich_help_panel=WHERE)] = None,
    format: Annotated[
        str | None,
        typer.Option(help="png, jpeg or webp, in a folder or on stdout.", rich_help_panel=WHERE, metavar="NAME"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Draw only what a folder lacks.", rich_help_panel=WHERE)
    ] = False,
    batch: Batch = None,
    device: Device = "auto",
    precision: Precision = "auto",
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Draw pictures.

    Example: imggen sample gan -n 64 -o grid.png

    Example: imggen sample gan --class all -n 80 -o classes.png

    Example: imggen sample runs/cats --seed 7 -n 1000 -o pictures/

    Example: imggen sample gan --seeds 3,8,20-29 -o pick-%05d.png

    Example: imggen sample vae --from pictures/ -o side-by-side.png

    Example: imggen sample vae --near x.png --temperature 0.5 -n 16 -o near.png
    """
    from imggen.engine.options import SampleOptions
    from imggen.engine.seeds import parse_seeds

    if seeds is not None:
        if seed is not None or count is not None:
            raise UsageError("--seeds says it all: --seed and -n do not go with it", "--seeds 0-63 is --seed 0 -n 64")
        parse_seeds(seeds)
    if format not in (None, "png", "jpeg", "webp"):
        raise UsageError(f"there is no picture format '{format}'", "formats: png, jpeg, webp")
    if format is not None and output not in (None, "-") and Path(str(output)).suffix and not str(output).endswith("/"):
        raise UsageError("the name's ending is the format", "--format is for folders and stdout")
    if output == "-" and console.as_json:
        raise UsageError("stdout cannot take the picture and JSON", "give one of them a file: -o grid.png")
    if source is not None and (near is not None or seeds is not None or seed is not None or temperature is not None):
        raise UsageError("--from draws nothing: --near, seeds and --temperature do not go with it", "leave them out")
    drawn = seeds is None and seed is None and source is None
    if drawn and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("several processes must agree on the seeds", "give --seed or --seeds")
    options = SampleOptions(
        model=model,
        output=output or f"samples.{format or 'png'}",
        weights=weights,
        count=count or 64,
        seeds=seeds,
        seed=secrets.randbelow(2**31) if drawn else seed,
        label=label,
        temperature=temperature if temperature is not None else 1.0 if near is None else NEAR,
        **drawing(steps=steps, guidance=guidance, top_k=top_k, top_p=top_p),
        batch=batch,
        device=device,
        precision=precision,
        columns=columns,
        format=format,
        force=force,
        resume=resume,
        source=source,
        near=near,
    )
    if drawn:
        console.info(f"seed {options.seed}")
    from imggen.engine import sampling

    if dry_run:
        plan = sampling.dry_run(options, console)
        console.result(plan, [f"{name:12} {value}" for name, value in plan.items()])
        return
    result = sampling.run(options, console)
    if (picture := result.pop("png", None)) is not None:
        sys.stdout.buffer.write(picture)
        sys.stdout.buffer.flush()
        return
    console.result(result, result["paths"])
