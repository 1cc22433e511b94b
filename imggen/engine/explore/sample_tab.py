"""The tab Sample: images of seeds, page by page; a click keeps one."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from imggen.engine.explore.actions import Actions
from imggen.engine.explore.controls import SamplingControls
from imggen.engine.explore.events import index_of, listen
from imggen.engine.explore.fragments import TILES_SCRIPT
from imggen.engine.explore.kept import Kept, command_box, tiles_of
from imggen.engine.explore.samples import Sample
from imggen.engine.options.shared import MAX_SEED
from imggen.models.base import Backend

FIRST_COUNT, MOST = 24, 96
ANY_CLASS = "that of each seed"


class SampleTab:
    """What the tab does."""

    def __init__(self, actions: Actions, backend: Backend, kept: Kept) -> None:
        self.actions, self.kept = actions, kept
        self.controls = SamplingControls.of(backend, ANY_CLASS)

    def draw(self, first: float | None, count: float, *values: Any) -> tuple[tuple[Sample, ...], str, str]:
        """The samples of a page, their tiles and the command. Raises UsageError."""
        label, options = self.controls.read(values)
        start, number = int(first or 0), max(1, min(MOST, int(count)))
        files, command = self.actions.sample(first=start, count=number, label=label, sampling_options=options)
        samples = tuple(Sample(file, start + index, label, options) for index, file in enumerate(files))
        return samples, tiles_of(samples), command

    def turn(self, pages: int, first: float | None, count: float, *values: Any) -> tuple[Any, ...]:
        """The first seed of the page that many pages on, and what `draw` returns for it."""
        start = min(MAX_SEED, max(0, int(first or 0) + pages * int(count)))
        return start, *self.draw(start, count, *values)

    def keep(self, shown: tuple[Sample, ...], kept: tuple[Sample, ...], event: gr.EventData) -> list[Any]:
        """Keep the image that was clicked, drawn by itself: its command then gives the same bytes on any processor."""
        index = index_of(event, len(shown))
        if index is None:
            return self.kept.shown(kept, None)
        sample = shown[index]
        (file,), _ = self.actions.sample(
            first=sample.seed, count=1, label=sample.label, sampling_options=sample.sampling_options
        )
        return self.kept.keep(kept, Sample(file, sample.seed, sample.label, sample.sampling_options))


def build_sample_tab(actions: Actions, backend: Backend, kept: Kept) -> None:
    """Lay the tab out, with its first images, and listen."""
    tab = SampleTab(actions, backend, kept)
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            first = gr.Number(0, label="First seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="first-seed")
            count = gr.Slider(1, MOST, FIRST_COUNT, step=1, label="Images", elem_id="count")
            components = tab.controls.build()
            with gr.Row():
                back, forward = gr.Button("Previous", min_width=80), gr.Button("Next", variant="primary", min_width=80)
        with gr.Column(scale=3, min_width=300):
            samples, html, text = tab.draw(0, FIRST_COUNT, *(component.value for component in components))
            shown = gr.State(samples)
            grid = gr.HTML(html, js_on_load=TILES_SCRIPT, elem_id="grid")
            command = command_box("The command for this page", "grid-command")
            command.value = text
            command.render()
    inputs, outputs = [first, count, *components], [shown, grid, command]
    for component in inputs:
        # While a slider moves, only its last value is drawn.
        listen(component.input, tab.draw, inputs, outputs, trigger_mode="always_last", show_progress="hidden")
    for button, pages in ((back, -1), (forward, 1)):
        listen(button.click, partial(tab.turn, pages), inputs, [first, *outputs], show_progress="hidden")
    listen(grid.click, tab.keep, [shown, kept.samples], kept.outputs, show_progress="hidden")
