"""A place on the page to drop an image: its bytes travel inside an event, see `uploads`."""

from __future__ import annotations

from typing import Any

import gradio as gr

from imggen.engine.explore.fragments import escape
from imggen.engine.explore.guard import MAX_IMAGE_BYTES

SCRIPT = """
const send = file => {
  if (!file) return;
  if (file.size > LIMIT) { element.querySelector('.drop span').textContent = 'This file is too large.'; return; }
  const reader = new FileReader();
  reader.onload = () => trigger('upload', {name: file.name, data: reader.result.split(',')[1] || ''});
  reader.readAsDataURL(file);
};
element.addEventListener('change', event => { send(event.target.files[0]); event.target.value = ''; });
element.addEventListener('dragover', event => event.preventDefault());
element.addEventListener('drop', event => { event.preventDefault(); send(event.dataTransfer.files[0]); });
""".replace("LIMIT", str(MAX_IMAGE_BYTES))


def drop_zone(name: str) -> Any:
    """A place to drop an image, or to choose one; triggers `upload`, with the `data` that `read_upload` takes."""
    text = escape("Drop an image here, or click to choose one.")
    html = f'<label class="drop"><span>{text}</span><input type="file" accept="image/*" aria-label="Image"></label>'
    return gr.HTML(html, js_on_load=SCRIPT, elem_id=name)
