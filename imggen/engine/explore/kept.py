"""The images that were kept: each with its seed and how it was sampled; one of them is chosen."""

from __future__ import annotations

from typing import Any

import gradio as gr

from imggen.engine.explore.actions import Actions
from imggen.engine.explore.events import index_of, listen
from imggen.engine.explore.fragments import TILES_SCRIPT, download, large_image, note, tiles
from imggen.engine.explore.samples import Sample
from imggen.engine.options.shared import MAX_SEED, NEAR_TEMPERATURE
from imggen.models.base import Backend

NEAR_COUNT = 15
EMPTY = note("Nothing is kept yet: click an image above.")


class Kept:
    """The panel below all tabs. `samples` and `chosen` are states: each visitor has their own."""

    def __init__(self, actions: Actions, backend: Backend) -> None:
        self.actions, self.backend = actions, backend
        self.samples = gr.State(())  # tuple[Sample, ...]
        self.chosen = gr.State(None)  # an index into them
        self.tiles = gr.HTML(EMPTY, js_on_load=TILES_SCRIPT, elem_id="kept", render=False)
        self.details = gr.Column(visible=False, render=False)
        self.image = gr.HTML(elem_id="chosen", render=False)
        self.command = command_box("The command for it", "chosen-command")

    @property
    def outputs(self) -> list[Any]:
        """What `shown` returns values for."""
        return [self.samples, self.chosen, self.tiles, self.details, self.image, self.command]

    def shown(self, samples: tuple[Sample, ...], chosen: int | None) -> list[Any]:
        """The values of `outputs` for these samples."""
        if chosen is None or not samples:
            return [samples, None, tiles_of(samples), gr.Column(visible=False), "", ""]
        chosen = min(chosen, len(samples) - 1)
        file = samples[chosen].file
        html = large_image(file, samples[chosen].caption) + download(file)
        return [samples, chosen, tiles_of(samples, chosen), gr.Column(visible=True), html, file.command]

    def keep(self, samples: tuple[Sample, ...], new: Sample) -> list[Any]:
        """Keep one more image and choose it; one that is kept already is chosen."""
        same = [index for index, sample in enumerate(samples) if sample == new]
        return self.shown(samples, same[0]) if same else self.shown((*samples, new), len(samples))

    def build_panel(self) -> None:
        """Lay the panel out, and listen."""
        with gr.Column(elem_id="kept-panel"):
            gr.HTML('<h2 class="part">Kept images</h2>')
            self.tiles.render()
            self.details.render()
            with self.details, gr.Row():
                with gr.Column(scale=1, min_width=240):
                    self.image.render()
                with gr.Column(scale=2, min_width=300):
                    self.command.render()
                    with gr.Row():
                        earlier, later = gr.Button("Earlier", size="sm"), gr.Button("Later", size="sm")
                        remove = gr.Button("Remove", size="sm")
                    self._build_near()
        both = [self.samples, self.chosen]
        listen(self.tiles.click, self._choose, [self.samples], self.outputs, show_progress="hidden")
        listen(earlier.click, lambda samples, chosen: self._move(samples, chosen, -1), both, self.outputs)
        listen(later.click, lambda samples, chosen: self._move(samples, chosen, 1), both, self.outputs)
        listen(remove.click, self._remove, both, self.outputs)

    def _build_near(self) -> None:
        with gr.Accordion("More like this", open=False):
            with gr.Row():
                temperature = gr.Slider(0, 1, NEAR_TEMPERATURE, step=0.05, label="Difference", min_width=160)
                seed = gr.Number(0, label="First seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=120)
            draw = gr.Button("Draw variations", elem_id="draw-near")
            result = gr.HTML(elem_id="near")
            command = command_box("The command for them", "near-command")
            command.render()
        inputs = [self.samples, self.chosen, temperature, seed]
        listen(draw.click, self._sample_near, inputs, [result, command], show_progress="full")

    def _choose(self, samples: tuple[Sample, ...], event: gr.EventData) -> list[Any]:
        return self.shown(samples, index_of(event, len(samples)))

    def _move(self, samples: tuple[Sample, ...], chosen: int | None, step: int) -> list[Any]:
        if chosen is None or not 0 <= chosen + step < len(samples):
            return self.shown(samples, chosen)
        moved = list(samples)
        moved[chosen], moved[chosen + step] = moved[chosen + step], moved[chosen]
        return self.shown(tuple(moved), chosen + step)

    def _remove(self, samples: tuple[Sample, ...], chosen: int | None) -> list[Any]:
        if chosen is None:
            return self.shown(samples, chosen)
        return self.shown(samples[:chosen] + samples[chosen + 1 :], chosen)

    def _sample_near(
        self, samples: tuple[Sample, ...], chosen: int | None, temperature: float, seed: float | None
    ) -> list[Any]:
        if chosen is None:
            return ["", ""]
        sample = samples[chosen]
        made = self.actions.sample_near(
            sample.file, count=NEAR_COUNT, seed=int(seed or 0), temperature=float(temperature), label=sample.label
        )
        return [large_image(made) + download(made), made.command]


def tiles_of(samples: tuple[Sample, ...], chosen: int | None = None) -> str:
    """Tiles of samples, or what to do if there are none."""
    if not samples:
        return EMPTY
    pressed = () if chosen is None else (chosen,)
    return tiles([sample.file for sample in samples], [sample.caption for sample in samples], pressed)


def command_box(label: str, name: str) -> Any:
    """A box that shows a command, with a button to copy it."""
    return gr.Textbox(
        label=label, lines=2, interactive=False, buttons=["copy"], elem_id=name, elem_classes="command", render=False
    )
