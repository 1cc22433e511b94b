"""imggen embed MODEL --image SOURCE."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console
from imggen.engine.options import EmbedOptions


@verb(EmbedOptions)
def embed(console: Console, **given: Any) -> None:
    """Turn images into vectors, to compare them by.

    Example: imggen embed vae --image ./imgs
    Example: imggen embed --features pretrained --image ./photos
    Example: imggen embed runs/cats --image ./imgs -o cats.npz
    """
    from imggen.engine import recognition

    result = recognition.run_embed(EmbedOptions(**given), console)
    console.result(result, result["paths"])
