"""imggen info FILE and imggen models: what is this, and what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from imggen.cli.console import Console, printable
from imggen.cli.options import verb


@verb
def info(
    path: Annotated[Path, typer.Argument(help="A picture, a checkpoint or a run's folder.", metavar="FILE")],
    console: Console,
) -> None:
    """Say how a picture was drawn, or what a checkpoint holds.

    Example: imggen info grid.png

    Example: imggen info runs/gan
    """
    from imggen.engine.info import describe_file

    found = describe_file(path)
    console.result(found, _lines(found))


@verb
def models(console: Console) -> None:
    """List families, presets, shipped weights and the runs below ./runs.

    Example: imggen models --json
    """
    from imggen.engine.info import list_models

    found = list_models()
    lines = [f"{family}/{name:8} {text}" for family, names in found["families"].items() for name, text in names.items()]
    for kind in ("shipped", "runs"):
        lines += [f"{kind}:"] if found[kind] else []
        for line in found[kind]:
            if "damaged" in line:
                lines.append(f"  {line['name']:20} {line['damaged']}")
                continue
            classes = f", {line['classes']} classes" if line["classes"] else ""
            lines.append(
                f"  {line['name']:20} {line['family']}/{line['preset']}, {line['size']} px{classes}, "
                f"{line['bytes'] / 1e6:.1f} MB, {line['hash']}"
            )
    console.result(found, [printable(line) for line in lines])


def _lines(found: dict[str, Any], indent: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in found.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list):
            lines.append(f"{indent}{name:14} {', '.join(map(str, value)) or 'none'}")
        else:
            lines.append(f"{indent}{name:14} {value}")
    return [printable(line) for line in lines]
