"""The options of `imggen explore`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imggen.engine.options.shared import DATA, MACHINE, MODEL
from imggen.models.config import SAMPLING
from imggen.option import REQUIRED, argument, check_values, option

PAGE = "Page"
LOCAL = "127.0.0.1"
MAX_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class ExploreOptions:
    """A model or a run, and the address of the page on it. Raises UsageError for values out of range."""

    model: str = argument(REQUIRED, MODEL, metavar="MODEL")
    weights: Path | None = option(None, "Checkpoint to load in place of MODEL's own", panel=SAMPLING, metavar="FILE")
    data: str | None = option(
        None, "Images to find similar ones in: folder, .zip or .tar", panel=DATA, metavar="DATA", chosen="none"
    )
    port: int | None = option(
        None, "Port of the page; 0: any free one", panel=PAGE, low=0, high=MAX_PORT, chosen="a free one from 7860 on"
    )
    host: str = option(LOCAL, "Address; others may then use the page", panel=PAGE, metavar="ADDRESS")
    opens_browser: bool = option(True, "Do not open a browser", panel=PAGE, flags=("open", "--no-open"))
    device: str = option("auto", "Device: cpu, cuda, cuda:1, mps or auto", panel=MACHINE, metavar="NAME")

    def __post_init__(self) -> None:
        """Check the values."""
        check_values(self)
