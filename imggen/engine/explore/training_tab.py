"""The tab Training: the curves and the previews of a run, again every few seconds while it is under way."""

from __future__ import annotations

from typing import Any

import gradio as gr

from imggen.engine.evaluation.report import curves_of
from imggen.engine.explore.actions import PageFile
from imggen.engine.explore.events import listen
from imggen.engine.explore.fragments import escape, large_image, note
from imggen.engine.explore.progress import describe, previews, state_of
from imggen.engine.run_dir import RunDir
from imggen.errors import DataError

REFRESH_SECONDS = 3.0
MAX_PREVIEW_BYTES = 32_000_000


class TrainingTab:
    """What the tab does."""

    def __init__(self, run: RunDir) -> None:
        self.run = run

    def status(self) -> str:
        """One line on how far the run is."""
        return f'<p class="status">{escape(describe(self.run))}</p>'

    def curves(self) -> str:
        """A chart of each metric."""
        charts = curves_of(self.run.metrics)
        return f'<div class="curves">{"".join(charts)}</div>' if charts else note("There are no curves yet.")

    def preview(self, number: float) -> str:
        """Preview `number`, from 1 on."""
        paths = previews(self.run)
        if not paths:
            return note("There are no previews yet.")
        path = paths[max(1, min(len(paths), int(number))) - 1]
        if path.stat().st_size > MAX_PREVIEW_BYTES:
            raise DataError(f"{path.name} is too large for the page", f"open {path}")
        return large_image(PageFile(path.name, path.read_bytes())) + note(f"after {int(path.stem):,} steps")

    def refresh(self, known: tuple[int, int], number: float) -> list[Any]:
        """The state, the status, and what is new: curves, slider and preview. The latest preview stays the latest."""
        state = state_of(self.run)
        if state == known:
            return [known, self.status(), gr.skip(), gr.skip(), gr.skip()]
        count = max(1, state[1])
        shown = count if number >= known[1] else number
        slider = gr.Slider(maximum=max(2, count), value=shown, interactive=count > 1)
        return [state, self.status(), self.curves(), slider, self.preview(shown)]


def build_training_tab(run: RunDir) -> None:
    """Lay the tab out, and refresh it."""
    tab = TrainingTab(run)
    count = max(1, len(previews(run)))
    known = gr.State(state_of(run))
    status = gr.HTML(tab.status(), elem_id="status")
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            number = gr.Slider(
                1, max(2, count), count, step=1, label="Preview", interactive=count > 1, elem_id="preview-number"
            )
            preview = gr.HTML(tab.preview(count), elem_id="preview")
        with gr.Column(scale=1, min_width=300):
            curves = gr.HTML(tab.curves(), elem_id="curves")
    timer = gr.Timer(REFRESH_SECONDS)
    listen(number.input, tab.preview, [number], [preview], trigger_mode="always_last", show_progress="hidden")
    outputs = [known, status, curves, number, preview]
    listen(timer.tick, tab.refresh, [known, number], outputs, show_progress="hidden")
