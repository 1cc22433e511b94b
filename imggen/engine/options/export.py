"""The options of `imggen export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imggen.engine.options.shared import MODEL, OUTPUT
from imggen.option import GENERAL, REQUIRED, argument, check_values, option

NETWORK = "Network"
PARTS = ("images", "classes", "masks", "features")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """A model, which of its networks to export, and the file. Raises UsageError for values out of range."""

    model: str = argument(REQUIRED, MODEL, metavar="MODEL")
    weights: Path | None = option(None, "Checkpoint to load in place of MODEL's own", panel=NETWORK, metavar="FILE")
    part: str | None = option(
        None,
        "What it gives: images, classes, masks or features",
        panel=NETWORK,
        choices=PARTS,
        metavar="NAME",
        chosen="what the model is for",
    )
    output: str = option(
        "model.onnx", ".onnx, or .pt2 for PyTorch", panel=OUTPUT, flags=("--output", "-o"), metavar="FILE"
    )
    force: bool = option(False, "Overwrite an existing file", panel=GENERAL)

    def __post_init__(self) -> None:
        """Check the values."""
        check_values(self)
