"""From an options dataclass to a Typer command.

Typer makes a command of a function: each parameter of the function's signature is an option of the command. The options
of imggen are declared elsewhere, once: as fields of the dataclasses in engine/options and of the families' own
configurations, made by `imggen.option.option`. This file is the bridge. `verb(SampleOptions)` decorates

    def sample(console: Console, *, dry_run: bool, **given: Any) -> None

and returns a function that takes any keyword arguments, with a signature made at run time: one parameter for each
field of SampleOptions, annotated with the typer.Option that its metadata describes, and one for each flag that every
verb has (COMMON). So the help, the shell completion, the environment names (IMGGEN_SAMPLE_COUNT) and the `--config`
keys follow from the dataclass, and no option is written down twice.

Why at run time: `imggen train FAMILY` has one command for each family in the registry, with that family's own options;
its signature cannot be written by hand. Why not Click's classes: Typer has its own copy of Click, which is private.

How a value travels:
- Typer reads it from the flags, else the environment, else the `--config` file (`read_config` puts that file's values
  where Typer looks for defaults). A value given nowhere is None, or False for a flag.
- `given_values` drops the options that were not given, applies each field's `parse`, and keys the rest by field name.
  The verb builds its dataclass from them, so defaults, ranges and choices hold for Python callers too. That is why
  Typer gets neither defaults nor ranges: the default is part of the help text.
- A flag is False until it is given. A field that is true by default has a flag "--no-…" that sets it to False, but the
  booleans of a family, whose defaults depend on the preset, have two flags, --x and --no-x.

Nothing here imports torch, numpy or PIL: `imggen --help` and completion are quick.
"""

from __future__ import annotations

import inspect
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import Field
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from imggen.cli.console import Console
from imggen.cli.invocation import Invocation
from imggen.documents import DocumentError, read_toml
from imggen.engine.distributed import ProcessGroup
from imggen.errors import UsageError, nearest
from imggen.option import EMPTY_HINT, GENERAL, REQUIRED, Option, flag_of, options_of

VERBS_OF_SEVERAL_PROCESSES = ("train", "sample")
BUDGETS = ("images", "epochs", "minutes")
MAX_CONFIG_BYTES = 1 << 20
# The order in which help shows the groups of options; others come before, in the order of the dataclass.
LAST_PANELS = ("Sampling", "Path", "Method", "Budget", "Run", "Output", "Machine", GENERAL)


def random_seed() -> int:
    """A seed for a verb that was given none; the verb prints it once its options are accepted."""
    return secrets.randbelow(2**31)


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Read a TOML file of options, which flags and environment override. Raises UsageError."""
    if path is None:
        return None
    settings = _read_settings(path)
    # A key is the name of a parameter, or one of its flags without the dashes.
    names = {}
    for parameter in context.command.params:
        for word in (*parameter.opts, parameter.name or ""):
            names[word.lstrip("-").replace("-", "_")] = parameter.name
    defaults: dict[str, Any] = {}
    for key, value in settings.items():
        name = names.get(key.replace("-", "_"))
        if name is None:
            near = nearest(key.replace("-", "_"), names)
            raise UsageError(f"{path} has an unknown setting '{key}'", f"did you mean '{near}'?" if near else None)
        defaults[name] = _checked_setting(path, key, value)
    # The three budgets exclude each other: one that is given replaces the file's, whichever that is.
    prefix = context.auto_envvar_prefix
    if any(Invocation.has(f"--{name}") or f"{prefix}_{name.upper()}" in os.environ for name in BUDGETS):
        defaults = {name: value for name, value in defaults.items() if name not in BUDGETS}
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings in a TOML file. Raises UsageError."""
    hint = "--config takes a TOML file: one NAME = VALUE per line, text in quotes"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_CONFIG_BYTES:
            kind = "too long" if stat.S_ISREG(status.st_mode) else "not a file"
            raise UsageError(f"{path} cannot be read: it is {kind}", hint)
        return read_toml(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint) from error
    except DocumentError as error:
        raise UsageError(f"{path} {error}", hint) from error


def _checked_setting(path: Path, key: str, value: Any) -> Any:
    """A setting's value: text, a number, true or false, or a list of those. Raises UsageError."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str | int | float) for part in values):
        raise UsageError(f"{path}: '{key}' must be text, a number, true, false or a list of them")
    if "" in values:
        raise UsageError(f"{path}: '{key}' is empty", EMPTY_HINT)
    return value


def _common(kind: Any, default: Any, flags: tuple[str, ...], help: str, **more: Any) -> tuple[Any, Any]:
    note = typer.Option(*flags, help=help, rich_help_panel=GENERAL, show_envvar=False, show_default=False, **more)
    return Annotated[kind, note], default


COMMON: dict[str, tuple[Any, Any]] = {
    "config": _common(
        Path | None,
        None,
        ("--config",),
        "TOML file of options; flags and environment win",
        is_eager=True,
        callback=read_config,
        metavar="FILE",
    ),
    "quiet": _common(bool, False, ("--quiet", "-q"), "Only print warnings and errors"),
    "as_json": _common(bool, False, ("--json",), "Print the result as JSON on stdout"),
    "debug": _common(bool, False, ("--debug",), "Show tracebacks", envvar="IMGGEN_DEBUG"),
    "no_color": _common(bool, False, ("--no-color",), "Plain text, as NO_COLOR"),
}


def verb(
    options: type[Any] | None,
    family: type[Any] | None = None,
    family_defaults: Mapping[str, str] | None = None,
    *,
    dry_run: str = "Print the resolved settings and exit",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that gives a verb the options of a dataclass, and of a family's configuration, as its parameters.

    The verb is called with a `console`, with the values that were given by field name, and, if it has a parameter of
    that name, with `dry_run`. `family_defaults` are the texts that help shows for the family's options, and `dry_run`
    the one for that flag.
    """
    declared = [] if options is None else _parameters(options)
    if family is not None:
        declared += _parameters(family, family_defaults or {})
    declared.sort(key=lambda item: LAST_PANELS.index(item[1].panel) if item[1].panel in LAST_PANELS else -1)

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = {"dry_run": _common(bool, False, ("--dry-run",), dry_run)}
        more = {**(own if "dry_run" in inspect.signature(function).parameters else {}), **COMMON}
        parameters = [parameter for _, _, parameter in declared]
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in more.items()
        ]

        def run(**values: Any) -> None:
            settings = {name: values.pop(name) for name in COMMON if name != "config"}
            del values["config"]
            Invocation.console = Console(**settings)
            if function.__name__ not in VERBS_OF_SEVERAL_PROCESSES and ProcessGroup.from_environment().size > 1:
                raise UsageError(f"{function.__name__} runs in one process", "start it without torchrun")
            extra = {"dry_run": values.pop("dry_run")} if "dry_run" in more else {}
            function(Invocation.console, **extra, **given_values(declared, values))

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
        vars(run)["__signature__"] = inspect.Signature(parameters)
        return run

    return decorate


Declared = tuple["Field[Any]", Option, inspect.Parameter]


def given_values(declared: list[Declared], values: dict[str, Any]) -> dict[str, Any]:
    """The values that were given, by field name, parsed. Raises UsageError."""
    given: dict[str, Any] = {}
    for item, option, parameter in declared:
        value = values[parameter.name]
        if value is None or value is parameter.default or value == []:
            continue
        if isinstance(value, list):
            given[item.name] = tuple(map(option.parse, value) if option.parse else value)
        elif _is_negative(item, option):
            given[item.name] = not value
        else:
            given[item.name] = option.parse(value) if option.parse else value
    return given


def _parameters(declaring: type[Any], family_defaults: Mapping[str, str] | None = None) -> list[Declared]:
    hints = get_type_hints(declaring)
    declared = []
    for item, option in options_of(declaring).items():
        name = next((word for word in option.flags if not word.startswith("-")), item.name)
        flags = [word for word in option.flags if word.startswith("-")] or [flag_of(item)]
        kind = _typer_type(hints[item.name], option)
        default: Any = inspect.Parameter.empty if item.default is REQUIRED else None
        if kind is bool and family_defaults is None:
            default = False
        elif kind is bool:
            flags = [f"{flags[0]}/--no-{flags[0][2:]}"]
        shown = _default_text(item, option) if family_defaults is None else family_defaults[item.name]
        note = _note(option, flags, kind, shown)
        value_type = kind if default is inspect.Parameter.empty else kind | None
        parameter = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[value_type, note]
        )
        declared.append((item, option, parameter))
    return declared


def _note(option: Option, flags: list[str], kind: Any, default: str) -> Any:
    help = option.help
    if default:
        help += f" [dim]\\[default: {default}][/dim]"
    if option.is_argument:
        return typer.Argument(help=help, metavar=option.metavar, show_default=False)
    metavar = option.metavar or ("N" if kind in (int, float) or option.parse else "TEXT")
    return typer.Option(
        *flags,
        help=help,
        rich_help_panel=option.panel,
        metavar=None if kind is bool else metavar,
        show_default=False,
        show_envvar=False,
    )


def _typer_type(hint: Any, option: Option) -> Any:
    """The type that Typer reads: X of "X | None", list[X] of tuple[X, ...], and text where the option is parsed."""
    if isinstance(hint, UnionType):
        hint = next(part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is tuple and get_args(hint)[-1] is ...:
        return GenericAlias(list, (str if option.parse else get_args(hint)[0],))
    return str if option.parse else hint


def _is_negative(item: Field[Any], option: Option) -> bool:
    return item.default is True and flag_of(item).startswith("--no-")


def _default_text(item: Field[Any], option: Option) -> str:
    if option.chosen is not None:
        return option.chosen
    if item.default in (REQUIRED, None, (), "") or isinstance(item.default, bool):
        return ""
    return value_text(option, item.default)


def value_text(option: Option, value: Any) -> str:
    """A value as help shows it."""
    return f"{value:g}" if isinstance(value, float) else option.text(value)
