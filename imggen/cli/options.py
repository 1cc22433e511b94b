"""Options that several verbs share, and the decorator that gives them to a verb."""

from __future__ import annotations

import difflib
import inspect
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from imggen.cli.console import Console
from imggen.cli.invocation import typed
from imggen.errors import UsageError

BUDGETS = ("images", "epochs", "minutes")
WHAT, MACHINE, GENERAL = "What", "Machine", "General"


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Put the settings of a TOML file below flags and environment, above defaults. Raises UsageError."""
    if path is None:
        return None
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    known = {}
    for parameter in context.command.params:
        for word in (*parameter.opts, parameter.name or ""):
            known[word.lstrip("-").replace("-", "_")] = parameter.name
    defaults: dict[str, Any] = {}
    for key, value in settings.items():
        name = known.get(key.replace("-", "_"))
        if name is None:
            near = difflib.get_close_matches(key.replace("-", "_"), known, 1)
            raise UsageError(f"{path} has an unknown setting '{key}'", f"did you mean '{near[0]}'?" if near else None)
        defaults[name] = value
    prefix = context.auto_envvar_prefix
    if any(typed(f"--{name}") or f"{prefix}_{name.upper()}" in os.environ for name in BUDGETS):
        # They exclude each other: one that is given takes the place of the file's, whichever that is.
        defaults = {name: value for name, value in defaults.items() if name not in BUDGETS}
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


Device = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=MACHINE, metavar="NAME")
]
Precision = Annotated[
    str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.", rich_help_panel=MACHINE, metavar="NAME")
]
Batch = Annotated[
    int | None, typer.Option("--batch", min=1, help="Pictures at a time.", rich_help_panel=MACHINE, show_default=False)
]
Temperature = Annotated[float, typer.Option(min=0.0, max=2.0, help="Below 1: tamer pictures.", rich_help_panel=WHAT)]
Steps = Annotated[
    int | None, typer.Option(min=1, help="In how many steps each picture is drawn.", rich_help_panel=WHAT)
]
Guidance = Annotated[
    float | None, typer.Option(min=0.0, max=100.0, help="Above 1: truer to the class.", rich_help_panel=WHAT)
]
TopK = Annotated[
    int | None, typer.Option(min=1, help="Draw among the K likeliest values.", rich_help_panel=WHAT, metavar="K")
]
TopP = Annotated[
    float | None, typer.Option(min=0.01, max=1.0, help="Among the likeliest that make up P.", rich_help_panel=WHAT)
]
Weights = Annotated[
    Path | None,
    typer.Option(help="A checkpoint, in place of the model's own.", rich_help_panel=WHAT, metavar="FILE"),
]
Force = Annotated[bool, typer.Option("--force", help="Write over what is there.", rich_help_panel=GENERAL)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done.", rich_help_panel=GENERAL)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.", rich_help_panel=GENERAL)]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.", rich_help_panel=GENERAL)]
Debug = Annotated[
    bool, typer.Option("--debug", envvar="IMGGEN_DEBUG", help="Tracebacks on errors.", rich_help_panel=GENERAL)
]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours (as NO_COLOR).", rich_help_panel=GENERAL)]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="A TOML file of options; flags and environment win.",
        rich_help_panel=GENERAL,
        is_eager=True,
        callback=read_config,
        metavar="FILE",
    ),
]
COMMON: dict[str, tuple[Any, Any]] = {
    "config": (Config, None),
    "quiet": (Quiet, False),
    "as_json": (Json, False),
    "debug": (Debug, False),
    "no_color": (NoColor, False),
}


def drawing(**settings: Any) -> dict[str, Any]:
    """The settings of drawing that were given."""
    return {name: value for name, value in settings.items() if value is not None}


class Current:
    """The console that the verb in hand speaks through; main() reports errors there."""

    console = Console()


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the common options; it gets a `console` in their place."""
    own = inspect.signature(function, eval_str=True).parameters
    parameters = [parameter for parameter in own.values() if parameter.name != "console"]
    return with_parameters(function, parameters)


def with_parameters(function: Callable[..., None], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    """The same with parameters made up at run time: a family's options come from its configuration."""
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in COMMON.items()
    ]
    ready = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters] + common
    for parameter in ready:
        # Every option has a variable (README says how it is named); a line for each would drown the help.
        kind, *notes = get_args(parameter.annotation)
        for note in notes:
            note.show_envvar = False
            if note.metavar is None and {int, float} & {kind, *get_args(kind)}:
                note.metavar = "N"

    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in COMMON}
        del given["config"]
        Current.console = Console(**given)
        function(console=Current.console, **values)

    run.__name__ = function.__name__
    run.__doc__ = function.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in ready} | {"return": None}
    vars(run)["__signature__"] = inspect.Signature(ready)
    return run
