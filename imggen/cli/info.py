"""imggen info FILE."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import NAME_WIDTH, Console
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
    console.result(description, text=_lines(description))


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
            lines.append(f"{indent}{name:{NAME_WIDTH}} {', '.join(map(str, value)) or 'none'}")
        else:
            lines.append(f"{indent}{name:{NAME_WIDTH}} {value}")
    return lines
