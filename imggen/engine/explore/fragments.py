"""Pieces of HTML: tiles of images, downloads. Files travel inside of it, so that the page reads none by a route."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Sequence
from pathlib import Path

from imggen.engine.explore.actions import PageFile
from imggen.reporting import readable

TYPES = {
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".webp": "image/webp",
}


def escape(text: object) -> str:
    """Text of anyone for HTML; what gradio's two template languages would read is escaped too."""
    escaped = html.escape(readable(str(text)))
    return "".join(f"&#{ord(letter)};" if letter in "{}$`\\" else letter for letter in escaped)


def data_url(file: PageFile) -> str:
    """The bytes of a file as a URL."""
    kind = TYPES.get(Path(file.name).suffix.lower(), "application/octet-stream")
    return f"data:{kind};base64,{base64.b64encode(file.data).decode()}"


def tiles(files: Sequence[PageFile], captions: Sequence[str], chosen: Collection[int] = ()) -> str:
    """Images to choose from: a click on one triggers `click` with its `index`, see TILES_SCRIPT."""
    if not files:
        return ""
    cells = []
    for index, (file, caption) in enumerate(zip(files, captions, strict=True)):
        text = escape(caption)
        pressed = "true" if index in chosen else "false"
        cells.append(
            f'<button type="button" class="tile" data-index="{index}" aria-pressed="{pressed}" title="{text}">'
            f'<img src="{data_url(file)}" alt="{text}"><span>{text}</span></button>'
        )
    return f'<div class="tiles">{"".join(cells)}</div>'


TILES_SCRIPT = """
element.addEventListener('click', event => {
  const tile = event.target.closest('[data-index]');
  if (tile) trigger('click', {index: Number(tile.dataset.index)});
});
"""


def large_image(file: PageFile, caption: str = "") -> str:
    """One image or animation, as large as there is room."""
    source, text = data_url(file), escape(caption or file.name)
    if file.name.endswith(".mp4"):
        return f'<video class="large" src="{source}" autoplay loop muted controls playsinline></video>'
    return f'<img class="large" src="{source}" alt="{text}">'


def download(file: PageFile, text: str = "") -> str:
    """A link that saves a file under its name."""
    name = escape(file.name)
    return f'<a class="download" href="{data_url(file)}" download="{name}">{escape(text) or f"Download {name}"}</a>'


def note(text: str) -> str:
    """A line of plain text."""
    return f'<p class="note">{escape(text)}</p>'


def bars(values: Sequence[tuple[str, float]]) -> str:
    """Names, each with a fraction from 0 to 1 as a number and as a bar."""
    rows = "".join(
        f'<tr><th>{escape(name)}</th><td>{value:.1%}</td><td><i style="width:{100 * value:.1f}%"></i></td></tr>'
        for name, value in values
    )
    return f'<table class="bars">{rows}</table>'
