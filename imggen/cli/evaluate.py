"""imggen evaluate MODEL --data DATA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from imggen.cli.console import Console
from imggen.cli.options import (
    WHAT,
    Batch,
    Device,
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


@verb
def evaluate(
    model: Annotated[
        str,
        typer.Argument(help="A family, a run's folder, a checkpoint, or a folder of pictures.", metavar="MODEL"),
    ],
    data: Annotated[
        str, typer.Option(help="What the model was trained on, as for train.", rich_help_panel=WHAT, metavar="SOURCE")
    ],
    console: Console,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="Pictures to draw.", rich_help_panel=WHAT)
    ] = 10_000,
    features: Annotated[
        str | None,
        typer.Option(
            help="An extractor's file, inception, or inception:FILE (extra: eval); the one that comes along.",
            rich_help_panel=WHAT,
            metavar="NAME",
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side in pixels, of two folders.", rich_help_panel=WHAT)
    ] = None,
    crop: Annotated[str, typer.Option(help="center, random or pad.", rich_help_panel=WHAT, metavar="NAME")] = "center",
    temperature: Temperature = 1.0,
    steps: Steps = None,
    guidance: Guidance = None,
    top_k: TopK = None,
    top_p: TopP = None,
    iw: Annotated[
        int | None,
        typer.Option("--iw", min=1, help="Draws of an importance-weighted bound on the bits.", rich_help_panel=WHAT),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The first seed.", rich_help_panel=WHAT)] = 0,
    weights: Weights = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A report, report.html.", rich_help_panel=WHAT, metavar="FILE"),
    ] = None,
    batch: Batch = None,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Say how near a model's pictures are to the data's.

    Example: imggen evaluate gan --data ./imgs

    Example: imggen evaluate runs/cats --data ./imgs -n 2000 -o report.html

    Example: imggen evaluate vae --data ./imgs --iw 100

    Example: imggen evaluate ./drawn --data ./imgs --json
    """
    from imggen.engine import evaluation
    from imggen.engine.options import EvaluateOptions

    options = EvaluateOptions(
        model=model,
        data=data,
        count=count,
        features=features,
        size=size,
        crop=crop,
        temperature=temperature,
        **drawing(steps=steps, guidance=guidance, top_k=top_k, top_p=top_p),
        iw=iw,
        seed=seed,
        weights=weights,
        output=output,
        batch=batch,
        device=device,
        force=force,
    )
    result = evaluation.run(options, console)
    console.result(result, lines(result))


def lines(result: dict[str, Any]) -> list[str]:
    """The metrics, one per line, then the report's path."""
    from imggen.engine.evaluation.report import number

    head = f"{'':10} {'value':>9}  {'95 % interval':>19}  {'held-out':>9}"
    held_out = f"{result['held_out_count']:,} held-out images" if result["floor"] else "no held-out images"
    features = f"features {result['features']['name']} {result['features']['hash']}"
    table = [f"{result['count']:,} samples, {held_out}, {features}", head]
    for name, metric in result["metrics"].items():
        floor = result["floor"].get(name)
        interval = f"{number(metric['low'])} – {number(metric['high'])}"
        floor_value = number(floor["value"]) if floor else "–"
        table.append(f"{name:10} {number(metric['value']):>9}  {interval:>19}  {floor_value:>9}")
    return [*table, *layer_lines(result.get("layers", [])), *([result["report"]] if "report" in result else [])]


def layer_lines(layers: list[dict[str, Any]]) -> list[str]:
    """The information in each layer of latents, and which layers are unused."""
    if not layers:
        return []
    from imggen.engine.evaluation.report import number

    table = [f"{layer['name']:18} {number(layer['nats']):>9} nats" for layer in layers]
    unused = [layer["name"] for layer in layers if not layer["used"]]
    return [*table, f"unused layers: {', '.join(unused) or 'none'}"]
