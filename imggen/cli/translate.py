"""imggen translate [MODEL] --image SOURCE."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console
from imggen.engine.options import TranslateOptions


@verb(TranslateOptions)
def translate(console: Console, **given: Any) -> None:
    """Turn images into those of another kind by a model.

    Example: imggen translate --image ./photos -o translated/
    Example: imggen translate runs/day2night --image x.jpg -o night.jpg
    """
    from imggen.engine import mapping

    result = mapping.run_translate(TranslateOptions(**given), console)
    console.result(result, result["paths"])
