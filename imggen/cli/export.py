"""imggen export MODEL -o FILE."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console
from imggen.engine.options import ExportOptions


@verb(ExportOptions)
def export(console: Console, **given: Any) -> None:
    """Write a model's network as a file for other programs.

    Example: imggen export gan -o gan.onnx
    Example: imggen export vae --part features -o sees.onnx
    Example: imggen export runs/cats -o cats.pt2
    """
    from imggen.engine import export as engine

    result = engine.run(ExportOptions(**given), console)
    console.result(result, result["paths"])
