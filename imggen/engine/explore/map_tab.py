"""The tab Map: what a segmentation model or a translator makes of an image."""

from __future__ import annotations

import gradio as gr

from imggen.engine.explore.actions import Actions, PageFile
from imggen.engine.explore.drop import drop_zone
from imggen.engine.explore.events import listen
from imggen.engine.explore.fragments import bars, download, large_image
from imggen.engine.explore.kept import command_box
from imggen.engine.explore.uploads import read_upload
from imggen.engine.options import MAX_SEED
from imggen.errors import UsageError
from imggen.models import SEGMENTER, TRANSLATOR, kind_of


def can_map(actions: Actions) -> bool:
    """Whether the model maps images."""
    return kind_of(actions.model.config.family) in (SEGMENTER, TRANSLATOR)


class MapTab:
    """What the tab does."""

    def __init__(self, actions: Actions) -> None:
        self.actions = actions
        self.segments = kind_of(actions.model.config.family) == SEGMENTER
        self.has_noise = bool(getattr(actions.model.config, "noise", 0))

    def drop(self, strength: float, seed: int, event: gr.EventData) -> tuple[PageFile, str, str, str, str]:
        """The image as a file and for the page, and what `map` returns. Raises DataError."""
        file, _ = read_upload(event._data)
        return file, large_image(file), *self.map(file, strength, seed)

    def map(self, file: PageFile | None, strength: float, seed: int) -> tuple[str, str, str]:
        """The results, the share of each class, and the command. Raises UsageError and DataError."""
        if file is None:
            raise UsageError("there is no image", "drop one")
        if not self.segments:
            made = self.actions.translate(file, float(strength), int(seed))
            return large_image(made) + download(made), "", made.command
        (mask, overlay), classes, command = self.actions.segment(file)
        html = large_image(overlay) + download(mask, f"Download the mask {mask.name}") + download(overlay)
        return html, bars([(entry["name"], entry["share"]) for entry in classes]), command


def build_map_tab(actions: Actions) -> None:
    """Lay the tab out, and listen."""
    tab = MapTab(actions)
    image = gr.State(None)
    drop = drop_zone("map-drop")
    strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", visible=not tab.segments, elem_id="strength")
    seed = gr.Number(
        0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed", visible=tab.has_noise, elem_id="map-seed"
    )
    with gr.Row():
        with gr.Column(min_width=260):
            shown = gr.HTML(elem_id="map-image")
        with gr.Column(min_width=260):
            result = gr.HTML(elem_id="mapped")
            classes = gr.HTML(elem_id="shares", visible=tab.segments)
    command = command_box("The command for it", "map-command")
    command.render()
    results = [result, classes, command]
    listen(drop.upload, tab.drop, [strength, seed], [image, shown, *results], show_progress="full")
    listen(strength.release, tab.map, [image, strength, seed], results)
    listen(seed.submit, tab.map, [image, strength, seed], results)
