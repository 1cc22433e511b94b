"""imggen stylize --content IMAGE --style IMAGE."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console
from imggen.engine.options import StylizeOptions


@verb(StylizeOptions)
def stylize(console: Console, *, dry_run: bool, **given: Any) -> None:
    """Draw images in the style of others; needs no trained model.

    Example: imggen stylize --content x.png --style painting.jpg -o y.png
    Example: imggen stylize --content x.png --style a.png --style b.png --blend 3,7 -o y.png
    Example: imggen stylize --content photos/ --style painting.jpg --method color -o colored/
    """
    from imggen.engine import mapping

    options = StylizeOptions(**given)
    if dry_run:
        console.settings(mapping.dry_run_stylize(options, console))
        return
    result = mapping.run_stylize(options, console)
    console.result(result, result["paths"])
