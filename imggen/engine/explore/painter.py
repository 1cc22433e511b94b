"""A canvas over an image, on which a mask is painted; its pixels are those of the image, however large it is shown."""

from __future__ import annotations

import io
from typing import Any

import gradio as gr
from PIL import Image

from imggen.engine.explore.actions import PageFile
from imggen.engine.explore.fragments import data_url, note
from imggen.errors import DataError

MAX_PAINTED_PIXELS = 16_000_000
MAX_SHOWN_SIDE = 1024  # of the image under the canvas
EMPTY = note("Drop an image, or take the chosen kept one; then paint what is to be filled.")
SCRIPT = """
let last = null;
const canvas = () => element.querySelector('canvas');
const at = event => {
  const box = canvas().getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
  return [x * canvas().width, y * canvas().height];
};
const dab = (x, y) => {
  const erase = element.querySelector('[name=erase]').checked;
  const radius = Number(element.querySelector('[name=size]').value) / 2;
  const context = canvas().getContext('2d');
  context.fillStyle = '#f0f';
  for (let row = Math.floor(y - radius); row <= Math.floor(y + radius); row++) {
    // The pixels of a row whose squares the brush touches.
    const away = Math.max(0, row - y, y - row - 1), half = Math.sqrt(Math.max(0, radius * radius - away * away));
    const left = Math.floor(x - half), width = Math.floor(x + half) - left + 1;
    if (erase) context.clearRect(left, row, width, 1); else context.fillRect(left, row, width, 1);
  }
};
const stroke = (from, to) => {
  const steps = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
  for (let step = 0; step <= steps; step++)
    dab(from[0] + (to[0] - from[0]) * step / steps, from[1] + (to[1] - from[1]) * step / steps);
};
element.addEventListener('pointerdown', event => {
  if (event.target !== canvas()) return;
  event.preventDefault();
  event.target.setPointerCapture(event.pointerId);
  last = at(event);
  stroke(last, last);
});
element.addEventListener('pointermove', event => {
  if (!last) return;
  const next = at(event);
  stroke(last, next);
  last = next;
});
for (const end of ['pointerup', 'pointercancel']) element.addEventListener(end, () => { last = null; });
element.addEventListener('click', event => {
  if (event.target.name === 'clear') canvas().getContext('2d').clearRect(0, 0, canvas().width, canvas().height);
});
"""
# Of a button's click: the canvas takes the place of the first input.
SEND_MASK = """(mask, ...others) => {
  const canvas = document.querySelector('#painter canvas');
  return [canvas ? canvas.toDataURL('image/png') : '', ...others];
}"""


def painter() -> Any:
    """The component, without an image."""
    return gr.HTML(EMPTY, js_on_load=SCRIPT, elem_id="painter")


def painter_html(image: Image.Image) -> str:
    """What the component shows for an image. Raises DataError if it is too large to be painted on."""
    width, height = image.size
    if width * height > MAX_PAINTED_PIXELS:
        raise DataError(f"{width}x{height} pixels are too many to paint on", "imggen inpaint takes such an image")
    shown = image.copy()
    shown.thumbnail((MAX_SHOWN_SIDE, MAX_SHOWN_SIDE))
    encoded = io.BytesIO()
    shown.save(encoded, "PNG", compress_level=1)
    url = data_url(PageFile("shown.png", encoded.getvalue()))
    largest, size = max(2, max(image.size) // 4), max(1, max(image.size) // 16)
    smooth = "" if max(image.size) <= 128 else " smooth"
    return (
        f'<div class="canvas{smooth}" style="aspect-ratio:{width}/{height}"><img src="{url}" alt="image">'
        f'<canvas width="{width}" height="{height}" aria-label="Mask"></canvas></div>'
        f'<div class="tools"><label>Brush <input type="range" name="size" min="0.1" max="{largest}" step="any" '
        f'value="{size}"></label><label><input type="checkbox" name="erase"> Erase</label>'
        f'<button type="button" name="clear">Clear</button></div>'
    )
