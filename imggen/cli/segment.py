"""imggen segment [MODEL] --image SOURCE."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console
from imggen.engine.options import SegmentOptions


@verb(SegmentOptions)
def segment(console: Console, **given: Any) -> None:
    """Label every pixel of images by the classes of a model.

    Example: imggen segment --image ./photos -o masks/
    Example: imggen segment runs/cells --image x.png -o masks/ --overlay
    """
    from imggen.engine import mapping

    result = mapping.run_segment(SegmentOptions(**given), console)
    console.result(result, result["paths"])
