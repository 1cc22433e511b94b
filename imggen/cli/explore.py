"""imggen explore MODEL."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console
from imggen.engine.options import ExploreOptions


@verb(ExploreOptions)
def explore(console: Console, **given: Any) -> None:
    """Open a page to play with a model, or to watch a run.

    Example: imggen explore gan
    Example: imggen explore runs/cats --data ./imgs
    Example: imggen explore vae --port 8000 --no-open
    """
    from imggen.engine import explore as engine

    engine.run(ExploreOptions(**given), console, lambda url: console.result({"url": url}, [url]))
