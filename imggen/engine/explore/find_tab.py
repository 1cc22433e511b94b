"""The tab Find: the class of an image with probabilities, and the images of a folder that are most like it."""

from __future__ import annotations

import io
from functools import cached_property
from pathlib import Path
from typing import Any

import gradio as gr

from imggen.data.decode import UnreadableError, load_image
from imggen.data.scan import open_images
from imggen.engine.explore.actions import Actions, PageFile
from imggen.engine.explore.drop import drop_zone
from imggen.engine.explore.events import listen
from imggen.engine.explore.fragments import bars, large_image, note, tiles
from imggen.engine.explore.kept import command_box
from imggen.engine.explore.uploads import read_upload
from imggen.engine.recognition.embedder import path_of
from imggen.models.base import Model
from imggen.reporting import Silent

TOP_CLASSES, NEIGHBORS, MOST_NEIGHBORS = 5, 12, 48
THUMBNAIL_SIDE = 128


def can_classify(model: Model) -> bool:
    """Whether a model tells classes of images apart."""
    return bool(model.classes) and not model.limitation("classes")


def can_search(model: Model, data: str | None) -> bool:
    """Whether there are images to search, and a model that sees them."""
    return data is not None and not model.limitation("features")


class Searched:
    """The images that are searched, for thumbnails of those that are found."""

    def __init__(self, spec: str) -> None:
        self.spec, self.source = spec, open_images(spec, Silent())

    @cached_property
    def positions(self) -> dict[str, int]:
        """The position of each path that `Actions.search` may return."""
        return {path_of(self.spec, self.source, index): index for index in range(len(self.source))}

    def thumbnail(self, path: str) -> PageFile:
        """A found image, at most THUMBNAIL_SIDE wide and high."""
        encoded = io.BytesIO()
        try:
            image = load_image(self.source, self.positions[path])
            image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            image.save(encoded, "PNG", compress_level=1)
        except (UnreadableError, KeyError):
            return PageFile("missing.png", b"")
        return PageFile("thumbnail.png", encoded.getvalue())


class FindTab:
    """What the tab does."""

    def __init__(self, actions: Actions, searched: Searched | None) -> None:
        self.actions, self.searched = actions, searched
        self.classifies = can_classify(actions.model)

    def drop(self, count: float, event: gr.EventData) -> tuple[PageFile, str, str, str, str, str]:
        """The image, its classes with their command, and its neighbors with theirs. Raises DataError."""
        file, _ = read_upload(event._data)
        return file, *self._classes(file), *self.neighbors(file, count)

    def _classes(self, file: PageFile) -> tuple[str, str, str]:
        if not self.classifies:
            return large_image(file), "", ""
        found, command = self.actions.classify(file, TOP_CLASSES)
        return large_image(file), bars([(entry["label"], entry["probability"]) for entry in found]), command

    def neighbors(self, file: PageFile | None, count: float) -> tuple[str, str]:
        """Tiles of the most similar images, and the command that finds them."""
        if file is None or self.searched is None:
            return "", ""
        found, command = self.actions.search(file, self.searched.spec, count=max(1, min(MOST_NEIGHBORS, int(count))))
        if not found:
            return note("No image is found."), command
        files = [self.searched.thumbnail(match["path"]) for match in found]
        return tiles(files, [f"{match['score']:.3f} {Path(match['path']).name}" for match in found]), command


def build_find_tab(actions: Actions) -> None:
    """Lay the tab out, and listen."""
    data = actions.options.data if can_search(actions.model, actions.options.data) else None
    tab = FindTab(actions, None if data is None else Searched(data))
    image = gr.State(None)
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            drop = drop_zone("find-drop")
            shown = gr.HTML(elem_id="find-image")
            classes = gr.HTML(elem_id="classes", visible=tab.classifies)
            class_command = _command("The command for its classes", "class-command", visible=tab.classifies)
        with gr.Column(scale=2, min_width=300, visible=data is not None):
            count = gr.Slider(1, MOST_NEIGHBORS, NEIGHBORS, step=1, label="Similar images", elem_id="neighbor-count")
            neighbors = gr.HTML(elem_id="neighbors")
            command = _command("The command for them", "search-command", visible=True)
    outputs: list[Any] = [image, shown, classes, class_command, neighbors, command]
    listen(drop.upload, tab.drop, [count], outputs, show_progress="full")
    listen(count.release, tab.neighbors, [image, count], [neighbors, command])


def _command(label: str, name: str, *, visible: bool) -> Any:
    box = command_box(label, name)
    box.visible = visible
    return box.render()
