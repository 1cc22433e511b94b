"""How the tabs listen to events: errors are shown as one line, and nothing is offered to other programs."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from imggen.engine.explore.fragments import escape
from imggen.errors import ImggenError, first_line

SECONDS_SHOWN = 15


def listen(trigger: Any, function: Callable[..., Any], inputs: list[Any], outputs: list[Any], **more: Any) -> Any:
    """Call `function` at an event, such as `button.click`, with the values of `inputs`; it returns those of `outputs`.

    An ImggenError is shown on the page with its hint.
    """
    defaults = {"show_progress": "minimal", "api_visibility": "private", "concurrency_limit": None}
    return trigger(_explained(function), inputs, outputs, **{**defaults, **more})


def _explained(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*values: Any) -> Any:
        try:
            return function(*values)
        except ImggenError as error:
            hint = f" ({error.hint})" if error.hint else ""
            raise _shown(f"{error.message}{hint}") from error
        except Exception as error:
            raise _shown(f"internal: {type(error).__name__}: {first_line(error)}") from error

    return call


def _shown(text: str) -> Exception:
    return gr.Error(escape(text), duration=SECONDS_SHOWN, title="Not done", print_exception=False)


def index_of(event: gr.EventData, count: int) -> int | None:
    """Which of `count` tiles was clicked; None if the event does not say."""
    data = event._data
    index = data.get("index") if isinstance(data, dict) else None
    return index if type(index) is int and 0 <= index < count else None


def show_warnings(warnings: list[str]) -> None:
    """Show what an action warned of."""
    for warning in warnings:
        gr.Warning(escape(warning))
