"""imggen models."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console


@verb(None)
def models(console: Console) -> None:
    """List families, presets, shipped models and your runs.

    Example: imggen models
    Example: imggen models --json
    """
    from imggen.engine.info import list_models

    listing = list_models()
    lines = [
        f"{family + '/' + name:20} {text}"
        for family, names in listing["families"].items()
        for name, text in names.items()
    ]
    for kind in ("shipped", "runs"):
        lines += [f"{kind}:"] if listing[kind] else []
        lines += ["  " + _model_line(model) for model in listing[kind]]
    console.result(listing, text=lines)


def _model_line(model: dict[str, Any]) -> str:
    if "damaged" in model:
        return f"{model['name']:20} {model['damaged']}"
    classes = f", {model['classes']} classes" if model["classes"] else ""
    kind = f"{model['family']}/{model['preset']}, {model['size']} px{classes}"
    return f"{model['name']:20} {kind}, {model['bytes'] / 1e6:.1f} MB, {model['hash']}"
