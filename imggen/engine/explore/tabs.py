"""The tabs of the page. Which one is shown is an attribute of the page's body, so that changing it takes no request.

Gradio's own tabs move into a menu, or appear twice, when they are measured while the page is still being laid out.
"""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

NAMES = ("Sample", "Walk", "Fill", "Directions", "Find", "Map", "Training")
WITHOUT_KEPT = ("Find", "Map", "Training")  # tabs that have no use for the kept images
_SHOWN = ",".join(f"body[data-tab={name}] #tab-{name}" for name in NAMES)
_HIDES_KEPT = ",".join(f"body[data-tab={name}] #kept-panel" for name in WITHOUT_KEPT)
TAB_STYLE = f"""
.tab-page{{display:none!important}}
{_SHOWN}{{display:flex!important}}
{_HIDES_KEPT}{{display:none!important}}
.tab-bar{{display:flex;flex-wrap:wrap;gap:.2rem;border-bottom:1px solid var(--border-color-primary);margin:.3rem 0}}
.tab-bar button{{border:0;border-bottom:2px solid transparent;background:none;padding:.5rem .9rem;margin:0!important;
font:inherit;cursor:pointer;color:var(--body-text-color)}}
.tab-bar button:hover{{border-color:var(--border-color-primary)}}
.tab-bar button[aria-selected=true]{{border-color:var(--color-accent);color:var(--color-accent)}}
"""
SCRIPT = """
document.body.dataset.tab = element.querySelector('[role=tab]')?.textContent || '';
element.addEventListener('click', event => {
  const tab = event.target.closest('[role=tab]');
  if (!tab) return;
  document.body.dataset.tab = tab.textContent;
  for (const each of element.querySelectorAll('[role=tab]')) each.setAttribute('aria-selected', each === tab);
});
"""


def build_tabs(tabs: dict[str, Callable[[], None]]) -> None:
    """Lay out tabs by name, each by its function; the first one is shown."""
    first = next(iter(tabs), None)
    buttons = "".join(
        f'<button type="button" role="tab" aria-selected="{str(name == first).lower()}" aria-controls="tab-{name}">'
        f"{name}</button>"
        for name in tabs
    )
    gr.HTML(f'<div class="tab-bar" role="tablist">{buttons}</div>', js_on_load=SCRIPT)
    for name, build in tabs.items():
        with gr.Column(elem_id=f"tab-{name}", elem_classes="tab-page"):
            build()
