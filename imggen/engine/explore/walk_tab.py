"""The tab Walk: an animation along a path through the kept images, in their order."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import gradio as gr

from imggen.engine.explore.actions import Actions
from imggen.engine.explore.events import listen
from imggen.engine.explore.fragments import download, large_image
from imggen.engine.explore.kept import Kept, command_box
from imggen.engine.explore.samples import Sample, walk_options
from imggen.engine.options import InterpolateOptions
from imggen.option import Option, options_of

OPTIONS: dict[str, Option] = {item.name: option for item, option in options_of(InterpolateOptions).items()}
MOST_FRAMES, MOST_ZOOM = 400, 8
DEFAULT_FRAMES = 60
FORMATS = ("gif", "webp", "mp4")


def build_walk_tab(actions: Actions, kept: Kept) -> None:
    """Lay the tab out, and listen."""
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            gr.HTML('<p class="note">Through the kept images below, in their order.</p>')
            path = gr.Dropdown(["slerp", "spline", "circle"], value="slerp", label="Path")
            pace = gr.Dropdown(list(OPTIONS["pace"].choices), value="noise", label="Pace", info=OPTIONS["pace"].help)
            loop = gr.Checkbox(False, label="Loop", info=OPTIONS["loop"].help)
            frames = gr.Slider(2, MOST_FRAMES, DEFAULT_FRAMES, step=1, label="Frames", elem_id="walk-frames")
            with gr.Row():
                zoom = gr.Slider(1, MOST_ZOOM, 1, step=1, label="Zoom", min_width=100)
                formats = FORMATS if find_spec("av") is not None else FORMATS[:-1]
                ending = gr.Radio(list(formats), value="gif", label="Format", min_width=140, elem_id="walk-format")
            button = gr.Button("Walk", variant="primary", elem_id="walk-button")
        with gr.Column(scale=3, min_width=300):
            result = gr.HTML(elem_id="walk")
            command = command_box("The command for it", "walk-command")
            command.render()

    def walk(samples: tuple[Sample, ...], *values: Any) -> tuple[str, str]:
        path, pace, loop, frames, zoom, ending = values
        made = actions.walk(
            **walk_options(samples),
            path=path,
            pace=pace,
            loop=bool(loop),
            frames=int(frames),
            zoom=int(zoom),
            output=f"walk.{ending}",
        )
        return large_image(made) + download(made), made.command

    inputs = [kept.samples, path, pace, loop, frames, zoom, ending]
    listen(button.click, walk, inputs, [result, command], show_progress="full")
