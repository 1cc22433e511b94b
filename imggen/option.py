"""How an option is declared: a dataclass field with its help, for verbs (engine/options.py) and families (models/).

Everything else follows from the field: the command line's flag, the `--config` key, the environment name, the check of
its value, and the command that is recorded in files. Nothing here imports torch, numpy or PIL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from imggen.errors import UsageError

REQUIRED = MISSING


@dataclass(frozen=True)
class Option:
    """The metadata of a field made by `option` or `argument`; see `option` for the meaning of each part."""

    help: str
    flags: tuple[str, ...] = ()
    panel: str = "Model"
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    metavar: str | None = None
    chosen: str | None = None
    parse: Callable[[str], Any] | None = None
    text: Callable[[Any], str] = str
    recorded: bool = True
    is_argument: bool = False


def option(
    default: Any,
    help: str,
    *,
    flags: Sequence[str] = (),
    panel: str = "Model",
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Any] = (),
    metavar: str | None = None,
    chosen: str | None = None,
    parse: Callable[[str], Any] | None = None,
    text: Callable[[Any], str] = str,
    recorded: bool = True,
) -> Any:
    """A dataclass field that is also a command-line option.

    default: the value if the option is not given; REQUIRED if it must be.
    help: one line, without its default and without a final period.
    flags: such as ("--count", "-n"); by default the field's name. A word without dashes names the parameter (the
        `--config` key and the end of the environment name) where that is not the field's name. A flag "--no-x" of a
        field that is true by default switches it off.
    panel: the heading under which help shows the option.
    low, high: smallest and largest value. choices: the only values. `check_values` holds all three.
    metavar: what help shows for the value; "N" for numbers by default.
    chosen: the text that help shows as the default, where the value depends on the data, the device or other options.
    parse: reads the value from the command line; of a tuple, each of its values. Raises UsageError.
    text: the inverse of `parse`.
    recorded: whether the value influences the result and is therefore part of the command recorded in files.
    """
    declared = Option(
        help, tuple(flags), panel, low, high, tuple(choices), metavar, chosen, parse, text, recorded, False
    )
    return field(default=default, metadata={"option": declared})


def argument(default: Any, help: str, *, metavar: str) -> Any:
    """A dataclass field that is a positional argument of the command line."""
    return field(default=default, metadata={"option": Option(help, metavar=metavar, is_argument=True)})


def options_of(declaring: Any) -> dict[Field[Any], Option]:
    """The fields of a dataclass, or of an instance, that are options; in order."""
    return {item: item.metadata["option"] for item in fields(declaring) if "option" in item.metadata}


def flag_of(item: Field[Any]) -> str:
    """The long flag of an option, such as "--top-k"; the metavar of an argument."""
    declared: Option = item.metadata["option"]
    if declared.is_argument:
        return declared.metavar or item.name.upper()
    long = [flag for flag in declared.flags if flag.startswith("--")]
    return long[0] if long else "--" + item.name.replace("_", "-")


def check_values(options: Any) -> None:
    """Check every option of a dataclass instance against its range and its choices. Raises UsageError."""
    for item in options_of(options):
        check_value(item, getattr(options, item.name))


def check_value(item: Field[Any], value: Any) -> None:
    """Check a value of one option; None is not given, and fits. Raises UsageError."""
    declared: Option = item.metadata["option"]
    if value is None:
        return
    if value == "":
        raise UsageError(f"{flag_of(item)} is empty", "perhaps a variable is not set")
    if declared.choices and value not in declared.choices:
        *others, last = map(str, declared.choices)
        raise UsageError(f"{flag_of(item)} must be {', '.join(others)} or {last}, not '{value}'")
    low, high = declared.low, declared.high
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        limits = ["" if low is None else f"at least {low:g}", "" if high is None else f"at most {high:g}"]
        raise UsageError(f"{flag_of(item)} must be {' and '.join(filter(None, limits))}, not {value}")
