"""imggen info FILE and imggen models: what a file is, and which models there are."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console, printable
from imggen.engine.options import InfoOptions

MAX_INDENT_LEVELS = 12


@verb(InfoOptions)
def info(console: Console, **given: Any) -> None:
    """Print how an image was made, or what a checkpoint holds.

    Example: imggen info grid.png
    Example: imggen info runs/gan
    Example: imggen info gan
    """
    from imggen.engine.info import describe_model_or_file

    description = describe_model_or_file(InfoOptions(**given).path)
    console.result(description, _lines(description))


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
    console.result(listing, [printable(line) for line in lines])


def _model_line(model: dict[str, Any]) -> str:
    if "damaged" in model:
        return f"{model['name']:20} {model['damaged']}"
    classes = f", {model['classes']} classes" if model["classes"] else ""
    kind = f"{model['family']}/{model['preset']}, {model['size']} px{classes}"
    return f"{model['name']:20} {kind}, {model['bytes'] / 1e6:.1f} MB, {model['hash']}"


def _lines(description: dict[str, Any]) -> list[str]:
    """One line a value, objects indented; in time proportional to the text, however deep the objects are."""
    lines: list[str] = []
    pending = [(name, value, 0) for name, value in reversed(description.items())]
    while pending:
        name, value, level = pending.pop()
        indent = "  " * min(level, MAX_INDENT_LEVELS)
        if isinstance(value, dict):
            lines.append(f"{indent}{name}:")
            pending += [(inner, each, level + 1) for inner, each in reversed(value.items())]
        elif isinstance(value, list):
            lines.append(f"{indent}{name:14} {', '.join(map(str, value)) or 'none'}")
        else:
            lines.append(f"{indent}{name:14} {value}")
    return [printable(line) for line in lines]
