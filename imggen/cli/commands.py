"""Typer's commands, without the half of their start-up time that help and completion do not need."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


def _settled(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""  # "<bool>" beside a flag says nothing
            if not parameter.expose_value:
                # --help and the completion flags start as None, and to read None Typer imports pydantic: 80 ms.
                parameter.default = parameter.default or False
                parameter.allow_from_autoenv = parameter.show_envvar = False
    return parameters


class Command(TyperCommand):
    """A verb."""

    def get_params(self, ctx: Any) -> list[Any]:
        """See Typer."""
        return _settled(super().get_params(ctx))


class Group(TyperGroup):
    """The program, and `train`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """See Typer."""
        return _settled(super().get_params(ctx))
