"""imggen classify [MODEL] --image SOURCE."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console
from imggen.engine.options import ClassifyOptions


@verb(ClassifyOptions)
def classify(console: Console, **given: Any) -> None:
    """Label images by the classes of a model.

    Example: imggen classify vae --image ./scans -o labels.csv
    Example: imggen classify --image ./imgs
    Example: imggen classify runs/flowers --image x.png --top 3
    """
    from imggen.engine import recognition

    result = recognition.run_classify(ClassifyOptions(**given), console)
    lines = result.pop("csv", None)
    console.result(result, result["paths"] if lines is None else lines)
