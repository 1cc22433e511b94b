"""How an option is declared: a dataclass field with its help, for verbs (engine/options) and families (models/).

Everything else follows from the field: the command line's flag, the `--config` key, the environment name, the check of
its value, and the command that is recorded in files. Nothing here imports torch, numpy or PIL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from imggen.errors import UsageError, shortened

REQUIRED = MISSING
GENERAL = "General"  # the group of options, in help, that every verb has
EMPTY_HINT = "perhaps a variable of the shell is not set"  # of an option whose value is empty
_COUNT_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_SIZE_UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}

Box = tuple[int, int, int, int]


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
        raise UsageError(f"{flag_of(item)} is empty", EMPTY_HINT)
    if declared.choices and value not in declared.choices:
        *others, last = map(str, declared.choices)
        allowed = " or ".join(filter(None, [", ".join(others), last]))
        raise UsageError(f"{flag_of(item)} must be {allowed}, not '{shortened(value)}'")
    low, high = declared.low, declared.high
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        limits = ["" if low is None else f"at least {low:g}", "" if high is None else f"at most {high:g}"]
        raise UsageError(f"{flag_of(item)} must be {' and '.join(filter(None, limits))}, not {shortened(value)}")


# Parsers of values


def parse_count(text: str) -> int:
    """2M, 500k, 1e6 or 12000 → a whole number. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d{1,2})?)([kmg]?)", text.strip().lower().replace("_", ""))
    if not match or float(match[1]) * _COUNT_UNITS[match[2]] > 1e15:
        raise UsageError(f"'{text}' is not a number of images", "such as 2M, 500k or 12000")
    return round(float(match[1]) * _COUNT_UNITS[match[2]])


def parse_grid(text: str) -> tuple[int, int]:
    """4x2 → (4, 2), columns and rows. Raises UsageError."""
    match = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", text.strip().lower())
    if not match:
        raise UsageError(f"'{text}' is not a grid", "columns x rows, such as 4x2")
    return int(match[1]), int(match[2])


def parse_direction(text: str) -> tuple[int, float]:
    """2=1.5 → (2, 1.5), the number of a direction and a value. Raises UsageError."""
    match = re.fullmatch(r"([1-9]\d{0,2})=([+-]?\d{1,3}(?:\.\d{0,6})?)", text.strip())
    if not match:
        raise UsageError(f"'{text}' is not a value of a direction", "NUMBER=VALUE, such as 2=1.5 or 2=-1")
    return int(match[1]), float(match[2])


def parse_box(text: str) -> Box:
    """X,Y,WIDTH,HEIGHT in pixels from the upper left. Raises UsageError."""
    numbers = _parse_numbers(text)
    if len(numbers) != 4 or not numbers[2] or not numbers[3]:
        raise UsageError(f"'{text}' is not a box", "X,Y,WIDTH,HEIGHT in pixels, such as 40,30,64,64")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def parse_expand(text: str) -> Box:
    """N, or LEFT,TOP,RIGHT,BOTTOM, in pixels. Raises UsageError."""
    numbers = _parse_numbers(text)
    numbers = numbers * 4 if len(numbers) == 1 else numbers
    if len(numbers) != 4 or not any(numbers):
        raise UsageError(
            f"--expand takes a number of pixels, not '{text}'", "N on every side, or LEFT,TOP,RIGHT,BOTTOM"
        )
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _parse_numbers(text: str) -> list[int]:
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", text.replace(" ", "")):
        return []
    return [int(part) for part in text.replace(" ", "").split(",")]


def join_numbers(numbers: tuple[int, ...]) -> str:
    """The inverse of `parse_box` and `parse_expand`."""
    return ",".join(map(str, numbers))


@dataclass(frozen=True)
class SizeLimit:
    """A limit on bytes of a disk: a number of them, or a fraction of the disk; no limit if both are None."""

    bytes: int | None = None
    fraction: float | None = None

    def bytes_of(self, disk_bytes: int) -> int | None:
        """The limit on a disk of `disk_bytes`."""
        return round(self.fraction * disk_bytes) if self.fraction is not None else self.bytes

    def __str__(self) -> str:
        if self.fraction is not None:
            return f"{100 * self.fraction:g}%"
        return "none" if self.bytes is None else f"{self.bytes / 1e6:g}MB"


def parse_limit(text: str) -> SizeLimit:
    """50GB, 800MB, 20% or none → a limit on the size of a folder. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*(kb|mb|gb|tb|%)", text.strip().lower())
    if text.strip().lower() == "none":
        return SizeLimit()
    if not match or (match[2] == "%" and float(match[1]) > 100):
        raise UsageError(f"'{text}' is not a limit", "such as 50GB, 800MB, 20% (of the disk) or none")
    if match[2] == "%":
        return SizeLimit(fraction=float(match[1]) / 100)
    return SizeLimit(bytes=round(float(match[1]) * _SIZE_UNITS[match[2]]))
