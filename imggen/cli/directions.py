"""imggen directions MODEL."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console
from imggen.engine.options import DirectionsOptions


@verb(DirectionsOptions)
def directions(console: Console, **given: Any) -> None:
    """List what a model's noise changes, for sample --direction.

    Example: imggen directions vae
    Example: imggen directions vae --seed 3 --class south -o directions.png
    Example: imggen sample vae --direction 1=2 -o tall.png
    """
    from imggen.engine import direction_sheet

    result = direction_sheet.run(DirectionsOptions(**given), console)
    for path in result["paths"]:  # not on stdout, which has the list
        console.info(f"wrote {path}")
    console.result(result, text=_lines(result["directions"]))


def _lines(listing: list[dict[str, Any]]) -> list[str]:
    """A line for each: its number, its share of the variance of small images, and its name with the correlation."""
    lines = [f"{'':3}{'share':>6}  {'more of':32} correlation"]
    for each in listing:
        named = f"{each['name']:32} {each['correlation']:.2f}" if each["name"] else "-"
        lines.append(f"{each['number']:2} {each['share']:6.1%}  {named}")
    return lines
