"""Typer's commands as imggen has them: verbs, and the groups that make a verb when it is asked for.

The program's help and completion show only the name and the summary of each verb, so nothing else is imported for
them: neither the verb's module nor its options (a quarter of a second for all), and no torch, numpy or PIL.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from imggen.errors import UsageError
from imggen.option import EMPTY_HINT, GENERAL


def _defer(module: str, name: str) -> None:
    """Import the module of a class when the class is used; Typer imports it for every help screen.

    Until then a module that holds a stand-in for the class takes its place.
    """

    def real() -> ModuleType:
        if sys.modules.get(module) is stand_in:
            del sys.modules[module]
        return import_module(module)

    def of_real(attribute: str) -> Any:
        if attribute.startswith("__"):  # the import system asks for these
            raise AttributeError(attribute)
        return getattr(real(), attribute)

    class Deferred:
        """Stands for the class until one is made."""

        def __new__(cls, *arguments: Any, **keywords: Any) -> Any:
            return getattr(real(), name)(*arguments, **keywords)

    stand_in = ModuleType(module)
    setattr(stand_in, name, Deferred)
    stand_in.__getattr__ = of_real  # type: ignore[method-assign]
    sys.modules.setdefault(module, stand_in)


# A quarter of the start-up time: Markdown in help texts and colored tracebacks, which imggen does not use.
_defer("rich.markdown", "Markdown")
_defer("rich.traceback", "Traceback")


def _prepare(parameters: list[Any], context: Any) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""  # without it help shows "<bool>"
            if not parameter.expose_value:
                # --help and the completion flags start as None, and to read None Typer imports pydantic: 80 ms.
                parameter.default = parameter.default or False
                parameter.allow_from_autoenv = parameter.show_envvar = False
                parameter.rich_help_panel = GENERAL if context.parent is not None else None
                parameter.help = (parameter.help or "").split(",")[0].rstrip(".")
    return parameters


def _longest(flags: list[str]) -> str:
    return max(flags, key=len)


class Command(TyperCommand):
    """A verb. Help shows both flags of a boolean as one, --[no-]x."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters of the function, and --help."""
        return _prepare(super().get_params(ctx), ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line. Raises UsageError for an empty value: as a path it would be the current folder."""
        if not ctx.resilient_parsing:
            given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            for parameter in self.params:
                self._refuse_empty(ctx, parameter, given.get(parameter.name))
        return super().parse_args(ctx, args)

    @staticmethod
    def _refuse_empty(ctx: Any, parameter: Any, value: Any) -> None:
        variable = f"{ctx.auto_envvar_prefix}_{parameter.name.upper()}"
        name = parameter.metavar if parameter.param_type_name == "argument" else _longest(parameter.opts)
        if "" in (value if isinstance(value, list | tuple) else [value]):
            raise UsageError(f"{name} is empty", EMPTY_HINT)
        if value in (None, [], ()) and os.environ.get(variable) == "" and not getattr(parameter, "is_flag", False):
            raise UsageError(f"{name} is empty: so is the variable {variable}", "give it a value, or unset it")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help; the process ends after it, so that the flags may be changed for display."""
        for parameter in self.params:
            if parameter.secondary_opts:
                parameter.opts, parameter.secondary_opts = [f"--[no-]{parameter.opts[0][2:]}"], []
        super().format_help(ctx, formatter)


def command_of(name: str, function: Callable[..., None]) -> Command:
    """The command of a function that `imggen.cli.build.verb` has made."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name, cls=Command)(function)
    command: Any = typer.main.get_command(app)
    assert isinstance(command, Command)
    return command


class Group(TyperGroup, ABC):
    """The program, and `train`. A command is a name and a summary until it is used."""

    summaries: ClassVar[Mapping[str, str]]  # of the commands by name, in the order in which help lists them

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, summary in self.summaries.items():
            self.commands[name] = TyperCommand(name, help=summary)

    @abstractmethod
    def make(self, name: str) -> Any:
        """The command of that name, with its options."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, in the order of their use."""
        return list(self.summaries)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that a command line names, and make it."""
        if args and args[0] in self.summaries:
            self.commands[args[0]] = self.make(args[0])
        return super().resolve_command(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters of the function, --help and the completion flags."""
        return _prepare(super().get_params(ctx), ctx)
