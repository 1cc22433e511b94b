"""The tab Fill: paint a hole into an image, and choose among several fills of it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from imggen.engine.explore.actions import Actions, PageFile
from imggen.engine.explore.controls import SamplingControls
from imggen.engine.explore.drop import drop_zone
from imggen.engine.explore.events import index_of, listen, show_warnings
from imggen.engine.explore.fragments import TILES_SCRIPT, download, large_image, tiles
from imggen.engine.explore.kept import Kept, command_box
from imggen.engine.explore.painter import SEND_MASK, painter, painter_html
from imggen.engine.explore.samples import Sample
from imggen.engine.explore.uploads import painted_mask, read_image, read_upload
from imggen.engine.options.shared import MAX_SEED
from imggen.errors import UsageError
from imggen.models.base import Backend

FIRST_COUNT, MOST = 4, 16
ANY_CLASS = "chosen by the model"


class FillTab:
    """What the tab does. `image` is the file that is filled, `fills` are those files that were made of it."""

    def __init__(self, actions: Actions, backend: Backend) -> None:
        self.actions = actions
        self.controls = SamplingControls.of(backend, ANY_CLASS)

    def drop(self, event: gr.EventData) -> tuple[PageFile, str]:
        """The dropped image, and the painter for it. Raises DataError."""
        file, image = read_upload(event._data)
        return file, painter_html(image)

    def take(self, samples: tuple[Sample, ...], chosen: int | None) -> tuple[PageFile, str]:
        """The chosen one of the kept images, and the painter for it. Raises UsageError."""
        if chosen is None:
            raise UsageError("no kept image is chosen", "click one below; the tab Sample keeps images")
        file = samples[chosen].file
        return file, painter_html(read_image(file))

    def fill(
        self, mask: str, image: PageFile | None, count: float, seed: float | None, *values: Any
    ) -> tuple[tuple[PageFile, ...], str, str, str, str]:
        """The fills, their tiles, the first one large, and the command. Raises UsageError and DataError."""
        if image is None:
            raise UsageError("there is no image to fill", "drop one, or take a kept one")
        label, options = self.controls.read(values)
        hole = painted_mask(mask, read_image(image).size)
        number = max(1, min(MOST, int(count)))
        files, command, warnings = self.actions.fill(
            image, hole, count=number, seed=int(seed or 0), label=label, **options
        )
        show_warnings(warnings)
        fills = tuple(files)
        links = download(hole) + download(image)  # what the command reads
        return fills, *self._shown(fills, 0), links, command

    def choose(self, fills: tuple[PageFile, ...], event: gr.EventData) -> tuple[str, str]:
        """The tiles with the clicked one chosen, and that one large."""
        return self._shown(fills, index_of(event, len(fills)) or 0)

    @staticmethod
    def _shown(fills: tuple[PageFile, ...], chosen: int) -> tuple[str, str]:
        if not fills:
            return "", ""
        names = [file.name for file in fills]
        return tiles(fills, names, (chosen,)), large_image(fills[chosen]) + download(fills[chosen])


def build_fill_tab(actions: Actions, backend: Backend, kept: Kept) -> None:
    """Lay the tab out, and listen."""
    tab = FillTab(actions, backend)
    image, fills, mask = gr.State(None), gr.State(()), gr.Textbox(visible=False)
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            drop = drop_zone("fill-drop")
            take = gr.Button("Take the chosen kept image", size="sm", elem_id="take")
            canvas = painter()
        with gr.Column(scale=1, min_width=280):
            with gr.Row():
                count = gr.Slider(1, MOST, FIRST_COUNT, step=1, label="Fills", min_width=120)
                seed = gr.Number(0, label="First seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=100)
            components = tab.controls.build()
            button = gr.Button("Fill", variant="primary", elem_id="fill-button")
            grid = gr.HTML(js_on_load=TILES_SCRIPT, elem_id="fills")
            large = gr.HTML(elem_id="fill")
            links = gr.HTML()
            command = command_box("The command for all of them", "fill-command")
            command.render()
    listen(drop.upload, tab.drop, [], [image, canvas])
    listen(take.click, tab.take, [kept.samples, kept.chosen], [image, canvas])
    inputs = [mask, image, count, seed, *components]
    listen(button.click, tab.fill, inputs, [fills, grid, large, links, command], js=SEND_MASK, show_progress="full")
    listen(grid.click, tab.choose, [fills], [grid, large], show_progress="hidden")
