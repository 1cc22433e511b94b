"""The tab Directions: a sample, and a slider for each direction that changes the model's images most."""

from __future__ import annotations

from typing import Any

import gradio as gr

from imggen.engine.explore.actions import Actions
from imggen.engine.explore.events import listen
from imggen.engine.explore.fragments import download, large_image, note
from imggen.engine.explore.kept import Kept, command_box
from imggen.engine.explore.samples import Sample
from imggen.engine.options.shared import MAX_DIRECTION_VALUE, MAX_DIRECTIONS
from imggen.errors import UsageError

RANGE = min(3.0, MAX_DIRECTION_VALUE)  # in standard deviations: beyond it images are no longer plausible
STEP = 0.05


class DirectionsTab:
    """What the tab does. `start` is the sample that is moved, `own` where the sliders stand for it unmoved."""

    def __init__(self, actions: Actions, kept: Kept) -> None:
        self.actions, self.kept = actions, kept

    def take(self, samples: tuple[Sample, ...], chosen: int | None) -> list[Any]:
        """The chosen kept image, where it lies along each direction, and its sliders. Raises UsageError."""
        if chosen is None:
            raise UsageError("no kept image is chosen", "click one below; the tab Sample keeps images")
        sample = samples[chosen]
        unmoved = {name: value for name, value in sample.sampling_options.items() if name != "direction"}
        start = Sample(sample.file, sample.seed, sample.label, unmoved)
        found = self.actions.directions(sample.seed)[:MAX_DIRECTIONS]
        own = tuple(max(-RANGE, min(RANGE, round(STEP * round(value / STEP), 2))) for _, value in found)
        sliders: list[Any] = [
            gr.Slider(value=value, visible=True, label=f"{number}" + (f": {name}" if name else ""))
            for number, ((name, _), value) in enumerate(zip(found, own, strict=True), 1)
        ]
        sliders += [gr.Slider(visible=False)] * (MAX_DIRECTIONS - len(sliders))
        return [start, own, *self.draw(start, own, *own), *sliders]

    def draw(self, start: Sample | None, own: tuple[float, ...], *values: float) -> tuple[Sample | None, str, str]:
        """The sample at these values: moved along the directions whose sliders were moved. Raises UsageError."""
        if start is None:
            return None, "", ""
        moves = tuple(
            (number, float(value))
            for number, (value, before) in enumerate(zip(values, own, strict=False), 1)
            if abs(value - before) > STEP / 2
        )
        options = {**start.sampling_options, **({"direction": moves} if moves else {})}
        (file,), _ = self.actions.sample(first=start.seed, count=1, label=start.label, sampling_options=options)
        shown = Sample(file, start.seed, start.label, options)
        return shown, large_image(file, shown.caption) + download(file), file.command

    def keep(self, samples: tuple[Sample, ...], shown: Sample | None) -> list[Any]:
        """Keep the image that is shown. Raises UsageError if there is none."""
        if shown is None:
            raise UsageError("there is no image to keep", "take a kept image and move a slider")
        return self.kept.keep(samples, shown)


def build_directions_tab(actions: Actions, kept: Kept) -> None:
    """Lay the tab out, and listen."""
    tab = DirectionsTab(actions, kept)
    start, own, shown = gr.State(None), gr.State(()), gr.State(None)
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            gr.HTML(note("Directions are found at the first time, which takes seconds."))
            take = gr.Button("Take the chosen kept image", variant="primary", elem_id="take-for-directions")
            sliders = [
                gr.Slider(-RANGE, RANGE, 0, step=STEP, label=str(number), visible=False, elem_id=f"direction-{number}")
                for number in range(1, MAX_DIRECTIONS + 1)
            ]
        with gr.Column(scale=2, min_width=300):
            image = gr.HTML(elem_id="moved")
            keep = gr.Button("Keep this image", size="sm", elem_id="keep-moved")
            command = command_box("The command for it", "moved-command")
            command.render()
    results = [shown, image, command]
    listen(take.click, tab.take, [kept.samples, kept.chosen], [start, own, *results, *sliders], show_progress="full")
    for slider in sliders:
        listen(
            slider.input, tab.draw, [start, own, *sliders], results, trigger_mode="always_last", show_progress="hidden"
        )
    listen(keep.click, tab.keep, [kept.samples, shown], kept.outputs, show_progress="hidden")
